package lookuploop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// simHistory is everything that happens in one simulation, drawn from a seed
// before it begins. Only the order in which goroutines run is not in it.
type simHistory struct {
	seed     uint64
	lookupds int
	setting  simSetting
	steps    []simStep
}

// simSetting is what stays the same all through a history.
type simSetting struct {
	latency    time.Duration
	buffer     int
	bandwidth  int
	maxBackoff time.Duration
	resync     time.Duration
	resolve    time.Duration // ResolveInterval; with 0 the Loop is given IP addresses, otherwise names
	heartbeat  time.Duration // with the long one nothing may wait for it
	preload    int           // topics with a channel each that are there from the beginning
	verify     time.Duration // VerifyInterval
	steady     bool          // nothing ever happens to the last lookupd
	refusal    simRefusal    // after all other faults one lookupd still refuses names
}

// simRefusal is how a lookupd refuses the names that begin with the words of a
// pattern; no pattern: it doesn't.
type simRefusal struct {
	pattern string
	how     string // a key of refusals
}

var refusals = map[string]lookupdtest.Order{
	"BadTopic":     lookupdtest.BadTopic(),
	"BadChannel":   lookupdtest.BadChannel(),
	"Reset":        lookupdtest.Reset(), // the answer is lost
	"Drop":         lookupdtest.Drop(),  // there is none
	"Reply":        lookupdtest.Reply("NO"),
	"never answer": lookupdtest.Raw(nil),
	"Hang":         lookupdtest.Hang(), // and nothing else is answered either
}

// has tells whether a name, "topic" or "topic channel", is refused.
func (s simRefusal) has(name string) bool {
	words, patterns := strings.Fields(name), strings.Fields(s.pattern)
	if len(patterns) == 0 || len(words) < len(patterns) {
		return false
	}
	for i, pattern := range patterns {
		if ok, _ := path.Match(pattern, words[i]); !ok {
			return false
		}
	}
	return true
}

// simStep is one thing that happens after a pause.
type simStep struct {
	number int
	pause  time.Duration
	name   string
	do     func(*simWorld)
}

const simSteps = 200

// simMaxLookupds is how many lookupds there are at most.
const simMaxLookupds = 4

// drawHistory is a pure function of its seed.
func drawHistory(seed uint64) *simHistory {
	r := simRandom{Rand: rand.New(rand.NewPCG(seed, 0))}
	h := &simHistory{
		seed: seed,
		setting: simSetting{
			latency:    pick(r, 0, 0, time.Millisecond, 20*time.Millisecond, 150*time.Millisecond),
			buffer:     pick(r, 64<<10, 64<<10, 1024, 64, 1),
			bandwidth:  pick(r, 0, 0, 0, 20_000),
			maxBackoff: pick(r, time.Second, 5*time.Second, 15*time.Second),
			resync:     pick(r, 0, 0, 7*time.Second),
			resolve:    pick(r, 0, 0, 4*time.Second, 5*time.Minute),
			heartbeat:  pick(r, simHeartbeat, time.Minute),
			verify:     pick(r, 0, 0, 10*time.Second),
			steady:     r.IntN(2) == 0,
			preload:    pick(r, 0, 3, 3, 30, 30, registry.ChunkSize+50),
			refusal: pick(r, simRefusal{}, simRefusal{"a", "BadTopic"}, simRefusal{"b x", "BadChannel"},
				simRefusal{"* x", pick(r, "BadChannel", "Reset", "Drop", "Reply", "Hang")},
				simRefusal{"preload*[02468]", pick(r, "BadTopic", "Reset", "Drop", "Reply")}),
		},
		lookupds: 2 + r.IntN(simMaxLookupds-1),
	}
	if h.setting.refusal.how == "Hang" || h.setting.buffer < 64 { // each name, or each byte, takes a while
		h.setting.preload = min(h.setting.preload, 30)
	}
	r.preload, r.lookupds, r.faulty = h.setting.preload, h.lookupds, h.lookupds
	if h.setting.steady {
		r.faulty--
	}
	if h.setting.latency > time.Millisecond { // or IDENTIFY would not arrive in time
		h.setting.buffer = max(h.setting.buffer, 4096)
	} else if h.setting.latency > 0 {
		h.setting.buffer = max(h.setting.buffer, 64)
	}
	for i := range simSteps {
		step := r.step()
		step.number = i
		h.steps = append(h.steps, step)
	}
	return h
}

func (h *simHistory) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d lookupds, %+v\n", h.lookupds, h.setting)
	for _, s := range h.steps {
		fmt.Fprintf(&b, "%4d +%-8v %s\n", s.number, s.pause, s.name)
	}
	return b.String()
}

// simRandom draws parts of a history.
type simRandom struct {
	*rand.Rand
	preload  int // topics of the history's setting
	lookupds int // that there are
	faulty   int // of them: the first
}

func pick[T any](r simRandom, from ...T) T { return from[r.IntN(len(from))] }

// step draws what happens next.
func (r simRandom) step() simStep {
	i := r.IntN(r.faulty)
	var name string
	var do func(*simWorld)
	switch n := r.IntN(100); {
	case n < 33:
		name, do = r.notify()
	case n < 35:
		n := 1 + r.IntN(r.lookupds)
		name, do = fmt.Sprintf("Registered(%d)", n), func(w *simWorld) { w.registered(n) }
	case n < 37:
		name, do = "Verify", func(w *simWorld) { w.background(w.verify) }
	case n < 38:
		batches := [][]Event{r.events(), r.events(), r.events()}
		name, do = fmt.Sprintf("Drain, and then every 200 ms one of %v", batches), func(w *simWorld) { w.drain(batches) }
	case n < 43:
		name, do = r.many()
	case n < 46:
		name, do = r.setMetadata()
	case n < 62:
		name, do = r.fault(i)
	case n < 78:
		n := r.IntN(100)
		name, do = fmt.Sprintf("lift fault %d", n), func(w *simWorld) { w.lift(n) }
	case n < 82:
		name, do = r.lose(i)
	case n < 86:
		name, do = r.addresses()
	case n < 89:
		name, do = r.diskFault()
	case n < 91:
		name, do = "disk is fine", func(w *simWorld) { w.disk.Order(nil) }
	case n < 94:
		name, do = "PersistMetadata", func(w *simWorld) { w.background(w.persist) }
	case n < 96:
		n := r.IntN(r.lookupds + 1)
		name, do = fmt.Sprintf("WaitRegistered(%d)", n), func(w *simWorld) { w.background(w.waitRegistered(n)) }
	case n < 97:
		name, do = "ask for channels", func(w *simWorld) { w.background(w.askChannels) }
	case n < 99:
		name, do = r.restart()
	default:
		n := r.Uint64()
		name, do = "crash of the machine", func(w *simWorld) { w.crash(n) }
	}
	pause := time.Duration(0)
	switch n := r.IntN(20); {
	case n < 8:
	case n < 15:
		pause = time.Duration(r.IntN(300)) * time.Millisecond
	case n < 19:
		pause = time.Duration(r.IntN(4000)) * time.Millisecond
	default:
		pause = time.Duration(5+r.IntN(25)) * time.Second
	}
	return simStep{pause: pause, name: name, do: do}
}

func (r simRandom) topic() string {
	if r.preload > 0 && r.IntN(5) == 0 {
		return simPreload(r.IntN(r.preload))
	}
	return pick(r, "a", "a", "b", "b", "c", "d#ephemeral")
}

// many draws a lot that happens at once, or one after the other amid a full sync.
func (r simRandom) many() (string, func(*simWorld)) {
	i, j := r.IntN(r.preload+1), r.IntN(r.preload+1)
	first, end, deleted := min(i, j), max(i, j), r.IntN(2) == 0
	if r.IntN(3) > 0 {
		return fmt.Sprintf("preload[%d:%d] at once, deleted: %v", first, end, deleted), func(w *simWorld) {
			w.notifyOnce(preloadEvents(first, end, deleted))
		}
	}
	var batches [][]Event
	for range 20 {
		batches = append(batches, r.events())
	}
	lookupd := r.IntN(r.faulty)
	return fmt.Sprintf("lookupd %d closes connections, and then every 10 ms one of %v", lookupd, batches), func(w *simWorld) {
		w.servers[lookupd].CloseConnections()
		for _, batch := range batches {
			time.Sleep(10 * time.Millisecond)
			w.notifyOnce(batch)
		}
	}
}

func (r simRandom) channel() string {
	return pick(r, "x", "x", "y", "y", "z#ephemeral")
}

// notify draws what one to three goroutines of the broker do at the same time.
func (r simRandom) notify() (string, func(*simWorld)) {
	goroutines := make([][][]Event, 1+r.IntN(3))
	for i := range goroutines {
		for range 1 + r.IntN(3) {
			goroutines[i] = append(goroutines[i], r.events())
		}
	}
	return fmt.Sprintf("notify %v", goroutines), func(w *simWorld) { w.notify(goroutines) }
}

// events draws the events of one call of Notify, which may be impossible.
func (r simRandom) events() []Event {
	topic, channel := r.topic(), r.channel()
	switch r.IntN(12) {
	case 0:
		return []Event{TopicDeleted(topic), TopicCreated(topic)} // it flaps
	case 1:
		return []Event{ChannelDeleted(topic, channel), TopicCreated(topic), ChannelCreated(topic, channel)}
	case 2, 3, 4:
		return []Event{TopicCreated(topic), ChannelCreated(topic, channel)}
	}
	return []Event{pick(r,
		TopicCreated(topic), TopicDeleted(topic), TopicPaused(topic), TopicUnpaused(topic),
		ChannelCreated(topic, channel), ChannelDeleted(topic, channel), ChannelDeleted(topic, channel),
		ChannelPaused(topic, channel), ChannelUnpaused(topic, channel))}
}

func (r simRandom) setMetadata() (string, func(*simWorld)) {
	var m Metadata
	for _, name := range []string{"a", "b", "c", "d#ephemeral"} {
		if r.IntN(2) == 0 {
			continue
		}
		t := TopicMetadata{Name: name, Paused: r.IntN(4) == 0}
		for _, channel := range []string{"x", "y", "z#ephemeral"} {
			if r.IntN(2) == 0 {
				t.Channels = append(t.Channels, ChannelMetadata{channel, r.IntN(4) == 0})
			}
		}
		m.Topics = append(m.Topics, t)
	}
	return fmt.Sprintf("SetMetadata %v", m), func(w *simWorld) { w.setMetadata(m) }
}

// fault draws an order for lookupd i, for once or until it is lifted.
func (r simRandom) fault(i int) (string, func(*simWorld)) {
	switch r.IntN(8) {
	case 0:
		return fmt.Sprintf("lookupd %d is partitioned", i), func(w *simWorld) {
			w.addFault(w.network.Partition(w.servers[i].TCPAddress))
		}
	case 1:
		return r.dnsFault(i)
	}
	name, order, isSlow := r.order()
	if r.IntN(3) > 0 && !strings.HasPrefix(name, "Cut") {
		after := r.IntN(6)
		name, order = fmt.Sprintf("Once(After(%d, %s))", after, name), lookupdtest.Once(lookupdtest.After(after, order))
	}
	return fmt.Sprintf("lookupd %d: %s", i, name), func(w *simWorld) {
		if isSlow {
			w.slow[w.servers[i].TCPAddress] = true
		}
		w.addFault(w.servers[i].Do(order))
	}
}

// dnsFault draws what is wrong with the name of lookupd i until it is lifted.
func (r simRandom) dnsFault(i int) (string, func(*simWorld)) {
	ip := simIP(i)
	var what string
	var lookUp func(context.Context) ([]string, error)
	switch r.IntN(5) {
	case 0:
		what = "is not in DNS"
	case 1:
		what, lookUp = "has no addresses", func(context.Context) ([]string, error) { return nil, nil }
	case 2:
		what, lookUp = "is not answered for", hangs
	case 3:
		d := pick(r, time.Millisecond, time.Second, 4*time.Second)
		what, lookUp = fmt.Sprintf("is answered for after %v", d), after(d, ip)
	default:
		what, lookUp = "is answered for with an error", func(context.Context) ([]string, error) { return []string{ip}, errNoSuchHost }
	}
	return fmt.Sprintf("the name of lookupd %d %s", i, what), func(w *simWorld) {
		w.dns.does(simName(i), lookUp)
		w.addFault(func() { w.dns.knows(simName(i), ip) })
	}
}

// order draws one, and tells whether it makes a lookupd slow that goes on answering.
func (r simRandom) order() (name string, order lookupdtest.Order, isSlow bool) {
	switch r.IntN(20) {
	case 0:
		return "Hang", lookupdtest.Hang(), false
	case 1:
		return "Blackhole", lookupdtest.Blackhole(), false
	case 2:
		return "HalfOpen", lookupdtest.HalfOpen(), false
	case 3:
		return "Refuse", lookupdtest.Refuse(), false
	case 4:
		return "Hangup", lookupdtest.Hangup(), false
	case 5:
		if r.IntN(2) == 0 {
			n := pick(r, 20, 200, 2000)
			return fmt.Sprintf("Rate(%d)", n), lookupdtest.Rate(n), true
		}
		d := pick(r, time.Millisecond, 50*time.Millisecond, 1100*time.Millisecond)
		return fmt.Sprintf("Delay(%v)", d), lookupdtest.Delay(d), true
	case 6:
		d := pick(r, time.Millisecond, 100*time.Millisecond, 400*time.Millisecond)
		return fmt.Sprintf("Drip(%v)", d), lookupdtest.Drip(d), true
	case 7:
		n := r.IntN(700)
		return fmt.Sprintf("CutReceived(%d)", n), lookupdtest.CutReceived(n), false
	case 8:
		n := r.IntN(300)
		return fmt.Sprintf("CutSent(%d)", n), lookupdtest.CutSent(n), false
	case 9:
		return "Drop", lookupdtest.Drop(), false
	case 10:
		return "Reset", lookupdtest.Reset(), false
	case 11:
		return "Restart", lookupdtest.Once(lookupdtest.Restart()), false
	case 12, 13, 14:
		pattern := pick(r, "REGISTER "+r.topic(), "REGISTER "+r.topic()+" "+r.channel(), "* "+r.topic(),
			"REGISTER preload*[02468]", "REGISTER * x", "REGISTER *")
		how := pick(r, "BadTopic", "BadTopic", "BadChannel", "BadChannel", "Reset", "Drop", "Reply", "Hang", "never answer")
		return fmt.Sprintf("On(%q, %s)", pattern, how), lookupdtest.On(pattern, refusals[how]), false
	case 15:
		message := pick(r, "E_INVALID", "E_BAD_TOPIC", "E_BAD_BODY no", "E_")
		return fmt.Sprintf("Reject(%q)", message), lookupdtest.Reject(message), false
	case 16:
		n := pick[int32](r, -1, 0, 1<<31-1, simMaxResponse+1, simMaxResponse)
		return fmt.Sprintf("Length(%d)", n), lookupdtest.Length(n), false
	case 17:
		seed := r.Uint64()
		return fmt.Sprintf("Garbage(%d, 50)", seed), lookupdtest.Garbage(seed, 50), false
	case 18:
		if r.IntN(2) == 0 {
			return "SpeakHTTP", lookupdtest.SpeakHTTP(), false
		}
		return `Reply("NO")`, lookupdtest.Reply("NO"), false
	default:
		if r.IntN(2) == 0 {
			return "Twice", lookupdtest.Twice(), false
		}
		return `Unasked("OK")`, lookupdtest.Unasked("OK"), false
	}
}

// lose draws how lookupd i loses its connections, and perhaps what it knows.
func (r simRandom) lose(i int) (string, func(*simWorld)) {
	switch r.IntN(4) {
	case 0:
		return fmt.Sprintf("lookupd %d stops", i), func(w *simWorld) {
			w.servers[i].Stop()
			w.addFault(w.servers[i].Start)
		}
	case 1:
		times, up, down := 1+r.IntN(5), pick[time.Duration](r, 0, 20, 300, 900)*time.Millisecond, pick[time.Duration](r, 0, 0, 100)*time.Millisecond
		return fmt.Sprintf("lookupd %d is restarted %d times, up for %v, down for %v", i, times, up, down), func(w *simWorld) {
			for range times {
				w.servers[i].Stop()
				time.Sleep(down)
				w.servers[i].Start()
				time.Sleep(up)
			}
		}
	case 2:
		return fmt.Sprintf("lookupd %d closes connections", i), func(w *simWorld) { w.servers[i].CloseConnections() }
	default:
		return fmt.Sprintf("connections to lookupd %d are reset", i), func(w *simWorld) { w.network.Reset(w.servers[i].TCPAddress) }
	}
}

func (r simRandom) addresses() (string, func(*simWorld)) {
	chosen := r.Perm(r.faulty)[:r.IntN(r.faulty+1)]
	if r.faulty < r.lookupds {
		chosen = append(chosen, r.faulty)
	}
	return fmt.Sprintf("addresses of %v", chosen), func(w *simWorld) { w.setAddresses(chosen) }
}

// diskFault draws what goes wrong at a step of writing, or at every step.
func (r simRandom) diskFault() (string, func(*simWorld)) {
	step := pick(r, "", "create", "write", "sync", "close", "rename", "sync directory")
	f := nsqdattest.Fault{Err: errDiskFull, Done: r.IntN(3) == 0}
	return fmt.Sprintf("disk is full at %q, done: %v", step, f.Done), func(w *simWorld) { w.breakDisk(step, f) }
}

func (r simRandom) restart() (string, func(*simWorld)) {
	goroutines := make([][][]Event, r.IntN(3))
	for i := range goroutines {
		goroutines[i] = [][]Event{r.events(), r.events()}
	}
	return fmt.Sprintf("restart of the Loop while %v", goroutines), func(w *simWorld) { w.restart(goroutines) }
}
