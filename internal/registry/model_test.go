package registry

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// registryWorld is a registry, what should be in it, and lookupds that learn from it.
type registryWorld struct {
	reg   *Registry
	truth map[string]bool // "topic" and "topic channel"
	peers []*modelPeer
	now   time.Time

	losesRefusals bool // those that can get lost
	watches       []*modelWatch
	wasSettled    func(w *registryWorld, step int) bool // whether a world like this was settled from there on; nil: none
}

// modelPeer is a lookupd with its main connection and its probe.
type modelPeer struct {
	*registryWorld
	cursor      *Cursor
	main, probe modelConn
	refuses     map[string]bool // names, as in truth: refused with an answer
	closes      map[string]bool // refused by closing without a word
	disliked    map[string]bool // all that were ever among these two
	keys        map[string]bool // ephemeral names that lookupd keeps until they are unregistered
	before      uint64          // what was deleted up to here is no business of this pass of the main connection
}

// modelConn is one connection: commands and answers on their way, and what
// lookupd made of those that arrived.
type modelConn struct {
	isUp     bool
	arriving []Command // sent, not yet seen by lookupd
	answers  []Command // answered by lookupd, answer not yet seen
	known    map[string]bool
	lost     map[string]bool // that it knew until an administrator deleted them there
}

func newModelConn() modelConn {
	return modelConn{isUp: true, known: make(map[string]bool), lost: make(map[string]bool)}
}

func (c *modelConn) inFlight() []Command { return slices.Concat(c.answers, c.arriving) }

func newRegistryWorld(lookupds int) *registryWorld {
	w := &registryWorld{reg: New(), truth: make(map[string]bool)}
	for range lookupds {
		w.peers = append(w.peers, &modelPeer{registryWorld: w, cursor: w.reg.NewCursor(time.Second), keys: make(map[string]bool), disliked: make(map[string]bool)})
	}
	return w
}

func (w *registryWorld) drawPeer(t *rapid.T) *modelPeer {
	return w.peers[rapid.IntRange(0, len(w.peers)-1).Draw(t, "lookupd")]
}

// change applies a change where it is allowed, to the registry and to the truth.
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

func isEphemeral(name string) bool { return strings.HasSuffix(name, EphemeralSuffix) }

func (w *registryWorld) declare(t *rapid.T) {
	var items []Item
	clear(w.truth)
	for _, topic := range modelTopics {
		if !rapid.Bool().Draw(t, topic) {
			continue
		}
		w.truth[topic] = true
		items = append(items, Item{Topic: topic, Paused: rapid.Bool().Draw(t, "paused")})
		for _, channel := range modelChannels {
			if rapid.Bool().Draw(t, channel) {
				w.truth[topic+" "+channel] = true
				items = append(items, Item{Topic: topic, Channel: channel})
			}
		}
	}
	w.reg.Declare(slices.Values(items))
}

func (p *modelPeer) connect() {
	if !p.main.isUp {
		p.main = newModelConn()
		p.before = p.reg.seq
		p.reg.Attach(p.cursor, p.now)
	}
}

// read takes a chunk, and checks that it was true and no longer than allowed.
func (p *modelPeer) read(t require.TestingT, room int) {
	if !p.main.isUp {
		return
	}
	end, missed := p.cursor.read, p.cursor.missed()
	chunk, progress := p.reg.Read(p.cursor, room, nil)
	require.True(t, len(chunk) <= room+1)
	require.Equal(t, progress, p.cursor.read != end || p.cursor.missed() < missed)
	require.True(t, progress || len(chunk) == 0)
	said := make(map[string]bool)
	for _, c := range chunk {
		p.checkTruth(t, c)
		name := commandName(c)
		if c.unregister {
			require.True(t, c.subject.ephemeral || c.seq > p.before, "UNREGISTER %s is from before", name)
			require.Nil(t, p.cursor.aside[c.subject], "UNREGISTER %s may be refused", name)
			continue
		}
		require.False(t, p.cursor.isCovered(c.subject), "%s announces a topic that is in doubt", name)
		if a := p.cursor.aside[c.subject]; a != nil {
			require.Equal(t, passed, a.state, "%s is in doubt, and on the main connection", name)
			continue
		}
		require.False(t, said[name], "%s was said before in this chunk", name)
		said[c.Topic()], said[name] = true, true
	}
	p.main.arriving = append(p.main.arriving, chunk...)
}

// checkTruth checks that a command says what is so.
func (p *modelPeer) checkTruth(t require.TestingT, c Command) {
	name := commandName(c)
	require.Equal(t, !c.unregister, p.truth[name], "%s %s was not true when it was read", c.Verb(), name)
	require.True(t, c.unregister || p.truth[c.Topic()], "%s %s", c.Verb(), name)
}

// ask lets the probe connect if there is something to ask, and ask.
func (p *modelPeer) ask(t require.TestingT, room int) {
	if !p.probe.isUp {
		if needed, _ := p.reg.NeedsProbe(p.cursor, p.now); !needed || !p.main.isUp {
			return
		}
		p.probe = newModelConn()
	}
	if p.reg.ProbeDone(p.cursor) {
		p.leave(t)
		return
	}
	chunk := p.reg.Probe(p.cursor, p.now, room, nil)
	require.True(t, len(chunk) <= room)
	for _, c := range chunk {
		p.checkTruth(t, c)
	}
	p.probe.arriving = append(p.probe.arriving, chunk...)
}

// leave lets the probe end in order, if it is up, perhaps amid its questions.
func (p *modelPeer) leave(t require.TestingT) {
	if p.probe.isUp {
		p.probe.arriving = append(p.probe.arriving, p.reg.ProbeFarewell(p.cursor, nil)...)
		p.serveProbe(t, len(p.probe.arriving))
		p.answerProbe(len(p.probe.answers))
		p.loseProbe(false)
	}
}

// serve lets lookupd process n commands of the main connection.
func (p *modelPeer) serve(t require.TestingT, n int) {
	for range min(n, len(p.main.arriving)) {
		switch c := p.main.arriving[0]; p.process(t, &p.main, c) {
		case closed:
			p.lose(true)
			return
		case answered:
			p.answer(len(p.main.answers))
			p.lose(false)
			p.reg.Refused(p.cursor, c, p.refusesTopic(c), refusalError(p.refusedName(c)), p.now)
			return
		}
	}
}

// serveProbe is serve for the probe.
func (p *modelPeer) serveProbe(t require.TestingT, n int) {
	for range min(n, len(p.probe.arriving)) {
		switch c := p.probe.arriving[0]; p.process(t, &p.probe, c) {
		case closed:
			p.loseProbe(true)
			return
		case answered:
			p.answerProbe(len(p.probe.answers))
			p.reg.ProbeRefused(p.cursor, c, p.refusesTopic(c), refusalError(p.refusedName(c)), p.now)
			p.loseProbe(false)
			return
		}
	}
}

type outcome int

const (
	good     outcome = iota
	answered         // with a refusal that gets through
	closed           // without an answer
)

// process lets lookupd take the next command of a connection. It closes at a
// refusal, which gets through or is lost, along with the answers before it.
func (p *modelPeer) process(t require.TestingT, conn *modelConn, c Command) outcome {
	name := commandName(c)
	closes, refuses := p.closes[name] || p.closes[c.Topic()], p.refuses[name] || p.refuses[c.Topic()]
	if closes || refuses {
		if c.unregister { // that it keeps the name is its own doing
			delete(p.keys, name)
		}
		if isLast := len(conn.arriving) == 1; closes || !isLast && p.losesRefusals {
			return closed
		}
		return answered
	}
	conn.arriving = conn.arriving[1:]
	conn.answers = append(conn.answers, c)
	switch {
	case !c.unregister:
		for _, n := range []string{c.Topic(), name} {
			conn.known[n] = true
			delete(conn.lost, n)
			if isEphemeral(n) {
				p.keys[n] = true
			}
		}
		return good
	case c.Channel() == "":
		for known := range conn.known {
			require.False(t, strings.HasPrefix(known, name+" "), "UNREGISTER %s takes %s along, which lookupd warns about", name, known)
		}
	}
	delete(conn.known, name)
	delete(conn.lost, name)
	if !p.main.known[name] && !p.probe.known[name] {
		delete(p.keys, name)
	}
	return good
}

func (p *modelPeer) refusesTopic(c Command) bool { return p.refuses[c.Topic()] }

func (p *modelPeer) refusedName(c Command) string {
	if p.refusesTopic(c) {
		return c.Topic()
	}
	return commandName(c)
}

// answer lets n answers arrive on the main connection.
func (p *modelPeer) answer(n int) {
	if n = min(n, len(p.main.answers)); n > 0 {
		p.reg.Acknowledge(p.cursor, n, p.main.answers[n-1])
		p.main.answers = p.main.answers[n:]
	}
}

func (p *modelPeer) answerProbe(n int) {
	if n = min(n, len(p.probe.answers)); n > 0 {
		p.reg.ProbeAcknowledge(p.cursor, n)
		p.probe.answers = p.probe.answers[n:]
	}
}

// lose ends the main connection: what was on its way, either way, is lost. The
// probe ends with it.
func (p *modelPeer) lose(severed bool) {
	if p.main.isUp {
		unanswered := p.main.inFlight()
		p.main = modelConn{}
		p.loseProbe(false)
		p.reg.Release(p.cursor, unanswered, severed)
	}
}

func (p *modelPeer) loseProbe(severed bool) {
	if p.probe.isUp {
		p.probe = modelConn{}
		if culprit, _ := p.reg.ProbeLost(p.cursor, severed, !p.main.isUp); culprit != nil {
			p.reg.ProbeRefused(p.cursor, *culprit, false, refusalError(commandName(*culprit)), p.now)
		}
	}
}

func (p *modelPeer) resync() {
	if p.main.isUp && p.reg.Resync(p.cursor) {
		p.before = p.reg.seq
	}
}

// administratorDeletes is an administrator who deletes a name at lookupd, a topic with its channels.
func (p *modelPeer) administratorDeletes(name string) {
	for known := range p.main.known {
		if known == name || topicOf(known) == name {
			delete(p.main.known, known)
			p.main.lost[known] = true
		}
	}
}

// announceAgain lets everything be said again, whether it was lost or not.
func (p *modelPeer) announceAgain() {
	var items []Item
	for _, topic := range modelTopics {
		items = append(items, Item{Topic: topic})
		for _, channel := range modelChannels {
			items = append(items, Item{Topic: topic, Channel: channel})
		}
	}
	p.reg.Announce(p.cursor, items)
}

func commandName(c Command) string { return strings.TrimSpace(c.Topic() + " " + c.Channel()) }

// refusalError is what a lookupd says that refuses the name.
type refusalError string

func (e refusalError) Error() string { return string(e) }

// refusedNames are the names that are set aside because the lookupd refuses them.
func (p *modelPeer) refusedNames() (names []string) {
	for _, s := range p.cursor.refused {
		names = append(names, entryName(s.aside.entry))
	}
	return names
}
