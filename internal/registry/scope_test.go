package registry

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	long   = flag.Bool("long", false, "play in full what tests otherwise do a part of")
	states = flag.Int("states", 0, "how many states TestEveryShortHistory looks at; 0: 5,000, or 5,000,000 with -long")
)

// scopeMove is one step of a history. It tells whether there was anything to do.
type scopeMove struct {
	name string
	play func(*registryWorld, require.TestingT) bool

	isDislike bool // only what the first lookupd dislikes changes
	asks      bool // what the first lookupd dislikes matters
}

// mayLead tells whether m can be played before last instead of after it, with the same
// result. Then only m before last is played.
func (m scopeMove) mayLead(last scopeMove) bool {
	return m.isDislike && !last.asks
}

// The two topics have a channel each, of which one is ephemeral.
var scopeNames = []string{"a", "a x", "b", "b y#ephemeral"}

// scopeMoves are all that can happen; only the first lookupd dislikes names.
var scopeMoves = func() (moves []scopeMove) {
	add := func(name string, play func(*registryWorld, require.TestingT) bool) *scopeMove {
		moves = append(moves, scopeMove{name: name, play: play})
		return &moves[len(moves)-1]
	}
	dislike := func(name, refused, closesAt string) {
		add(name, func(w *registryWorld, _ require.TestingT) bool { return w.peers[0].dislike(refused, closesAt) }).isDislike = true
	}
	for _, name := range scopeNames {
		add("flip "+name, func(w *registryWorld, _ require.TestingT) bool { return w.flip(name) })
		dislike("refuse "+name, name, "")
		dislike("close at "+name, "", name)
	}
	dislike("refuse nothing", "", "")
	add("wait", func(w *registryWorld, _ require.TestingT) bool {
		w.now = w.now.Add(2 * MaxRetryDelay)
		return true
	})
	for i := range 2 {
		peer := func(name string, play func(*modelPeer, require.TestingT) bool) {
			m := add(fmt.Sprintf("lookupd %d: %s", i+1, name), func(w *registryWorld, t require.TestingT) bool { return play(w.peers[i], t) })
			verb, _, _ := strings.Cut(strings.ReplaceAll(name, ",", ""), " ")
			m.asks = i == 0 && slices.Contains([]string{"serve", "ask", "end"}, verb)
		}
		peer("connect", func(p *modelPeer, _ require.TestingT) bool {
			isNew := !p.main.isUp
			p.connect()
			return isNew
		})
		for n := 1; n <= 2; n++ {
			peer(fmt.Sprint("read ", n), func(p *modelPeer, t require.TestingT) bool { p.read(t, n); return p.main.isUp })
			peer(fmt.Sprint("ask ", n), func(p *modelPeer, t require.TestingT) bool { p.ask(t, n); return p.main.isUp })
		}
		for _, loses := range []bool{false, true} {
			serving := func(p *modelPeer, serve func()) {
				p.losesRefusals = loses
				defer func() { p.losesRefusals = false }()
				serve()
			}
			peer(fmt.Sprint("serve, refusals lost: ", loses), func(p *modelPeer, t require.TestingT) bool {
				busy := len(p.main.arriving) > 0
				serving(p, func() { p.serve(t, 1) })
				return busy
			})
			peer(fmt.Sprint("serve the probe, refusals lost: ", loses), func(p *modelPeer, t require.TestingT) bool {
				busy := len(p.probe.arriving) > 0
				serving(p, func() { p.serveProbe(t, 1) })
				return busy
			})
			peer(fmt.Sprint("end, refusals lost: ", loses), func(p *modelPeer, t require.TestingT) bool {
				wasUp := p.main.isUp
				serving(p, func() { p.leave(t) })
				p.lose(false)
				return wasUp
			})
			peer(fmt.Sprint("lose, severed: ", loses), func(p *modelPeer, _ require.TestingT) bool {
				wasUp := p.main.isUp
				p.lose(loses)
				return wasUp
			})
			peer(fmt.Sprint("lose the probe, severed: ", loses), func(p *modelPeer, _ require.TestingT) bool {
				wasUp := p.probe.isUp
				p.loseProbe(loses)
				return wasUp
			})
		}
		peer("answer", func(p *modelPeer, _ require.TestingT) bool {
			busy := len(p.main.answers) > 0
			p.answer(1)
			return busy
		})
		peer("answer the probe", func(p *modelPeer, _ require.TestingT) bool {
			busy := len(p.probe.answers) > 0
			p.answerProbe(1)
			return busy
		})
		peer("resync", func(p *modelPeer, _ require.TestingT) bool { p.resync(); return p.main.isUp })
	}
	return moves
}()

// flip creates what there is not, and deletes what there is.
func (w *registryWorld) flip(name string) bool {
	topic, channel, isChannel := strings.Cut(name, " ")
	c := Change{TopicCreated, topic, channel}
	if isChannel {
		c.Kind = ChannelCreated
	}
	if w.truth[name] {
		c.Kind++ // the deletion
	}
	if isChannel && !w.truth[topic] {
		return false
	}
	w.change(c)
	return true
}

// dislike makes lookupd refuse one name, or close at it, and no other.
func (p *modelPeer) dislike(refused, closesAt string) bool {
	one := func(name string) map[string]bool {
		if name == "" {
			return nil
		}
		p.disliked[name] = true
		return map[string]bool{name: true}
	}
	before, closed := p.refuses, p.closes
	p.refuses, p.closes = one(refused), one(closesAt)
	return !maps.Equal(before, p.refuses) || !maps.Equal(closed, p.closes)
}

// scopeRoots are where histories begin.
var scopeRoots = []func(*registryWorld, require.TestingT){
	func(*registryWorld, require.TestingT) {},
	func(w *registryWorld, t require.TestingT) { w.flipAll(); w.talk(t) },
	func(w *registryWorld, t require.TestingT) { w.peers[0].dislike("a", ""); w.flipAll(); w.talk(t) },
	func(w *registryWorld, t require.TestingT) { w.peers[0].dislike("a x", ""); w.flipAll(); w.talk(t) },
	func(w *registryWorld, t require.TestingT) {
		w.peers[0].dislike("", "b y#ephemeral")
		w.flipAll()
		w.talk(t)
	},
}

func (w *registryWorld) flipAll() {
	for _, name := range scopeNames {
		w.flip(name)
	}
}

// talk lets everybody learn most of what there is.
func (w *registryWorld) talk(t require.TestingT) {
	for round := 0; round < 8 && (round == 0 || slices.ContainsFunc(w.peers, (*modelPeer).isBusy)); round++ {
		for _, p := range w.peers {
			p.connect()
			p.read(t, 4)
			p.serve(t, 4)
			p.answer(4)
			p.ask(t, 4)
			p.serveProbe(t, 4)
			p.answerProbe(4)
		}
	}
}

// isBusy tells whether something is on its way, or due.
func (p *modelPeer) isBusy() bool {
	isProbeDue, _ := p.reg.NeedsProbe(p.cursor, p.now)
	return len(p.main.inFlight()) > 0 || p.probe.isUp || isProbeDue || p.reg.pending(p.cursor) > 0
}

// history is a root, and moves.
type history struct {
	root  byte
	moves string // one byte each
}

func (h history) String() string {
	steps := []string{fmt.Sprint("root ", h.root)}
	for _, m := range []byte(h.moves) {
		steps = append(steps, scopeMoves[m].name)
	}
	return strings.Join(steps, "\n")
}

func (h history) play(t require.TestingT) *registryWorld {
	w := newRegistryWorld(2)
	scopeRoots[h.root](w, t)
	for _, m := range []byte(h.moves) {
		scopeMoves[m].play(w, t)
	}
	return w
}

// TestHistoriesThatFailedOnce plays short histories after one of which the registry
// panicked, and after the others asked lookupd about one name for ever.
func TestHistoriesThatFailedOnce(t *testing.T) {
	for name, h := range map[string]history{
		"lookupd still closes when it is tried again":       historyOf(4, "wait"),
		"a channel in doubt, and then its topic is refused": historyOf(4, "refuse b", "wait", "lookupd 1: ask 1", "lookupd 1: resync"),
		"lookupd closes at a name that passed the probe":    historyOf(4, "refuse a", "wait", "lookupd 1: ask 1", "lookupd 1: serve the probe, refusals lost: false", "close at b y#ephemeral"),
		"lookupd refuses what a probe asked that ends":      historyOf(4, "refuse b y#ephemeral", "wait", "lookupd 1: ask 1", "lookupd 1: end, refusals lost: false"),
		"the topic of a refused channel is refused":         historyOf(3, "refuse a", "flip a x", "flip a x"),
	} {
		t.Run(name, func(t *testing.T) { h.play(t).settle(t) })
	}
}

func historyOf(root byte, names ...string) history {
	h := history{root: root}
	for _, name := range names {
		m := slices.IndexFunc(scopeMoves, func(m scopeMove) bool { return m.name == name })
		h.moves += string(rune(m))
	}
	return h
}

// scopeFault is a require.TestingT whose FailNow panics with what is wrong.
type scopeFault string

func (f *scopeFault) Errorf(format string, args ...any) {
	*f = scopeFault(fmt.Sprintf(format, args...))
}
func (f *scopeFault) FailNow() { panic(*f) }

// scope is what TestEveryShortHistory has seen. The workers of a length share it.
type scope struct {
	mu      sync.Mutex
	seen    map[uint64]bool // by hashOf
	settled map[uint64]bool // amid settle, by hashOf and step
	next    []history       // the shortest to the states that are new
	failed  error
}

// TestMovesThatMayLead plays moves behind, and in front of, others amid random
// histories.
func TestMovesThatMayLead(t *testing.T) {
	for range 1000 {
		h := history{root: byte(rand.N(len(scopeRoots)))}
		for range rand.N(12) {
			h.moves += string(rune(rand.N(len(scopeMoves))))
		}
		w := h.play(t)
		for range 30 {
			m, last := scopeMoves[rand.N(len(scopeMoves))], scopeMoves[rand.N(len(scopeMoves))]
			if !m.mayLead(last) {
				continue
			}
			behind, front := cloneOf(w), cloneOf(w)
			last.play(behind, t)
			m.play(behind, t)
			m.play(front, t)
			if !last.isDislike { // the later dislike replaces the earlier one
				last.play(front, t)
			}
			require.Equal(t, hashOf(behind), hashOf(front), "%s and %s after %v", last.name, m.name, h)
		}
	}
}

// TestEveryShortHistory plays all histories of two topics, with a channel each,
// and two lookupds, from a few beginnings and up to a length. In each state that
// is new it checks what TestRegistryConvergesAtEveryLookupd does, and that from
// there everybody learns everything once the faults have ended.
func TestEveryShortHistory(t *testing.T) {
	if *states == 0 {
		*states = 5000
		if *long {
			*states = 5_000_000
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))         // worlds are made and thrown away
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30)) // but not kept for long where memory is short
	s := &scope{seen: make(map[uint64]bool), settled: make(map[uint64]bool)}
	for root := range scopeRoots {
		h := history{root: byte(root)}
		s.try(h, func(t require.TestingT) { s.visit(t, h, h.play(t)) })
	}
	started := time.Now()
	length := 0
	for ; len(s.next) > 0 && !s.isDone(); length++ {
		front := s.next
		s.next = nil
		var workers sync.WaitGroup
		n := runtime.GOMAXPROCS(0)
		for i := range n {
			workers.Go(func() {
				for j := i; j < len(front) && !s.isDone(); j += n {
					s.extend(front[j])
				}
			})
		}
		workers.Wait()
		t.Logf("after up to %d moves: %d states", length+1, len(s.seen))
	}
	t.Logf("all histories of up to %d moves, and some of the next length: %d states in %v", length-1, len(s.seen), time.Since(started))
	require.NoError(t, s.failed)
}

func (s *scope) isDone() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed != nil || len(s.seen) >= *states
}

// extend plays h with each move behind it.
func (s *scope) extend(h history) {
	w := h.play(new(scopeFault))
	var clone *registryWorld // of w; nil: it is to be made
	for m, move := range scopeMoves {
		if n := len(h.moves); n > 0 && move.mayLead(scopeMoves[h.moves[n-1]]) {
			continue
		}
		longer := history{h.root, h.moves + string(rune(m))}
		s.try(longer, func(t require.TestingT) {
			if clone == nil {
				clone = cloneOf(w)
			}
			if move.play(clone, t) {
				moved := clone
				clone = nil
				s.visit(t, longer, moved)
			}
		})
	}
}

// visit checks the state that h led to, if it is new, and spends it.
func (s *scope) visit(t require.TestingT, h history, w *registryWorld) {
	hash := hashOf(w)
	s.mu.Lock()
	isNew := !s.seen[hash]
	if isNew {
		s.seen[hash] = true
		s.next = append(s.next, h)
	}
	s.mu.Unlock()
	if isNew {
		w.check(t)
		w.wasSettled = s.wasSettled
		w.settle(t)
	}
}

func (s *scope) wasSettled(w *registryWorld, step int) bool {
	hash := hashOf(w) + uint64(step)
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.settled[hash]
	s.settled[hash] = true
	return was
}

// try notes that h fails if f panics, as a scopeFault or by itself.
func (s *scope) try(h history, f func(require.TestingT)) {
	defer func() {
		if fault := recover(); fault != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.failed = fmt.Errorf("%v\nafter %v", fault, h)
		}
	}()
	f(new(scopeFault))
}
