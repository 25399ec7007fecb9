package lookuploop

import "github.com/lookuploop/lookuploop/internal/wire"

// command is one command to lookupd from the log, and what its answer will mean.
type command struct {
	verb           verb
	retry          bool   // of a refused name
	topic, channel *entry // what it is about
	topicSeq       uint64 // their places when the command was made
	channelSeq     uint64
	ackTo          uint64 // the log is acknowledged up to here …
	reads          uint64 // … by so many entries
}

type verb uint8

const (
	register verb = iota
	unregister
)

func (v verb) String() string { return [...]string{wire.Register, wire.Unregister}[v] }

// commandFor makes a command about e.
func commandFor(v verb, e *entry) command {
	if e.parent == nil {
		return command{verb: v, topic: e, topicSeq: e.seq}
	}
	return command{verb: v, topic: e.parent, topicSeq: e.parent.seq, channel: e, channelSeq: e.seq}
}

// subject is the topic or channel that the command is about.
func (c command) subject() *entry {
	if c.channel != nil {
		return c.channel
	}
	return c.topic
}

func (c command) topicName() string   { return c.topic.nameOrEmpty() }
func (c command) channelName() string { return c.channel.nameOrEmpty() }

func (e *entry) nameOrEmpty() string {
	if e == nil {
		return ""
	}
	return e.name
}

// batch is what is read from the log at once.
type batch struct{ commands []command }

func (b *batch) add(c command) { b.commands = append(b.commands, c) }

func (b *batch) reset() { b.commands = b.commands[:0] }

// encode adds the commands to out.
func (b *batch) encode(out *wire.Batch[command]) {
	for _, c := range b.commands {
		out.Add(c.verb.String(), c.topicName(), c.channelName(), c)
	}
}

// shrink makes b empty and gives its memory back, but for a little.
func (b *batch) shrink() {
	b.reset()
	if cap(b.commands) > 64 {
		*b = batch{}
	}
}
