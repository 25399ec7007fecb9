package registry

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const live = "live" + EphemeralSuffix

// newWorldWithLive is a registry with one ephemeral topic, that its lookupd has
// taken or refused.
func newWorldWithLive(t *testing.T, isRefused bool) (*registryWorld, *modelPeer) {
	w := newRegistryWorld(1)
	p := w.peers[0]
	w.change(Change{TopicCreated, live, ""})
	if isRefused {
		p.refuseLive()
	}
	p.converge(t)
	return w, p
}

func (p *modelPeer) refuseLive() {
	p.refuses = map[string]bool{live: true}
	p.disliked[live] = true
}

// requireForgottenOnTheProbe plays on until lookupd doesn't name the topic any more,
// for which the main connection must stay.
func (p *modelPeer) requireForgottenOnTheProbe(t *testing.T) {
	before := p.cursor.pass
	p.converge(t)
	require.Equal(t, before, p.cursor.pass, "the main connection came to an end")
	require.Empty(t, p.keys)
}

func TestEphemeralNameThatWasTakenAndThenRefusedIsUnregisteredOnTheProbe(t *testing.T) {
	w, p := newWorldWithLive(t, false)
	p.lose(false)
	p.refuseLive()
	p.converge(t)
	require.Equal(t, []string{live}, p.refusedNames())
	require.Contains(t, p.keys, live)

	w.change(Change{TopicDeleted, live, ""})
	p.requireForgottenOnTheProbe(t)
}

// TestEphemeralNameIsRefusedAfterItWasMadeAgain while lookupd was away: it has it
// from before.
func TestEphemeralNameIsRefusedAfterItWasMadeAgain(t *testing.T) {
	w, p := newWorldWithLive(t, false)
	p.lose(false)
	w.change(Change{TopicDeleted, live, ""})
	w.change(Change{TopicCreated, live, ""})
	p.refuseLive()
	p.converge(t)
	w.change(Change{TopicDeleted, live, ""})
	p.requireForgottenOnTheProbe(t)
}

// TestEphemeralNameIsDeletedWhileTheProbeAsks is about a lookupd that accepts the
// name, or refuses it still.
func TestEphemeralNameIsDeletedWhileTheProbeAsks(t *testing.T) {
	for name, refuses := range map[string]map[string]bool{"accepted": nil, "refused": {live: true}} {
		t.Run(name, func(t *testing.T) {
			w, p := newWorldWithLive(t, true)
			p.refuses = refuses
			w.now = w.now.Add(MaxRetryDelay)
			p.ask(t, 1)
			require.Equal(t, "REGISTER "+live+"\n", lines(p.probe.arriving))
			w.change(Change{TopicDeleted, live, ""})
			p.requireForgottenOnTheProbe(t)
		})
	}
}

// TestEphemeralNameThatTheMainConnectionSaidLast is about one that was refused,
// passed the probe, and is deleted after the main connection said so and broke.
func TestEphemeralNameThatTheMainConnectionSaidLast(t *testing.T) {
	w, p := newWorldWithLive(t, true)
	p.refuses = nil
	w.now = w.now.Add(MaxRetryDelay)
	p.ask(t, 1)
	p.serveProbe(t, 1)
	p.answerProbe(1)
	p.read(t, 1)
	require.Equal(t, "REGISTER "+live+"\n", lines(p.main.arriving))
	p.serve(t, 1)
	p.leave(t)
	p.lose(false)
	w.change(Change{TopicDeleted, live, ""})
	p.converge(t)
	require.Empty(t, p.keys)
}

func TestProbeThatEndsBeforeItsFarewellLeavesItToTheNext(t *testing.T) {
	w, p := newWorldWithLive(t, true)
	p.refuses = nil
	w.now = w.now.Add(MaxRetryDelay)
	p.ask(t, 1)
	p.serveProbe(t, 1)
	require.Contains(t, p.keys, live)
	p.refuseLive()
	p.loseProbe(false)
	w.change(Change{TopicDeleted, live, ""})
	p.requireForgottenOnTheProbe(t)
}

// TestNothingIsToldOfANameThatWasNeverTaken on either connection.
func TestNothingIsToldOfANameThatWasNeverTaken(t *testing.T) {
	for name, wait := range map[string]time.Duration{"main connection": 0, "probe": MaxRetryDelay} {
		t.Run(name, func(t *testing.T) {
			w, p := newWorldWithLive(t, true)
			w.now = w.now.Add(wait)
			p.converge(t)
			w.change(Change{TopicDeleted, live, ""})
			requireNoProbe(t, p)
			require.Empty(t, p.cursor.ghosts)
		})
	}
}

// TestEphemeralChannelThatWasTakenIsForgottenWithItsTopic is about lookupds that
// begin to refuse a channel that they know, or its topic, or one after the other.
func TestEphemeralChannelThatWasTakenIsForgottenWithItsTopic(t *testing.T) {
	const topic, channel = "orders", "orders " + live
	for name, refusals := range map[string][]map[string]bool{
		"channel":              {{channel: true}},
		"topic":                {{topic: true}},
		"channel, then topic":  {{channel: true}, {topic: true}},
		"topic, then channel":  {{topic: true}, {channel: true}},
		"both, then neither":   {{topic: true, channel: true}, {}},
		"both, then its topic": {{topic: true, channel: true}, {topic: true}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRegistryWorld(1)
			p := w.peers[0]
			w.change(Change{TopicCreated, topic, ""})
			w.change(Change{ChannelCreated, topic, live})
			p.converge(t)
			for _, p.refuses = range refusals {
				maps.Copy(p.disliked, p.refuses)
				p.lose(false)
				w.now = w.now.Add(MaxRetryDelay)
				p.converge(t)
			}
			require.Contains(t, p.keys, channel)
			w.change(Change{TopicDeleted, topic, ""})
			p.requireForgottenOnTheProbe(t)
		})
	}
}

// TestRefusedDeletionIsNotRepeated on either connection.
func TestRefusedDeletionIsNotRepeated(t *testing.T) {
	t.Run("main connection", func(t *testing.T) {
		w, p := newWorldWithLive(t, false)
		p.lose(false)
		w.change(Change{TopicDeleted, live, ""})
		p.connect()
		require.Empty(t, readLines(w.reg, p.cursor, ChunkSize), "it is behind what there is")
		chunk, _ := w.reg.Read(p.cursor, ChunkSize, nil)
		require.Equal(t, "UNREGISTER "+live+"\n", lines(chunk))
		w.reg.Release(p.cursor, chunk, false)
		w.reg.Refused(p.cursor, chunk[0], true, refusalError(live), w.now)
		w.reg.Attach(p.cursor, w.now)
		for range 2 {
			require.Empty(t, readLines(w.reg, p.cursor, ChunkSize))
		}
		requireNoProbe(t, p)
	})
	t.Run("probe", func(t *testing.T) {
		w, p := newWorldWithLive(t, false)
		p.lose(false)
		p.refuseLive()
		p.converge(t)
		w.change(Change{TopicDeleted, live, ""})
		farewell := w.reg.ProbeFarewell(p.cursor, nil)
		require.Equal(t, "UNREGISTER "+live+"\n", lines(farewell))
		w.reg.ProbeRefused(p.cursor, farewell[0], true, refusalError(live), w.now)
		w.reg.ProbeLost(p.cursor, false, false)
		requireNoProbe(t, p)
	})
}

func requireNoProbe(t *testing.T, p *modelPeer) {
	isNeeded, at := p.reg.NeedsProbe(p.cursor, p.now)
	require.False(t, isNeeded)
	require.Zero(t, at)
}

// TestDeletionAtWhichTwoConnectionsEndIsForTheProbe: what ends before lookupd may
// have come to the deletion says nothing about it.
func TestDeletionAtWhichTwoConnectionsEndIsForTheProbe(t *testing.T) {
	w, p := newWorldWithLive(t, false)
	p.lose(false)
	w.change(Change{TopicDeleted, live, ""})
	w.change(Change{TopicCreated, "orders", ""})
	chunkOf := func() []Command {
		w.reg.Attach(p.cursor, time.Time{})
		chunk, _ := w.reg.Read(p.cursor, ChunkSize, nil)
		more, _ := w.reg.Read(p.cursor, ChunkSize, nil)
		return append(chunk, more...)
	}
	for i := range 10 {
		unanswered := chunkOf()
		require.Equal(t, "REGISTER orders\nUNREGISTER "+live+"\n", lines(unanswered))
		w.reg.Release(p.cursor, unanswered, i == 0)
	}
	for range 2 {
		unanswered := chunkOf()
		w.reg.Acknowledge(p.cursor, 1, unanswered[0])
		w.reg.Release(p.cursor, unanswered[1:], true)
	}
	all := chunkOf()
	require.Equal(t, "REGISTER orders\n", lines(all))
	w.reg.Acknowledge(p.cursor, 1, all[0])
	isNeeded, _ := w.reg.NeedsProbe(p.cursor, w.now)
	require.True(t, isNeeded)
	require.Equal(t, "UNREGISTER "+live+"\n", lines(w.reg.ProbeFarewell(p.cursor, nil)))
}

// TestRefusedDeletionsCostNoOther on either connection: each name is told, and the
// refused ones once.
func TestRefusedDeletionsCostNoOther(t *testing.T) {
	for name, isRefused := range map[string]bool{"main connection": false, "probe": true} {
		t.Run(name, func(t *testing.T) {
			w := newRegistryWorld(1)
			p := w.peers[0]
			p.refuses = make(map[string]bool)
			for i := range 10 {
				topic := fmt.Sprint(i, EphemeralSuffix)
				w.change(Change{TopicCreated, topic, ""})
				if i < 7 {
					p.refuses[topic], p.disliked[topic] = true, true
				}
			}
			refuses := p.refuses
			p.refuses = nil
			p.converge(t)
			p.lose(false)
			if p.refuses = refuses; isRefused {
				p.converge(t)
			}
			for i := range 10 {
				w.change(Change{TopicDeleted, fmt.Sprint(i, EphemeralSuffix), ""})
			}
			before := p.cursor.pass
			p.converge(t)
			require.Empty(t, p.keys)
			require.LessOrEqual(t, p.cursor.pass-before, 2, "that is for the probe after the first")
		})
	}
}

func TestDeletionIsToldUntilProbesEndAtIt(t *testing.T) {
	w, p := newWorldWithLive(t, false)
	p.lose(false)
	p.refuseLive()
	p.converge(t)
	w.change(Change{TopicDeleted, live, ""})
	for range maxTries {
		isNeeded, _ := w.reg.NeedsProbe(p.cursor, w.now)
		require.True(t, isNeeded)
		require.Equal(t, "UNREGISTER "+live+"\n", lines(w.reg.ProbeFarewell(p.cursor, nil)))
		w.reg.ProbeLost(p.cursor, true, false)
	}
	requireNoProbe(t, p)
}

// An ephemeral channel whose deletion is for the probe is made again, and lookupd
// takes it: there is nothing left to ask then, not even on one more probe.
func TestProbeEndsThoughWhatItShouldUnregisterIsThereAgain(t *testing.T) {
	w := newRegistryWorld(1)
	p := w.peers[0]
	create := func() { w.change(Change{ChannelCreated, "a", "y#ephemeral"}) }
	w.change(Change{TopicCreated, "a", ""})
	create()
	p.connect()
	p.read(t, 1)
	p.refuses, p.disliked["a y#ephemeral"] = map[string]bool{"a y#ephemeral": true}, true
	w.change(Change{TopicDeleted, "a", ""})
	w.change(Change{TopicCreated, "a", ""})
	p.serve(t, 3)
	p.connect()
	p.read(t, 1)
	p.read(t, 2)
	require.Len(t, p.cursor.doubtfulGhosts, 1)
	p.refuses = nil
	create()
	w.settle(t)
}

// TestGhostsOfTheMainConnectionAreBounded is about a name that was to be unregistered
// on the probe, and is there again: it adds nothing to what waits for the main
// connection already.
func TestGhostsOfTheMainConnectionAreBounded(t *testing.T) {
	w, p := newWorldWithLive(t, false)
	e := w.reg.topic(live)
	c := p.cursor
	c.ghosts = make([]ghost, maxGhosts-1, maxGhosts+1)
	for range 3 {
		c.doubtfulGhosts = []ghost{{entry: e}}
		require.Empty(t, w.reg.ProbeFarewell(c, nil), "it is there")
	}
	require.Equal(t, maxGhosts, len(c.ghosts))
}
