package lookuploop

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
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

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/resolve"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

var (
	simHistories = flag.Int("histories", 0, "how many histories TestSimulation plays; 0: 10, or 100 with -long; a fifth of that under the race detector")
	simSeed      = flag.Uint64("history.seed", 0, "the seed of the first history, the next has the next; 0 draws one")
	simKept      = flag.String("history.steps", "", "play these steps of the first history only, as a failure prints them")
)

// TestSimulation plays random histories in virtual time: a broker whose topics
// and channels come and go, from several goroutines, lookupds and a disk that
// fail in every way, addresses that are swapped, restarts and crashes. While it
// lasts, everything that is written must be true, and so must what WaitRegistered,
// Registered, PersistMetadata, Drain and Verify say; a lookupd that has no fault stays
// connected, and up to date but for what the network takes. Once the faults stop, every
// lookupd knows what the broker has, Status says so, nsqd.dat holds it, and
// after Run nothing is left.
//
// A history is drawn from its seed before it is played. What isn't in it is the
// order in which goroutines run and the draws of the backoffs: a history that
// failed once may pass the next time, which is why it is played more than once
// while it is being shortened.
func TestSimulation(t *testing.T) {
	if *simHistories == 0 {
		*simHistories = inFull(100)
		if hasRaceDetector() { // each takes eight times as long
			*simHistories /= 5
		}
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

// finish ends all faults, and holds what comes of it against what is promised.
func (w *simWorld) finish() {
	w.tasks.Wait()
	w.steadySince = time.Time{}
	for len(w.lifts) > 0 {
		w.lift(0)
	}
	w.disk.Order(nil)
	if len(w.configured) == 0 {
		w.setAddresses([]int{0, 1})
	}
	w.converge()
	w.checkRefusal()
	w.checkStatus()
	w.checkDisk()
	w.checkEnd()
	w.checkWrites()
	w.checkHeartbeats()
}

// settle is when everything that was under way has arrived, after the faults.
// An answer that was left out is missed at the last command, behind which a PING can
// be that was just sent.
func (w *simWorld) settle() {
	time.Sleep(2*simTimeout + 4*w.history.setting.latency)
	synctest.Wait()
}

// bound is how long it may take until every lookupd knows everything, once
// faults have stopped: an attempt that still fails, a backoff, and some round trips
// of the main connection and of a probe, which asks in groups that grow.
func (w *simWorld) bound() time.Duration {
	s := w.history.setting
	dns := time.Duration(0)
	if s.resolve > 0 {
		dns = resolve.Timeout + 2*time.Second // a look-up that still hangs, and a pause
	}
	return dns + 2*simTimeout + s.maxBackoff + 20*w.roundTrip() + time.Second
}

// roundTrip is what a question and its answer take, on a new connection as well.
func (w *simWorld) roundTrip() time.Duration {
	d := 2 * w.history.setting.latency
	if w.history.setting.bandwidth > 0 {
		d += 20 * time.Millisecond
	}
	return d
}

// converge waits until the lookupds know everything.
func (w *simWorld) converge() {
	// What a lookupd said in its delusion may be under way still.
	w.settle()
	wait := func(n int) error {
		ctx, cancel := context.WithTimeout(context.Background(), w.bound())
		defer cancel()
		return w.loop.WaitRegistered(ctx, n)
	}
	err := wait(0)
	// The pauses double, so one is as long as it took to come there.
	retried := min(time.Since(w.began), registry.MaxRetryDelay) + w.history.setting.maxBackoff + w.bound()
	for began := time.Now(); errors.As(err, new(*ResponseError)); err = wait(0) {
		if others := len(w.configured) - w.refusing(); others > 0 {
			if err := wait(others); err != nil && !errors.As(err, new(*ResponseError)) {
				w.failf("those that refuse nothing: %v", err)
				return
			}
		}
		for w.refusing() > 0 {
			w.pause(time.Second)
			if time.Since(began) > retried {
				w.failf("still refused after %v: %v", retried, err)
				return
			}
		}
	}
	if err != nil {
		w.failf("after the faults: %v", err)
		return
	}
	w.checkDatabases(func(producers int) bool { return producers > 0 })
	w.settle()
	w.checkDatabases(func(producers int) bool { return producers == 1 })
	w.checkNothingElse()
}

// checkRefusal lets a lookupd refuse names, which must not keep it from hearing of
// the others, nor these from being listed from then on.
func (w *simWorld) checkRefusal() {
	refusal := w.history.setting.refusal
	if refusal.pattern == "" || len(w.faults) > 0 {
		return
	}
	w.notifyOnce(preloadEvents(0, w.history.setting.preload, false))
	w.converge()
	names, refused := w.model.broker.names(), 0
	for name := range names {
		if refusal.has(name) {
			refused++
		}
	}
	server := w.servers[w.configured[0]]
	lift := server.Do(lookupdtest.On("REGISTER "+refusal.pattern, refusals[refusal.how]))
	server.CloseConnections()
	isMissing := func() (missing string) {
		known := registrations(server)
		for name := range names {
			if known[name] != 1 && !refusal.has(name) {
				missing = name
			}
		}
		return missing
	}
	// Pauses that end with the first answer, and for each refused name some connections.
	each := 5 * 2 * w.roundTrip()
	switch refusal.how { // to find it among the others
	case "Reset", "Drop", "Reply":
		each = 10 * 2 * w.roundTrip()
	case "Hang":
		each = 10 * (2*w.roundTrip() + simTimeout)
	}
	soon := 3*time.Second + time.Duration(refused+2)*each + 4*w.transfer(40*len(names)) // two syncs that break, the probe, and a sync
	w.pause(soon)
	for range 20 {
		if name := isMissing(); name != "" {
			w.failf("lookupd %d refuses %v and doesn't list %q %v later", w.configured[0], refusal, name, soon)
			return
		}
		w.pause(500 * time.Millisecond)
	}
	w.pause(time.Duration(refused) * (300*time.Millisecond + each)) // the last trials of those at which it closes
	for _, r := range w.loop.Status().Lookupds[0].Refused {
		if name := strings.TrimSpace(r.Topic + " " + r.Channel); !refusal.has(name) && !refusal.has(r.Topic+" x") {
			w.failf("lookupd %d refuses %v, and Status says %v", w.configured[0], refusal, r)
		}
		refused--
	}
	if isByTopic := !strings.Contains(refusal.pattern, " "); !isByTopic && refused != 0 {
		w.failf("lookupd %d refuses %v, and Status misses %d of them", w.configured[0], refusal, refused)
	}
	lift()
	w.converge()
}

// refusing counts the lookupds that refuse names.
func (w *simWorld) refusing() (n int) {
	for _, s := range w.loop.Status().Lookupds {
		if len(s.Refused) > 0 {
			n++
		}
	}
	return n
}

// registrations counts the producers of each "topic" and "topic channel" that a server knows.
func registrations(s *lookupdtest.Server) map[string]int {
	known := make(map[string]int)
	for _, topic := range s.Topics() {
		known[topic] = len(s.Producers(topic, ""))
		for _, channel := range s.Channels(topic) {
			known[topic+" "+channel] = len(s.Producers(topic, channel))
		}
	}
	maps.DeleteFunc(known, func(_ string, producers int) bool { return producers == 0 })
	return known
}

func (w *simWorld) checkDatabases(right func(producers int) bool) {
	for _, i := range w.configured {
		known := registrations(w.servers[i])
		for name := range w.model.broker.names() {
			if !right(known[name]) {
				w.failf("lookupd %d lists %q %d times", i, name, known[name])
			}
		}
	}
}

// checkNothingElse checks that no lookupd knows what isn't there, and those
// that aren't configured nothing at all.
func (w *simWorld) checkNothingElse() {
	names := w.model.broker.names()
	for i, s := range w.servers {
		for name := range registrations(s) {
			if !slices.Contains(w.configured, i) || !names[name] {
				w.failf("lookupd %d lists %q in vain", i, name)
			}
		}
	}
}

func (w *simWorld) checkStatus() {
	status := w.loop.Status()
	for i, s := range status.Lookupds {
		if want := w.servers[w.configured[i]].TCPAddress; s.Address != want || s.State != Connected || s.Pending != 0 || s.LastError != nil || len(s.Refused) > 0 {
			w.failf("status of %s: %+v", want, s)
		}
	}
	names := w.model.broker.names()
	for _, n := range status.Names {
		if len(n.Addresses) != 1 {
			w.failf("status of %s: %+v", n.Name, n)
		}
	}
	if len(status.Lookupds) != len(w.configured) || status.Topics+status.Channels != len(names) {
		w.failf("status: %+v", status)
	}
	if err := w.loop.Registered(0); err != nil {
		w.failf("everything is registered, and Registered says %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute) // each look asks about 200 topics
	defer cancel()
	if v, err := w.loop.Verify(ctx); err != nil || len(v.Findings) > 0 {
		w.failf("all is well, and Verify says %v: %v", v.Findings, err)
	}
	if got, want := fmt.Sprint(sorted(w.loop.Metadata())), fmt.Sprint(w.model.broker.metadata()); got != want {
		w.failf("Metadata: %s instead of %s", got, want)
	}
}

func (w *simWorld) checkDisk() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := w.loop.PersistMetadata(ctx); err != nil {
		w.failf("PersistMetadata after the faults: %v", err)
	}
	var m Metadata
	err := json.Unmarshal([]byte(w.disk.Files()[nsqdat.Name]), &m)
	if got, want := persistentText(m), persistentText(w.model.broker.metadata()); err != nil || got != want {
		w.failf("on disk is %q (%v) instead of %q", got, err, want)
	}
	if s := w.loop.Status().Metadata; s.Dirty || s.LastError != nil {
		w.failf("status of the metadata: %+v", s)
	}
}

// checkEnd ends the Loop and looks at what it leaves behind.
func (w *simWorld) checkEnd() {
	if err := w.end(); err != nil {
		w.failf("Run: %v", err)
	}
	w.settle()
	for i, s := range w.servers {
		if n := s.Connections(); n > 0 {
			w.failf("lookupd %d has %d connections after the end", i, n)
		}
		if known := registrations(s); len(known) > 0 {
			w.failf("lookupd %d lists %v after the end", i, known)
		}
	}
	for _, i := range w.configured {
		for name := range w.model.broker.names() {
			topic, channel, isChannel := strings.Cut(name, " ")
			if known := w.servers[i].Topics(); !isChannel && strings.HasSuffix(topic, registry.EphemeralSuffix) && slices.Contains(known, topic) {
				w.failf("lookupd %d keeps the ephemeral %s", i, name)
			}
			if known := w.servers[i].Channels(topic); strings.HasSuffix(channel, registry.EphemeralSuffix) && slices.Contains(known, channel) {
				w.failf("lookupd %d keeps the ephemeral %s", i, name)
			}
		}
	}
}
