package lookuploop

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	simHistories = flag.Int("histories", 0, "how many histories TestSimulation plays; 0: 30, or 300 with -long")
	simSeed      = flag.Uint64("history.seed", 0, "the seed of the first history, the next has the next; 0 draws one")
	simKept      = flag.String("history.steps", "", "play these steps of the first history only, as a failure prints them")
)

// TestSimulation plays random histories in virtual time: a broker whose topics
// and channels come and go, from several goroutines, lookupds and a disk that
// fail in every way, addresses that are swapped, restarts and crashes. While it
// lasts, everything that is written must be true; once the faults stop, every
// lookupd knows what the broker has, Status says so, nsqd.dat holds it, and
// after Run nothing is left.
//
// A history is drawn from its seed before it is played. What isn't in it is the
// order in which goroutines run and the draws of the backoffs: a history that
// failed once may pass the next time, which is why it is played more than once
// while it is being shortened.
func TestSimulation(t *testing.T) {
	if *simHistories == 0 {
		*simHistories = inFull(300)
	}
	seed := *simSeed
	if seed == 0 {
		seed = uint64(rand.Uint32()) + 1
	}
	fmt.Printf("TestSimulation: -histories=%d -history.seed=%d\n", *simHistories, seed) // before anything can hang or crash
	draw := func(i int) *simHistory { return drawHistory(seed + uint64(i)) }
	if *simKept != "" {
		kept := drawHistory(seed).keep(parseSteps(t, *simKept))
		draw = func(int) *simHistory { return kept }
	}
	h, faults := playHistories(t, draw)
	if h == nil {
		return
	}
	if *simKept == "" {
		h, faults = shorten(t, h, faults)
	}
	t.Fatalf("%s\n\nThe history, shortened:\n%s\nPlay it again: go test -run=TestSimulation -histories=10 -history.seed=%d -history.steps=%s\nThe whole of it: go test -run=TestSimulation -histories=1 -history.seed=%d",
		strings.Join(faults, "\n"), h, h.seed, h.stepNumbers(), h.seed)
}

// playHistories plays them, as many at a time as there are processors, until
// one fails, and returns that one.
func playHistories(t *testing.T, draw func(int) *simHistory) (failed *simHistory, faults []string) {
	defer oneThreadForRaceDetector()()
	var mu sync.Mutex
	var players sync.WaitGroup
	next := 0
	nextHistory := func() *simHistory {
		mu.Lock()
		defer mu.Unlock()
		if failed != nil || next == *simHistories {
			return nil
		}
		next++
		return draw(next - 1)
	}
	for range runtime.GOMAXPROCS(0) {
		players.Go(func() {
			for h := nextHistory(); h != nil; h = nextHistory() {
				if f := playHistory(t, h); f != nil {
					mu.Lock()
					failed, faults = h, f
					mu.Unlock()
				}
			}
		})
	}
	players.Wait()
	return failed, faults
}

// playHistory plays it in a bubble of its own, and returns what went wrong.
func playHistory(t *testing.T, h *simHistory) (faults []string) {
	watchdog := time.AfterFunc(2*time.Minute, func() { // outside the bubble: real time
		panic(fmt.Sprintf("seed %d hangs:\n%s", h.seed, h))
	})
	defer watchdog.Stop()
	defer func() {
		if fault := recover(); fault != nil { // goroutines were left behind
			faults = append(faults, fmt.Sprint(fault))
		}
	}()
	synctest.Test(t, func(*testing.T) { faults = newSimWorld(h).play() })
	return faults
}

// shorten leaves out steps, as long as the history fails all the same.
func shorten(t *testing.T, h *simHistory, faults []string) (*simHistory, []string) {
	const plays = 4 // that a history gets to fail
	deadline := time.Now().Add(30 * time.Second)
	for size := len(h.steps) / 2; size > 0; size /= 2 {
		for from := 0; from+size <= len(h.steps) && time.Now().Before(deadline); {
			shorter := *h
			shorter.steps = slices.Delete(slices.Clone(h.steps), from, from+size)
			failed := false
			for range plays {
				if f := playHistory(t, &shorter); f != nil {
					h, faults, failed = &shorter, f, true
					break
				}
			}
			if !failed {
				from += size
			}
		}
	}
	return h, faults
}

// keep is the history with some of its steps only.
func (h *simHistory) keep(numbers []int) *simHistory {
	kept := *h
	kept.steps = slices.DeleteFunc(slices.Clone(h.steps), func(s simStep) bool { return !slices.Contains(numbers, s.number) })
	return &kept
}

// stepNumbers is what parseSteps takes.
func (h *simHistory) stepNumbers() string {
	var numbers []string
	for _, s := range h.steps {
		numbers = append(numbers, strconv.Itoa(s.number))
	}
	return strings.Join(numbers, ",")
}

func parseSteps(t *testing.T, text string) (numbers []int) {
	for _, word := range strings.Split(text, ",") {
		n, err := strconv.Atoi(word)
		require.NoError(t, err, "-history.steps are numbers with commas between")
		numbers = append(numbers, n)
	}
	return numbers
}
