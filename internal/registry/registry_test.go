package registry

import (
	"flag"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var (
	modelTopics   = []string{"a", "b", "c#ephemeral"}
	modelChannels = []string{"x", "y#ephemeral"}
	modelNames    = []string{"a", "b", "a x", "a y#ephemeral", "b x", "c#ephemeral"}
)

// TestRegistryConvergesAtEveryLookupd plays random histories over the real
// registry, with models of nsqlookupd behind connections that may be lost at
// any point, chunks that end anywhere, names that are refused, refusals that
// get lost, names at which lookupd closes without a word, names that an
// administrator deletes there, and resyncs. After each step it holds what every cursor claims
// to be acknowledged against what its lookupd knows.
func TestRegistryConvergesAtEveryLookupd(t *testing.T) {
	setRapidDefault(t, "checks", "1500")
	setRapidDefault(t, "steps", "80")
	rapid.Check(t, func(t *rapid.T) {
		w := newRegistryWorld(rapid.IntRange(1, 3).Draw(t, "lookupds"))
		change := func(kind Kind, hasChannel bool) func(*rapid.T) {
			return func(t *rapid.T) {
				c := Change{Kind: kind, Topic: drawTopic(t)}
				if hasChannel {
					c.Channel = drawChannel(t)
				}
				w.change(c)
			}
		}
		serve := func(t *rapid.T, serve func(*modelPeer, require.TestingT, int)) {
			w.losesRefusals = rapid.Bool().Draw(t, "refusals are lost")
			serve(w.drawPeer(t), t, rapid.IntRange(1, 3).Draw(t, "n"))
		}
		upTo := func(t *rapid.T, n int) int { return rapid.IntRange(1, n).Draw(t, "n") }
		t.Repeat(map[string]func(*rapid.T){
			"":               func(t *rapid.T) { w.check(t); w.checkWatches(t) },
			"watch":          func(t *rapid.T) { w.watch() },
			"create topic":   change(TopicCreated, false),
			"delete topic":   change(TopicDeleted, false),
			"create channel": change(ChannelCreated, true),
			"delete channel": change(ChannelDeleted, true),
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
			"read":    func(t *rapid.T) { w.drawPeer(t).read(t, upTo(t, 4)) },
			"serve":   func(t *rapid.T) { serve(t, (*modelPeer).serve) },
			"answer":  func(t *rapid.T) { w.drawPeer(t).answer(upTo(t, 3)) },
			"lose":    func(t *rapid.T) { w.drawPeer(t).lose(rapid.Bool().Draw(t, "severed")) },
			"resync":  func(t *rapid.T) { w.drawPeer(t).resync() },
			"end": func(t *rapid.T) {
				p := w.drawPeer(t)
				p.leave(t)
				p.lose(rapid.Bool().Draw(t, "severed"))
			},
			"administrator deletes": func(t *rapid.T) {
				w.drawPeer(t).administratorDeletes(rapid.SampledFrom(modelNames).Draw(t, "name"))
			},
			"announce again": func(t *rapid.T) { w.drawPeer(t).announceAgain() },
			"ask":            func(t *rapid.T) { w.drawPeer(t).ask(t, upTo(t, 4)) },
			"serve probe":    func(t *rapid.T) { serve(t, (*modelPeer).serveProbe) },
			"answer probe":   func(t *rapid.T) { w.drawPeer(t).answerProbe(upTo(t, 3)) },
			"lose probe":     func(t *rapid.T) { w.drawPeer(t).loseProbe(rapid.Bool().Draw(t, "severed")) },
			"time":           func(t *rapid.T) { w.now = w.now.Add(time.Duration(upTo(t, 10_000)) * time.Millisecond) },
			"change the refused": func(t *rapid.T) {
				p := w.drawPeer(t)
				p.refuses = drawNames(t)
				p.closes = nil
				if rapid.IntRange(0, 3).Draw(t, "closes") == 0 {
					p.closes = drawNames(t)
				}
				maps.Copy(p.disliked, p.refuses)
				maps.Copy(p.disliked, p.closes)
			},
		})
		w.settle(t)
	})
}

func drawNames(t *rapid.T) map[string]bool {
	names := make(map[string]bool)
	for _, name := range rapid.SliceOfN(rapid.SampledFrom(modelNames), 0, 3).Draw(t, "names") {
		names[name] = true
	}
	return names
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

func drawTopic(t *rapid.T) string { return rapid.SampledFrom(modelTopics).Draw(t, "topic") }
func drawChannel(t *rapid.T) string {
	return rapid.SampledFrom(modelChannels).Draw(t, "channel")
}

// check holds the registry against the truth, and each cursor's claims against
// what its lookupd knows.
func (w *registryWorld) check(t require.TestingT) {
	r := w.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	live := make(map[string]bool)
	var seq uint64
	size, tombstones := 0, 0
	for e := r.log.next; e != &r.log; e = e.next {
		if e.isMarker() {
			continue
		}
		size++
		require.True(t, e.seq > seq, "the log is in order")
		require.True(t, e.birth <= e.seq)
		seq = e.seq
		require.Same(t, e, r.entries[e.key])
		if e.deleted {
			tombstones++
		} else {
			live[entryName(e)] = true
		}
	}
	require.Equal(t, w.truth, live)
	require.Len(t, r.entries, size+r.remembered.n)
	require.Equal(t, size, r.size)
	require.Equal(t, tombstones, r.tombstones.n)
	require.Equal(t, len(live), r.topics+r.channels)
	if first := r.tombstones.first(); first != nil {
		require.True(t, first.seq > r.passed(), "tombstones that everybody passed are collected")
	}
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

func (p *modelPeer) check(t require.TestingT) {
	c := p.cursor
	for i, s := range c.refused {
		require.True(t, s.aside.index == i && c.aside[s.aside.entry] == s.aside && !s.aside.deleted && s.seq == s.aside.seq)
	}
	for i, s := range c.unresolved {
		require.True(t, s.aside.index == i && c.aside[s.aside.entry] == s.aside && !s.aside.deleted && s.seq == s.aside.seq)
	}
	if !c.connected {
		require.Empty(t, c.again)
		return
	}
	unread := 0
	for e := c.marker.next; e != &p.reg.log; e = e.next {
		if !e.isMarker() && e.seq > c.known {
			unread++
		}
		require.True(t, e.isMarker() || e.seq > c.read, "what is behind the marker has not been read")
	}
	require.Equal(t, unread, c.unread)
	require.True(t, p.reg.pending(c) >= unread)
	if len(p.main.inFlight()) == 0 {
		require.Equal(t, c.sent, c.answered)
		require.Equal(t, unread+len(c.unresolved), p.reg.pending(c), "with nothing in flight what was read is acknowledged")
		require.True(t, c.acked >= c.read)
	}
	for e := p.reg.log.next; e != &p.reg.log; e = e.next {
		if !e.isMarker() && e.seq <= c.acked && !c.unresolved.reaches(e.seq) && !c.refused.reaches(e.seq) {
			name := entryName(e)
			require.Equal(t, !e.deleted, p.main.known[name] || p.main.lost[name], "%s is acknowledged", name)
		}
	}
	if c.acked == p.reg.seq && len(p.main.arriving) == 0 {
		for name := range p.main.known {
			require.True(t, p.truth[name], "%s is known in vain", name)
		}
	}
}

// settle ends all faults and lets everybody learn everything, but for what
// their lookupds refuse; then all of it. It may stop where wasSettled says so.
func (w *registryWorld) settle(t require.TestingT) {
	steps := 0
	wasSettled := func() bool {
		steps++
		return w.wasSettled != nil && w.wasSettled(w, steps)
	}
	w.losesRefusals = true
	w.watch()
	for _, p := range w.peers {
		p.converge(t)
		p.announceAgain()
		if wasSettled() {
			return
		}
		p.converge(t)
		want := maps.Clone(w.truth)
		for _, name := range p.refusedNames() { // a topic that closes connections looks as if its channels did
			require.True(t, p.disliked[name] || p.disliked[topicOf(name)], "%s is set aside", name)
			if strings.Contains(name, " ") {
				delete(want, name)
			} else {
				forget(want, name)
			}
		}
		require.Equal(t, want, p.main.known)

		p.refuses, p.closes = nil, nil
		w.now = w.now.Add(2 * MaxRetryDelay)
		if wasSettled() {
			return
		}
		p.converge(t)
		require.Empty(t, p.refusedNames())
		require.Equal(t, w.truth, p.main.known)
		for name := range p.keys {
			require.True(t, w.truth[name], "lookupd names the ephemeral %s for ever", name)
		}
	}
	for _, p := range w.peers {
		p.lose(false)
	}
	require.Zero(t, w.reg.tombstones.n, "without connections nothing pins a tombstone")
}

// converge goes on until there is nothing left to say.
func (p *modelPeer) converge(t require.TestingT) {
	for step := 0; ; step++ {
		require.True(t, step < 10_000, "it never ends")
		p.connect()
		p.read(t, 4)
		p.serve(t, 2)
		p.answer(2)
		p.checkWatches(t)
		p.ask(t, 3)
		p.serveProbe(t, 2)
		p.answerProbe(2)
		p.check(t)
		needed, _ := p.reg.NeedsProbe(p.cursor, p.now)
		if p.cursor.connected && !p.probe.isUp && !needed && p.reg.pending(p.cursor) == 0 && len(p.main.inFlight()) == 0 && len(p.cursor.ghosts)+len(p.cursor.doubtfulGhosts)+len(p.cursor.again) == 0 {
			p.checkWatches(t)
			return
		}
	}
}

var noTime time.Time

func manyNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("topic-%06d", i))
	}
	return names
}

// readLines reads a chunk and returns its lines.
func readLines(r *Registry, c *Cursor, limit int) string {
	chunk, _ := r.Read(c, limit, nil)
	return lines(chunk)
}

func lines(chunk []Command) string {
	var b strings.Builder
	for _, c := range chunk {
		b.WriteString(c.Verb() + " " + commandName(c) + "\n")
	}
	return b.String()
}

// TestChunkDoesNotPartTopicAndChannel is about a topic at the last place of a
// chunk: it takes one channel right behind it along, and no more.
func TestChunkDoesNotPartTopicAndChannel(t *testing.T) {
	r := New()
	for _, c := range []Change{
		{TopicCreated, "users", ""}, {TopicCreated, "orders", ""}, {ChannelCreated, "orders", "mail"}, {ChannelCreated, "orders", "sms"},
		{TopicCreated, "bills", ""}, {ChannelCreated, "users", "mail"}, {TopicCreated, "empty", ""},
	} {
		r.apply(c)
	}
	cursor := r.NewCursor(0)
	r.Attach(cursor, time.Time{})
	var chunks []string
	for cursor.read < r.seq {
		chunks = append(chunks, readLines(r, cursor, 2))
	}
	require.Equal(t, []string{
		"REGISTER users\nREGISTER orders mail\n",
		"REGISTER orders sms\nREGISTER bills\n",
		"REGISTER users mail\nREGISTER empty\n",
	}, chunks)
}

// TestSlowLookupdPinsOnlyWhatItKnows is about two lookupds of which one hears of
// everything, and the other of nothing since it connected.
func TestSlowLookupdPinsOnlyWhatItKnows(t *testing.T) {
	r := New()
	fast, slow := r.NewCursor(0), r.NewCursor(0)
	r.apply(Change{TopicCreated, "old", ""})
	for _, c := range []*Cursor{fast, slow} {
		r.Attach(c, time.Time{})
		require.Equal(t, "REGISTER old\n", readLines(r, c, ChunkSize))
	}
	r.apply(Change{TopicDeleted, "old", ""})
	for i := range 1000 {
		topic := fmt.Sprint("topic", i)
		r.apply(Change{TopicCreated, topic, ""})
		readLines(r, fast, ChunkSize)
		r.apply(Change{TopicDeleted, topic, ""})
		readLines(r, fast, ChunkSize)
		require.Equal(t, 1, r.size, "the slow one has to hear of old only")
	}
	require.Equal(t, "UNREGISTER old\n", readLines(r, slow, ChunkSize))
	require.Zero(t, r.size)
}

// TestNameIsDeletedOnItsWayToTheMainConnection, which it comes to from the probe:
// lookupd may have it from there already.
func TestNameIsDeletedOnItsWayToTheMainConnection(t *testing.T) {
	r, now := New(), time.Time{}
	c := r.NewCursor(time.Second)
	r.apply(Change{TopicCreated, "bad", ""})
	r.Attach(c, now)
	chunk, _ := r.Read(c, ChunkSize, nil)
	r.Release(c, nil, false)
	r.Refused(c, chunk[0], true, refusalError("bad"), now)
	r.Attach(c, now)
	require.Empty(t, readLines(r, c, ChunkSize))

	now = now.Add(time.Minute)
	isNeeded, _ := r.NeedsProbe(c, now)
	require.True(t, isNeeded)
	require.Equal(t, "REGISTER bad\n", lines(r.Probe(c, now, ChunkSize, nil)))
	r.ProbeAcknowledge(c, 1)
	require.Equal(t, "REGISTER bad\n", readLines(r, c, ChunkSize))
	r.apply(Change{TopicDeleted, "bad", ""})
	require.Equal(t, "UNREGISTER bad\n", readLines(r, c, ChunkSize))
}

// TestChannelsOfARefusedTopicAreAskedAboutOnce, however often the log was read
// while it was refused.
func TestChannelsOfARefusedTopicAreAskedAboutOnce(t *testing.T) {
	r, now := New(), time.Time{}
	c := r.NewCursor(time.Second)
	for _, change := range []Change{{TopicCreated, "bad", ""}, {ChannelCreated, "bad", "x"}, {ChannelCreated, "bad", "y"}} {
		r.apply(change)
	}
	r.Attach(c, now)
	chunk, _ := r.Read(c, ChunkSize, nil)
	r.Release(c, nil, false)
	r.Refused(c, chunk[0], true, refusalError("bad"), now)
	for range 10 {
		r.Attach(c, now)
		require.Empty(t, readLines(r, c, ChunkSize))
		r.Release(c, nil, false)
	}
	r.Attach(c, now)
	require.Empty(t, readLines(r, c, ChunkSize))

	now = now.Add(time.Minute)
	r.NeedsProbe(c, now)
	var asked strings.Builder
	for range 10 {
		questions := r.Probe(c, now, 1, nil)
		asked.WriteString(lines(questions))
		r.ProbeAcknowledge(c, len(questions))
		if chunk, _ = r.Read(c, ChunkSize, nil); len(chunk) > 0 {
			r.Acknowledge(c, len(chunk), chunk[len(chunk)-1])
		}
	}
	require.Equal(t, "REGISTER bad\nREGISTER bad x\nREGISTER bad y\n", asked.String())
	require.True(t, r.ProbeDone(c))
}

// TestDeletingAndCreatingDoesNotGrow: however often a name comes and goes, it
// has one entry, and no other is left behind: neither when all lookupds follow
// nor when one is stuck.
func TestDeletingAndCreatingDoesNotGrow(t *testing.T) {
	r := New()
	create := []Change{{TopicCreated, "orders", ""}, {ChannelCreated, "orders", "archive"}}
	_, err := r.Apply(create)
	require.NoError(t, err)
	stuck := r.NewCursor(0)
	for _, attach := range []func(){func() {}, func() { r.Attach(stuck, time.Time{}) }} {
		attach()
		for range 10_000 {
			_, err := r.Apply([]Change{{ChannelDeleted, "orders", "archive"}, {TopicDeleted, "orders", ""}})
			require.NoError(t, err)
			_, err = r.Apply(create)
			require.NoError(t, err)
		}
		require.Equal(t, len(create), r.size)
		require.Len(t, r.entries, r.size)
		require.Zero(t, r.tombstones.n)
	}
	require.True(t, stuck.connected)
}

// TestFarewellBeforeAnythingWasSent is about a lookupd that is left as soon as
// it identified itself.
func TestFarewellBeforeAnythingWasSent(t *testing.T) {
	r := New()
	r.create(key{name: "live#ephemeral"})
	c := r.NewCursor(0)
	var out []Command
	r.Attach(c, time.Time{})
	for more := true; more; {
		out, more = r.Farewell(c, out)
	}
	require.Equal(t, "UNREGISTER live#ephemeral\n", lines(out))
	r.Release(c, nil, false)
	require.Same(t, r.log.next, r.log.prev, "the one entry is alone in the log")
}

func TestNoNameOfACallerIsKept(t *testing.T) {
	r := New()
	r.Apply([]Change{{TopicCreated, "a", ""}})
	require.Zero(t, r.last)
	r.Topic("b")
	require.Zero(t, r.last)
}
