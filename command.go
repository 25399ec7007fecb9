package lookuploop

import (
	"bytes"
	"time"
)

// command is one command to lookupd, and what its answer will mean.
type command struct {
	verb           verb
	retry          bool   // of a refused name
	topic, channel *entry // what it is about, if anything
	topicSeq       uint64 // their places when the command was made
	channelSeq     uint64
	ackTo          uint64        // the log is acknowledged up to here …
	reads          uint64        // … by so many entries
	sentAt         time.Duration // since the connection came up
	heard          int           // answers that had come by then
}

type verb uint8

const (
	identify verb = iota
	register
	unregister
	ping
)

func (v verb) String() string { return [...]string{"IDENTIFY", "REGISTER", "UNREGISTER", "PING"}[v] }

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

// batch is what is written at once: commands and their encoding.
type batch struct {
	commands []command
	encoded  bytes.Buffer
}

// add encodes c, which isn't IDENTIFY, as in NSQ's TCP protocol spec. It
// allocates nothing but room in b, which a sync of 100,000 names would feel.
func (b *batch) add(c command) {
	b.encoded.WriteString(c.verb.String())
	for _, e := range [...]*entry{c.topic, c.channel} {
		if e != nil {
			b.encoded.WriteByte(' ')
			b.encoded.WriteString(e.name)
		}
	}
	b.encoded.WriteByte('\n')
	b.commands = append(b.commands, c)
}

func (b *batch) reset() {
	b.commands = b.commands[:0]
	b.encoded.Reset()
}
