package wire

import (
	"bytes"
	"time"
)

// The verbs of the commands, as in NSQ's TCP protocol spec.
const (
	Identify   = "IDENTIFY"
	Register   = "REGISTER"
	Unregister = "UNREGISTER"
	Ping       = "PING"
)

// command is what is remembered of a command until its answer comes.
type command[T any] struct {
	verb   string
	tag    T
	sentAt time.Duration // by the connection's clock
	heard  int           // answers that had come by then
}

// Batch is what is written at once: commands with their tags, and their
// encoding. The zero value is an empty one.
type Batch[T any] struct {
	commands []command[T]
	encoded  bytes.Buffer
}

// Add adds a REGISTER or UNREGISTER; the channel may be empty. It allocates
// nothing but room in b, which a sync of 100,000 names would feel.
func (b *Batch[T]) Add(verb, topic, channel string, tag T) {
	b.encoded.WriteString(verb)
	b.encoded.WriteByte(' ')
	b.encoded.WriteString(topic)
	if channel != "" {
		b.encoded.WriteByte(' ')
		b.encoded.WriteString(channel)
	}
	b.encoded.WriteByte('\n')
	b.commands = append(b.commands, command[T]{verb: verb, tag: tag})
}

// Ping adds a PING.
func (b *Batch[T]) Ping() {
	b.encoded.WriteString(Ping + "\n")
	b.commands = append(b.commands, command[T]{verb: Ping})
}

// Len is the number of commands.
func (b *Batch[T]) Len() int { return len(b.commands) }

// Reset makes b empty and keeps its memory for what is added next.
func (b *Batch[T]) Reset() {
	clear(b.commands) // what the tags refer to isn't needed any more
	b.commands = b.commands[:0]
	b.encoded.Reset()
}

// Shrink makes b empty and gives its memory back, but for a little.
func (b *Batch[T]) Shrink() {
	b.Reset()
	if cap(b.commands) > idleCommands {
		*b = Batch[T]{}
	}
}
