package lookuploop

import (
	"errors"
	"math"
	"slices"
)

const (
	chunkSize     = 256    // entries read under one lock
	maxTombstones = 10_000 // what a registry's maxTombstones is outside of tests
)

var errLagged = errors.New("lookuploop: too many deletions behind, starting over")

// cursor is the place of one lookupd in the registry's log. Everything in it
// is guarded by the registry's mu.
type cursor struct {
	connected bool
	lagged    bool // detached by the registry, see collect

	marker entry  // stands in the log: what is before it has been read
	read   uint64 // the seq up to which the log was read
	skip   uint64 // tombstones up to here send nothing: they are from before the connection or the resync
	known  uint64 // during a resync: what was read before it
	goal   uint64 // the log's end when the connection came up: once acknowledged, lookupd is in sync
	acked  uint64 // everything up to here has been answered

	sent, answered uint64 // commands from the log on this connection
	unread         int    // entries behind the marker (and not known)
	reads, settled uint64 // entries read on this connection, and how many of these are acknowledged

	refused map[*entry]*refusal // survives the connection, see refusal.go
	pairs   map[*entry]*entry   // scratch of read: a topic's channel that announces both
	tried   *entry              // the refused name that is being tried: nothing is read meanwhile
	leaving int                 // passes of the farewell begun
}

// attach puts the cursor of a lookupd that just identified itself to the
// beginning of the log, and pins what gets deleted from now on.
func (r *registry) attach(c *cursor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.forgetDropped()
	*c = cursor{connected: true, refused: c.refused, skip: r.seq, goal: r.seq, unread: r.size}
	c.marker.marker = true
	c.marker.linkBefore(r.log.next)
	r.connected = append(r.connected, c)
	r.signal()
}

// release takes the cursor out of the log when the connection ended. It tells
// what was acknowledged, and how many commands behind that were not answered.
func (r *registry) release(c *cursor) (acked uint64, unanswered int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.connected {
		r.detach(c)
		r.collect()
	}
	r.signal()
	return c.acked, int(c.sent - c.answered)
}

func (r *registry) detach(c *cursor) {
	c.connected = false
	c.marker.unlink()
	r.connected = slices.DeleteFunc(r.connected, func(other *cursor) bool { return other == c })
}

// wasRead tells whether e, at its place, has been read on this connection.
func (c *cursor) wasRead(e *entry) bool { return e.seq <= max(c.read, c.known) }

// passed is the place up to which tombstones mean nothing to this lookupd any more.
func (c *cursor) passed() uint64 { return max(c.read, c.skip) }

// read adds what the next entries of the log, limit at most and none beyond
// upTo, have to say to b. It reads and encodes under one lock, so that what is
// sent was true when it was read.
func (r *registry) read(c *cursor, limit int, upTo uint64, b *batch) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.lagged {
		return errLagged
	}
	if c.read == r.seq || c.read >= upTo || limit <= 0 || c.tried != nil {
		return nil
	}

	end := r.chunkEnd(c, limit, upTo)
	first := len(b.commands)
	for e := c.marker.next; e != end; e = e.next {
		if e.marker {
			continue
		}
		if !c.wasRead(e) {
			c.unread--
			c.reads++
		}
		c.read = e.seq
		if cmd, ok := r.say(c, e); ok {
			b.add(cmd)
			c.sent++
		}
		if last := len(b.commands) - 1; last >= first {
			b.commands[last].ackTo, b.commands[last].reads = c.read, c.reads
		}
	}
	c.marker.unlink()
	c.marker.linkBefore(end)

	// Up to the next entry there is nothing, which is as good as read.
	if end == &r.log {
		c.read = r.seq
	} else if end.seq > upTo {
		c.read = upTo
	}
	if last := len(b.commands) - 1; last >= first {
		b.commands[last].ackTo = c.read
	}
	r.settle(c)
	r.collect()
	return nil
}

// chunkEnd finds the entry behind the next chunk, and which channels in it
// announce their topic: REGISTER topic channel announces both, so it goes at
// the topic's place when such a channel follows in the same chunk. A chunk
// runs one entry over rather than part the two.
func (r *registry) chunkEnd(c *cursor, limit int, upTo uint64) *entry {
	if c.pairs == nil {
		c.pairs = make(map[*entry]*entry)
	}
	clear(c.pairs)
	var last *entry
	n := 0
	for e := c.marker.next; e != &r.log; e = e.next {
		if e.marker {
			continue
		}
		registers := !e.deleted && !c.isRefused(e) // a channel that registers has a topic that does
		isOver := n > limit || n == limit && !(registers && e.parent != nil && e.parent == last)
		if e.seq > upTo || isOver {
			return e
		}
		if registers && e.parent == nil {
			c.pairs[e] = nil
		} else if channel, inChunk := c.pairs[e.parent]; registers && inChunk && channel == nil {
			c.pairs[e.parent] = e
		}
		last = e
		n++
	}
	return &r.log
}

// say returns the command that e's state calls for, if any.
func (r *registry) say(c *cursor, e *entry) (command, bool) {
	switch {
	case c.isRefused(e):
		return command{}, false
	case e.deleted:
		return commandFor(unregister, e), e.seq > c.skip
	}
	delete(c.refused, e) // it was made again: this time it may pass
	if channel := c.pairs[e]; channel != nil {
		return commandFor(register, channel), true
	}
	return commandFor(register, e), c.pairs[e.parent] != e
}

// settle acknowledges what needed no answer, once no answer is awaited.
func (r *registry) settle(c *cursor) {
	if c.answered == c.sent {
		c.acked, c.settled = max(c.acked, c.read), c.reads
		r.signal()
	}
}

// acknowledge notes the good answers to n commands from the log, of which last was the last.
func (r *registry) acknowledge(c *cursor, n int, last command) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.connected {
		return
	}
	c.answered += uint64(n)
	c.acked, c.settled = max(c.acked, last.ackTo), last.reads
	if last.retry {
		c.tried = nil
		r.accept(c, last)
	}
	r.settle(c)
	r.signal()
}

// inSync tells whether lookupd has acknowledged all that there was when the
// connection came up.
func (r *registry) inSync(c *cursor) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.connected && c.acked >= c.goal
}

// resync puts the cursor back to the beginning, provided it is at the end. The
// deletions before it have been sent.
func (r *registry) resync(c *cursor) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.connected || c.read != r.seq {
		return false
	}
	r.rewind(c)
	return true
}

func (r *registry) rewind(c *cursor) {
	c.skip, c.known, c.read = c.read, c.read, 0
	c.marker.unlink()
	c.marker.linkBefore(r.log.next)
}

// farewell adds a chunk of what is said before an orderly end of the
// connection to b: UNREGISTER for each ephemeral name, because nsqlookupd
// would keep the name otherwise. Channels go before topics, in two passes
// over the log. It returns false when all was said.
func (r *registry) farewell(c *cursor, b *batch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.connected || r.ephemerals == 0 {
		return false
	}
	e := c.marker.next
	c.marker.unlink()
	if c.leaving == 0 {
		e = r.log.next
		c.leaving = 1
	}
	for n := 0; n < chunkSize && c.leaving <= 2; e = e.next {
		switch isChannel := e.parent != nil; {
		case e == &r.log:
			c.leaving++
		case e.marker:
		default:
			n++
			isUnknown := c.isRefused(e) && e != c.tried // lookupd may be about to accept that
			if e.ephemeral && isChannel == (c.leaving == 1) && !isUnknown {
				b.add(commandFor(unregister, e))
				c.sent++
			}
		}
	}
	c.marker.linkBefore(e)
	return c.leaving <= 2
}

// hasRead tells whether the log was read up to the given place.
func (r *registry) hasRead(c *cursor, place uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.read >= place
}

// view returns what a lookupd's status shows of its cursor.
func (r *registry) view(c *cursor) (pending int, refused []*ResponseError) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pending(c), c.refusals(everything)
}

// pending is the number of changes that lookupd has not acknowledged.
func (r *registry) pending(c *cursor) int {
	if !c.connected {
		return r.topics + r.channels
	}
	return c.unread + int(c.reads-c.settled)
}

// everything as the limit upTo of read.
const everything = math.MaxUint64
