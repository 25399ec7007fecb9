package lookuploop

import (
	"flag"
	"fmt"
	"maps"
	"strings"
	"testing"

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
			"create topic":   func(t *rapid.T) { w.change(TopicCreated(drawTopic(t))) },
			"delete topic":   func(t *rapid.T) { w.change(TopicDeleted(drawTopic(t))) },
			"create channel": func(t *rapid.T) { w.change(ChannelCreated(drawTopic(t), drawChannel(t))) },
			"delete channel": func(t *rapid.T) { w.change(ChannelDeleted(drawTopic(t), drawChannel(t))) },
			"flap channel": func(t *rapid.T) {
				topic, channel := drawTopic(t), drawChannel(t)
				w.change(ChannelDeleted(topic, channel))
				w.change(ChannelCreated(topic, channel))
			},
			"flap topic": func(t *rapid.T) {
				topic := drawTopic(t)
				w.change(TopicDeleted(topic))
				w.change(TopicCreated(topic))
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
	reg   *registry
	truth map[string]bool // "topic" and "topic channel"
	peers []*modelPeer

	settling bool // every refusal that can get lost does
}

// modelPeer is a connection to a lookupd: commands and answers on their way,
// and what lookupd made of those that arrived.
type modelPeer struct {
	*registryWorld
	cursor  cursor
	caution caution
	isUp    bool // the connection; the registry may have detached the cursor meanwhile

	arriving []command // sent, not yet seen by lookupd
	answers  []command // answered by lookupd, answer not yet seen
	known    map[string]bool
	before   uint64 // what was deleted up to here is no business of this pass
	refuses  string // a name, as in truth
}

func newRegistryWorld(t *rapid.T) *registryWorld {
	w := &registryWorld{reg: newRegistry(), truth: make(map[string]bool)}
	w.reg.maxTombstones = rapid.SampledFrom([]int{maxTombstones, 2, 3, 4, 5}).Draw(t, "maxTombstones")
	for range rapid.IntRange(1, 3).Draw(t, "lookupds") {
		w.peers = append(w.peers, &modelPeer{registryWorld: w})
	}
	return w
}

func (w *registryWorld) drawPeer(t *rapid.T) *modelPeer {
	return w.peers[rapid.IntRange(0, len(w.peers)-1).Draw(t, "lookupd")]
}

// change applies an event where it is allowed, to the registry and to the truth.
func (w *registryWorld) change(e Event) {
	w.reg.mu.Lock()
	defer w.reg.mu.Unlock()
	if w.reg.check([]Event{e}) != nil {
		return
	}
	w.reg.apply(e)
	switch name := e.topic + " " + e.channel; e.kind {
	case topicCreated:
		w.truth[e.topic] = true
	case topicDeleted:
		forget(w.truth, e.topic)
	case channelCreated:
		w.truth[name] = true
	case channelDeleted:
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
	var m Metadata
	clear(w.truth)
	for _, topic := range []string{"a", "b"} {
		if !rapid.Bool().Draw(t, topic) {
			continue
		}
		w.truth[topic] = true
		tm := TopicMetadata{Name: topic, Paused: rapid.Bool().Draw(t, "paused")}
		for _, channel := range []string{"x", "y"} {
			if rapid.Bool().Draw(t, channel) {
				w.truth[topic+" "+channel] = true
				tm.Channels = append(tm.Channels, ChannelMetadata{Name: channel})
			}
		}
		m.Topics = append(m.Topics, tm)
	}
	w.reg.mu.Lock()
	defer w.reg.mu.Unlock()
	w.reg.declare(m)
}

func (p *modelPeer) connect() {
	if !p.isUp {
		p.isUp = true
		p.arriving, p.answers, p.known = nil, nil, make(map[string]bool)
		p.before = p.reg.seq
		p.reg.attach(&p.cursor)
	}
}

// read takes a chunk, and checks that it was true and no longer than allowed.
// It ends the connection if it lags.
func (p *modelPeer) read(t *rapid.T, room int) {
	if !p.isUp {
		return
	}
	var b batch
	limit, upTo := p.caution.limits(p.reg, &p.cursor, len(p.arriving)+len(p.answers), room)
	err := p.reg.read(&p.cursor, limit, upTo, &b)
	if !p.cursor.connected {
		require.Equal(t, errLagged, err)
		p.lose()
		p.caution = caution{} // no refusal got lost
		return
	}
	require.NoError(t, err)
	p.caution.spend(upTo, len(b.commands))
	require.LessOrEqual(t, len(b.commands), limit+1)
	p.send(t, &b)
}

func (p *modelPeer) send(t *rapid.T, b *batch) {
	lines := strings.Split(b.text(), "\n")
	said := make(map[string]bool)
	for i, c := range b.commands {
		name := commandName(c)
		require.Equal(t, c.verb.String()+" "+name, lines[i])
		require.Equal(t, c.verb == register, p.truth[name], "%s was not true when it was read", lines[i])
		if c.verb == register {
			require.True(t, p.truth[c.topicName()], lines[i])
			require.False(t, said[name], "%s was said before in this chunk", lines[i])
			said[c.topicName()], said[name] = true, true
		} else {
			require.Greater(t, max(c.topicSeq, c.channelSeq), p.before, "%s is from before", lines[i])
			require.Nil(t, p.cursor.refused[c.subject()], "lookupd has never known what %s is about", lines[i])
		}
	}
	p.arriving = append(p.arriving, b.commands...)
}

func commandName(c command) string { return strings.TrimSpace(c.topicName() + " " + c.channelName()) }

// serve lets lookupd process n commands. It closes at a refusal, which gets
// through or is lost, along with the answers before it.
func (p *modelPeer) serve(t *rapid.T, n int) {
	for range min(n, len(p.arriving)) {
		c := p.arriving[0]
		p.arriving = p.arriving[1:]
		if name := commandName(c); p.refuses != "" && (name == p.refuses || c.topicName() == p.refuses) {
			if len(p.arriving) > 0 && (p.settling || rapid.Bool().Draw(t, "refusal is lost")) {
				p.lose()
				return
			}
			p.answer(len(p.answers))
			p.lose()
			code := codeBadTopic
			if strings.Contains(p.refuses, " ") {
				code = codeBadChannel
			}
			p.reg.refuse(&p.cursor, refusalOf(c, code+" not valid"), 0)
			p.caution = caution{}
			return
		}
		p.process(t, c)
		p.answers = append(p.answers, c)
	}
}

// process is what nsqlookupd does.
func (p *modelPeer) process(t *rapid.T, c command) {
	name := commandName(c)
	switch {
	case c.verb == register:
		p.known[c.topicName()] = true
		p.known[name] = true
	case c.channel != nil:
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
		p.reg.acknowledge(&p.cursor, n, p.answers[n-1])
		p.answers = p.answers[n:]
	}
}

// lose ends the connection: what was on its way, either way, is lost.
func (p *modelPeer) lose() {
	if p.isUp {
		p.isUp = false
		acked, unanswered := p.reg.release(&p.cursor)
		p.arriving, p.answers = nil, nil
		p.caution = caution{}
		if unanswered > 0 {
			p.caution = newCaution(acked, unanswered)
		}
	}
}

func (p *modelPeer) resync() {
	if p.reg.resync(&p.cursor) {
		p.before = p.reg.seq
	}
}

func (p *modelPeer) retry(t *rapid.T) {
	if len(p.arriving)+len(p.answers) > 0 {
		return
	}
	var b batch
	p.reg.retry(&p.cursor, &b)
	require.LessOrEqual(t, len(b.commands), 1)
	p.send(t, &b)
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

// settle ends all faults and lets everybody learn everything.
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
		refused := p.cursor.refusals(everything)
		if p.refuses == "" {
			p.accept(t)
			refused = nil
		}
		want := maps.Clone(w.truth)
		for _, err := range refused {
			if err.Code == codeBadTopic {
				forget(want, err.Topic)
			} else {
				delete(want, err.Topic+" "+err.Channel)
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
	for step := 0; len(p.cursor.refusals(everything)) > 0 || p.reg.pending(&p.cursor) > 0 || p.cursor.read != p.reg.seq; step++ {
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

// TestChunkDoesNotPartTopicAndChannel is about a topic at the last place of a
// chunk: it takes one channel right behind it along, and no more.
func TestChunkDoesNotPartTopicAndChannel(t *testing.T) {
	r := newRegistry()
	for _, e := range []Event{
		TopicCreated("users"), TopicCreated("orders"), ChannelCreated("orders", "mail"), ChannelCreated("orders", "sms"),
		TopicCreated("bills"), ChannelCreated("users", "mail"), TopicCreated("empty"),
	} {
		r.apply(e)
	}
	var c cursor
	r.attach(&c)
	var chunks []string
	for c.read < r.seq {
		var b batch
		require.NoError(t, r.read(&c, 2, everything, &b))
		chunks = append(chunks, b.text())
	}
	require.Equal(t, []string{
		"REGISTER users\nREGISTER orders mail\n",
		"REGISTER orders sms\nREGISTER bills\n",
		"REGISTER users mail\nREGISTER empty\n",
	}, chunks)
}

// TestOnlyTheLookupdThatLagsIsDetached is about two of which one hears of every
// deletion.
func TestOnlyTheLookupdThatLagsIsDetached(t *testing.T) {
	for _, lagging := range []int{0, 1} {
		r := newRegistry()
		r.maxTombstones = 3
		var cursors [2]cursor
		var b batch
		for i := range cursors {
			r.attach(&cursors[i])
		}
		for i := range r.maxTombstones + 1 {
			require.False(t, cursors[lagging].lagged)
			topic := fmt.Sprint("topic", i)
			r.apply(TopicCreated(topic))
			r.apply(TopicDeleted(topic))
			if i < r.maxTombstones {
				require.NoError(t, r.read(&cursors[1-lagging], chunkSize, everything, &b))
			}
		}
		require.ErrorIs(t, r.read(&cursors[lagging], chunkSize, everything, &b), errLagged)
		require.NoError(t, r.read(&cursors[1-lagging], chunkSize, everything, &b))
		require.Zero(t, r.numTombstones, "nobody needs them any more")
	}
}

// TestAnswerToADetachedLookupdChangesNothing is about one that was detached for
// lagging while a refused name was being tried, and then accepts that.
func TestAnswerToADetachedLookupdChangesNothing(t *testing.T) {
	r := newRegistry()
	r.maxTombstones = 1
	r.apply(TopicCreated("bad"))
	var c cursor
	var b batch
	r.attach(&c)
	require.NoError(t, r.read(&c, chunkSize, everything, &b))
	require.True(t, r.refuse(&c, &refusedError{&ResponseError{Code: codeBadTopic}, b.commands[0]}, 0))
	r.release(&c)

	r.attach(&c)
	b.reset()
	require.NoError(t, r.read(&c, chunkSize, everything, &b))
	require.Zero(t, r.retry(&c, &b))
	require.Len(t, b.commands, 1)
	for _, topic := range []string{"first", "second"} {
		r.apply(TopicCreated(topic))
		r.apply(TopicDeleted(topic))
	}
	require.True(t, c.lagged)
	acked := c.acked
	r.acknowledge(&c, 1, b.commands[0])
	require.Equal(t, acked, c.acked)
	require.Len(t, c.refused, 1)
}
