package registry

import (
	"flag"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// TestRegistryConvergesAtEveryLookupd plays random histories over the real
// registry, with models of nsqlookupd behind connections that may be lost at
// any point, chunks that end anywhere, names that are refused, refusals that
// get lost, resyncs, and lookupds that lag too many deletions. After each step
// it holds what every cursor claims to be acknowledged against what its
// lookupd knows.
func TestRegistryConvergesAtEveryLookupd(t *testing.T) {
	setRapidDefault(t, "checks", "1500")
	setRapidDefault(t, "steps", "80")
	rapid.Check(t, func(t *rapid.T) {
		w := newRegistryWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"":               func(t *rapid.T) { w.check(t) },
			"create topic":   func(t *rapid.T) { w.change(Change{TopicCreated, drawTopic(t), ""}) },
			"delete topic":   func(t *rapid.T) { w.change(Change{TopicDeleted, drawTopic(t), ""}) },
			"create channel": func(t *rapid.T) { w.change(Change{ChannelCreated, drawTopic(t), drawChannel(t)}) },
			"delete channel": func(t *rapid.T) { w.change(Change{ChannelDeleted, drawTopic(t), drawChannel(t)}) },
			"flap channel": func(t *rapid.T) {
				topic, channel := drawTopic(t), drawChannel(t)
				w.change(Change{ChannelDeleted, topic, channel})
				w.change(Change{ChannelCreated, topic, channel})
			},
			"flap topic": func(t *rapid.T) {
				topic := drawTopic(t)
				w.change(Change{TopicDeleted, topic, ""})
				w.change(Change{TopicCreated, topic, ""})
			},
			"declare": func(t *rapid.T) { w.declare(t) },
			"connect": func(t *rapid.T) { w.drawPeer(t).connect() },
			"read":    func(t *rapid.T) { w.drawPeer(t).read(t, rapid.IntRange(1, 4).Draw(t, "limit")) },
			"serve":   func(t *rapid.T) { w.drawPeer(t).serve(t, rapid.IntRange(1, 3).Draw(t, "n")) },
			"answer":  func(t *rapid.T) { w.drawPeer(t).answer(rapid.IntRange(1, 3).Draw(t, "n")) },
			"lose":    func(t *rapid.T) { w.drawPeer(t).lose() },
			"resync":  func(t *rapid.T) { w.drawPeer(t).resync() },
			"retry":   func(t *rapid.T) { w.drawPeer(t).retry(t) },
			"change the refused": func(t *rapid.T) {
				p := w.drawPeer(t)
				p.refuses = rapid.SampledFrom([]string{"", "", "a", "b", "a x", "b y"}).Draw(t, "refused")
			},
		})
		w.settle(t)
	})
}

// setRapidDefault sets a flag of rapid for this test, unless the command line does.
func setRapidDefault(t *testing.T, name, value string) {
	name = "rapid." + name
	isGiven := false
	flag.Visit(func(f *flag.Flag) { isGiven = isGiven || f.Name == name })
	if isGiven {
		return
	}
	before := flag.Lookup(name).Value.String()
	require.NoError(t, flag.Set(name, value))
	t.Cleanup(func() { flag.Set(name, before) })
}

func drawTopic(t *rapid.T) string { return rapid.SampledFrom([]string{"a", "b"}).Draw(t, "topic") }
func drawChannel(t *rapid.T) string {
	return rapid.SampledFrom([]string{"x", "y"}).Draw(t, "channel")
}

// registryWorld is a registry, what should be in it, and lookupds that learn from it.
type registryWorld struct {
	reg   *Registry
	truth map[string]bool // "topic" and "topic channel"
	peers []*modelPeer

	settling bool // every refusal that can get lost does
}

// modelPeer is a connection to a lookupd: commands and answers on their way,
// and what lookupd made of those that arrived.
type modelPeer struct {
	*registryWorld
	cursor  Cursor
	caution Caution
	isUp    bool // the connection; the registry may have detached the cursor meanwhile

	arriving []Command // sent, not yet seen by lookupd
	answers  []Command // answered by lookupd, answer not yet seen
	known    map[string]bool
	before   uint64 // what was deleted up to here is no business of this pass
	refuses  string // a name, as in truth
}

func newRegistryWorld(t *rapid.T) *registryWorld {
	w := &registryWorld{reg: New(), truth: make(map[string]bool)}
	w.reg.maxTombstones = rapid.SampledFrom([]int{MaxTombstones, 2, 3, 4, 5}).Draw(t, "maxTombstones")
	for range rapid.IntRange(1, 3).Draw(t, "lookupds") {
		w.peers = append(w.peers, &modelPeer{registryWorld: w})
	}
	return w
}

func (w *registryWorld) drawPeer(t *rapid.T) *modelPeer {
	return w.peers[rapid.IntRange(0, len(w.peers)-1).Draw(t, "lookupd")]
}

// change applies an event where it is allowed, to the registry and to the truth.
func (w *registryWorld) change(c Change) {
	if _, err := w.reg.Apply([]Change{c}); err != nil {
		return
	}
	switch name := c.Topic + " " + c.Channel; c.Kind {
	case TopicCreated:
		w.truth[c.Topic] = true
	case TopicDeleted:
		forget(w.truth, c.Topic)
	case ChannelCreated:
		w.truth[name] = true
	case ChannelDeleted:
		delete(w.truth, name)
	}
}

// forget drops a topic with its channels.
func forget(names map[string]bool, topic string) {
	maps.DeleteFunc(names, func(name string, _ bool) bool { return topicOf(name) == topic })
}

func topicOf(name string) string {
	topic, _, _ := strings.Cut(name, " ")
	return topic
}

func (w *registryWorld) declare(t *rapid.T) {
	var items []Item
	clear(w.truth)
	for _, topic := range []string{"a", "b"} {
		if !rapid.Bool().Draw(t, topic) {
			continue
		}
		w.truth[topic] = true
		items = append(items, Item{Topic: topic, Paused: rapid.Bool().Draw(t, "paused")})
		for _, channel := range []string{"x", "y"} {
			if rapid.Bool().Draw(t, channel) {
				w.truth[topic+" "+channel] = true
				items = append(items, Item{Topic: topic, Channel: channel})
			}
		}
	}
	w.reg.Declare(slices.Values(items))
}

func (p *modelPeer) connect() {
	if !p.isUp {
		p.isUp = true
		p.arriving, p.answers, p.known = nil, nil, make(map[string]bool)
		p.before = p.reg.seq
		p.reg.Attach(&p.cursor)
	}
}

// read takes a chunk, and checks that it was true and no longer than allowed.
// It ends the connection if it lags.
func (p *modelPeer) read(t *rapid.T, room int) {
	if !p.isUp {
		return
	}
	limit, upTo := p.caution.Limits(p.reg, &p.cursor, len(p.arriving)+len(p.answers), room)
	chunk, progress, err := p.reg.Read(&p.cursor, limit, upTo, nil)
	if !p.cursor.connected {
		require.Equal(t, ErrLagged, err)
		p.lose()
		p.caution = Caution{} // no refusal got lost
		return
	}
	require.NoError(t, err)
	p.caution.Spend(upTo, len(chunk))
	require.LessOrEqual(t, len(chunk), limit+1)
	require.True(t, progress || len(chunk) == 0)
	p.send(t, chunk)
}

func (p *modelPeer) send(t *rapid.T, chunk []Command) {
	said := make(map[string]bool)
	for _, c := range chunk {
		name := commandName(c)
		line := c.Verb() + " " + name
		require.Equal(t, !c.unregister, p.truth[name], "%s was not true when it was read", line)
		if !c.unregister {
			require.True(t, p.truth[c.Topic()], line)
			require.False(t, said[name], "%s was said before in this chunk", line)
			said[c.Topic()], said[name] = true, true
		} else {
			require.Greater(t, c.seq, p.before, "%s is from before", line)
			require.Nil(t, p.cursor.refused[c.subject], "lookupd has never known what %s is about", line)
		}
	}
	p.arriving = append(p.arriving, chunk...)
}

func commandName(c Command) string { return strings.TrimSpace(c.Topic() + " " + c.Channel()) }

// serve lets lookupd process n commands. It closes at a refusal, which gets
// through or is lost, along with the answers before it.
func (p *modelPeer) serve(t *rapid.T, n int) {
	for range min(n, len(p.arriving)) {
		c := p.arriving[0]
		p.arriving = p.arriving[1:]
		if name := commandName(c); p.refuses != "" && (name == p.refuses || c.Topic() == p.refuses) {
			if len(p.arriving) > 0 && (p.settling || rapid.Bool().Draw(t, "refusal is lost")) {
				p.lose()
				return
			}
			p.answer(len(p.answers))
			p.lose()
			p.reg.Refuse(&p.cursor, c, !strings.Contains(p.refuses, " "), refusalOf(p.refuses), time.Time{}, 0)
			p.caution = Caution{}
			return
		}
		p.process(t, c)
		p.answers = append(p.answers, c)
	}
}

// process is what nsqlookupd does.
func (p *modelPeer) process(t *rapid.T, c Command) {
	name := commandName(c)
	switch {
	case !c.unregister:
		p.known[c.Topic()] = true
		p.known[name] = true
	case c.Channel() != "":
		delete(p.known, name)
	default:
		for known := range p.known {
			require.False(t, strings.HasPrefix(known, name+" "), "UNREGISTER %s takes %s along, which lookupd warns about", name, known)
		}
		delete(p.known, name)
	}
}

// answer lets n answers arrive.
func (p *modelPeer) answer(n int) {
	n = min(n, len(p.answers))
	if n > 0 {
		p.reg.Acknowledge(&p.cursor, n, p.answers[n-1])
		p.answers = p.answers[n:]
	}
}

// lose ends the connection: what was on its way, either way, is lost.
func (p *modelPeer) lose() {
	if p.isUp {
		p.isUp = false
		acked, unanswered := p.reg.Release(&p.cursor)
		p.arriving, p.answers = nil, nil
		p.caution = Caution{}
		if unanswered > 0 {
			p.caution = NewCaution(acked, unanswered)
		}
	}
}

func (p *modelPeer) resync() {
	if p.reg.Resync(&p.cursor) {
		p.before = p.reg.seq
	}
}

func (p *modelPeer) retry(t *rapid.T) {
	if len(p.arriving)+len(p.answers) > 0 {
		return
	}
	chunk, _ := p.reg.Retry(&p.cursor, time.Time{}, nil)
	require.LessOrEqual(t, len(chunk), 1)
	p.send(t, chunk)
}

// check holds the registry against the truth, and each cursor's claims against
// what its lookupd knows.
func (w *registryWorld) check(t *rapid.T) {
	r := w.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	live := make(map[string]bool)
	var seq uint64
	size, tombstones := 0, 0
	for e := r.log.next; e != &r.log; e = e.next {
		if e.marker {
			continue
		}
		size++
		require.Greater(t, e.seq, seq, "the log is in order")
		seq = e.seq
		require.Same(t, e, r.entries[e.key])
		if e.deleted {
			tombstones++
		} else {
			live[entryName(e)] = true
		}
	}
	require.Equal(t, w.truth, live)
	require.Len(t, r.entries, size)
	require.Equal(t, size, r.size)
	require.Equal(t, tombstones, r.numTombstones)
	require.Equal(t, len(live), r.topics+r.channels)

	passed := r.seq
	for _, c := range r.connected {
		passed = min(passed, c.passed())
	}
	if first := r.tombstones.nextTombstone; first != &r.tombstones {
		require.Greater(t, first.seq, passed, "tombstones that everybody passed are collected")
	}
	require.LessOrEqual(t, r.numTombstones, r.maxTombstones)
	for _, p := range w.peers {
		p.check(t)
	}
}

func entryName(e *entry) string {
	if e.parent == nil {
		return e.name
	}
	return e.parent.name + " " + e.name
}

func (p *modelPeer) check(t *rapid.T) {
	c := &p.cursor
	if !c.connected {
		return
	}
	unread := 0
	for e := c.marker.next; e != &p.reg.log; e = e.next {
		if !e.marker && e.seq > c.known {
			unread++
		}
		require.True(t, e.marker || e.seq > c.read, "what is behind the marker has not been read")
	}
	require.Equal(t, unread, c.unread)
	require.GreaterOrEqual(t, p.reg.pending(c), unread)
	if len(p.arriving)+len(p.answers) == 0 {
		require.Equal(t, c.sent, c.answered)
		require.Equal(t, unread, p.reg.pending(c), "with nothing in flight what was read is acknowledged")
		require.GreaterOrEqual(t, c.acked, c.read)
	}
	for e := p.reg.log.next; e != &p.reg.log; e = e.next {
		if !e.marker && e.seq <= c.acked && (e.deleted || !c.isRefused(e)) {
			require.Equal(t, !e.deleted, p.known[entryName(e)], "%s is acknowledged", entryName(e))
		}
	}
	if c.acked == p.reg.seq && len(p.arriving) == 0 {
		for name := range p.known {
			require.True(t, p.truth[name], "%s is known in vain", name)
		}
	}
}

// settle ends all faults and lets everybody learn Everything.
func (w *registryWorld) settle(t *rapid.T) {
	w.settling = true
	for _, p := range w.peers {
		for step := 0; ; step++ {
			require.Less(t, step, 10_000, "it never ends")
			p.connect()
			p.read(t, 4)
			p.serve(t, 2)
			p.answer(2)
			w.check(t)
			if p.cursor.connected && w.reg.pending(&p.cursor) == 0 {
				break
			}
		}
		refused := p.cursor.refusals(Everything)
		if p.refuses == "" {
			p.accept(t)
			refused = nil
		}
		want := maps.Clone(w.truth)
		for _, err := range refused {
			if name := err.Error(); strings.Contains(name, " ") {
				delete(want, name)
			} else {
				forget(want, name)
			}
		}
		require.Equal(t, want, p.known)
	}
	for _, p := range w.peers {
		p.lose()
	}
	require.Zero(t, w.reg.numTombstones, "without connections nothing pins a tombstone")
}

// accept lets lookupd take back its refusals, one retry after another.
func (p *modelPeer) accept(t *rapid.T) {
	for step := 0; len(p.cursor.refusals(Everything)) > 0 || p.reg.pending(&p.cursor) > 0 || p.cursor.read != p.reg.seq; step++ {
		require.Less(t, step, 10_000, "it never ends")
		p.retry(t)
		p.serve(t, 2)
		p.answer(2)
		p.read(t, 4)
		p.check(t)
	}
	p.serve(t, len(p.arriving))
	p.answer(len(p.answers))
}

// refusalOf is the error of a lookupd that refuses the name.
type refusalOf string

func (r refusalOf) Error() string { return string(r) }
