package registry

import (
	"errors"
	"math"
	"slices"
)

const (
	// ChunkSize is how many entries are read under one lock.
	ChunkSize = 256

	// MaxTombstones is how many deletions a lookupd may lag.
	MaxTombstones = 10_000
)

// ErrLagged: a lookupd has so many deletions to hear of that it starts over.
var ErrLagged = errors.New("lookuploop: too many deletions behind, starting over")

// Cursor is the place of one lookupd in the registry's log. The zero Cursor is
// one that never connected. Everything in it is guarded by the registry's mu.
type Cursor struct {
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

// Attach puts the cursor of a lookupd that just identified itself to the
// beginning of the log, and pins what gets deleted from now on.
func (r *Registry) Attach(c *Cursor) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.forgetDropped()
	*c = Cursor{connected: true, refused: c.refused, skip: r.seq, goal: r.seq, unread: r.size}
	c.marker.marker = true
	c.marker.linkBefore(r.log.next)
	r.connected = append(r.connected, c)
	r.signal()
}

// Release takes the cursor out of the log when the connection ended. It tells
// what was acknowledged, and how many commands behind that were not answered.
func (r *Registry) Release(c *Cursor) (acked uint64, unanswered int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.connected {
		r.detach(c)
		r.collect()
	}
	r.signal()
	return c.acked, int(c.sent - c.answered)
}

func (r *Registry) detach(c *Cursor) {
	c.connected = false
	c.marker.unlink()
	r.connected = slices.DeleteFunc(r.connected, func(other *Cursor) bool { return other == c })
}

// wasRead tells whether e, at its place, has been read on this connection.
func (c *Cursor) wasRead(e *entry) bool { return e.seq <= max(c.read, c.known) }

// passed is the place up to which tombstones mean nothing to this lookupd any more.
func (c *Cursor) passed() uint64 { return max(c.read, c.skip) }

// Read appends what the next entries of the log, limit at most and none beyond
// upTo, have to say to out. All of it is fixed under one lock, so that what is
// sent was true when it was read. A chunk that says nothing is progress too: the
// next one may say something.
func (r *Registry) Read(c *Cursor, limit int, upTo uint64, out []Command) (_ []Command, progress bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.lagged {
		return out, false, ErrLagged
	}
	if c.read == r.seq || c.read >= upTo || limit <= 0 || c.tried != nil {
		return out, false, nil
	}

	end := r.chunkEnd(c, limit, upTo)
	first := len(out)
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
			out = append(out, cmd)
			c.sent++
		}
		if last := len(out) - 1; last >= first {
			out[last].ackTo, out[last].reads = c.read, c.reads
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
	if last := len(out) - 1; last >= first {
		out[last].ackTo = c.read
	}
	r.settle(c)
	r.collect()
	return out, true, nil
}

// chunkEnd finds the entry behind the next chunk, and which channels in it
// announce their topic: REGISTER topic channel announces both, so it goes at
// the topic's place when such a channel follows in the same chunk. A chunk
// runs one entry over rather than part the two.
func (r *Registry) chunkEnd(c *Cursor, limit int, upTo uint64) *entry {
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
func (r *Registry) say(c *Cursor, e *entry) (Command, bool) {
	switch {
	case c.isRefused(e):
		return Command{}, false
	case e.deleted:
		return newCommand(true, e), e.seq > c.skip
	}
	delete(c.refused, e) // it was made again: this time it may pass
	if channel := c.pairs[e]; channel != nil {
		return newCommand(false, channel), true
	}
	return newCommand(false, e), c.pairs[e.parent] != e
}

// settle acknowledges what needed no answer, once no answer is awaited.
func (r *Registry) settle(c *Cursor) {
	if c.answered == c.sent {
		c.acked, c.settled = max(c.acked, c.read), c.reads
		r.signal()
	}
}

// Acknowledge notes the good answers to n commands, of which last was the last.
func (r *Registry) Acknowledge(c *Cursor, n int, last Command) {
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

// InSync tells whether lookupd has acknowledged all that there was when the
// connection came up.
func (r *Registry) InSync(c *Cursor) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.connected && c.acked >= c.goal
}

// Resync puts the cursor back to the beginning, provided it is at the end. The
// deletions before it have been sent.
func (r *Registry) Resync(c *Cursor) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.connected || c.read != r.seq {
		return false
	}
	r.rewind(c)
	return true
}

func (r *Registry) rewind(c *Cursor) {
	c.skip, c.known, c.read = c.read, c.read, 0
	c.marker.unlink()
	c.marker.linkBefore(r.log.next)
}

// Farewell appends a chunk of what is said before an orderly end of the
// connection to out: UNREGISTER for each ephemeral name, because nsqlookupd
// would keep the name otherwise. Channels go before topics, in two passes
// over the log. It returns more false when all was said.
func (r *Registry) Farewell(c *Cursor, out []Command) (_ []Command, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !c.connected || r.ephemerals == 0 {
		return out, false
	}
	e := c.marker.next
	c.marker.unlink()
	if c.leaving == 0 {
		e = r.log.next
		c.leaving = 1
	}
	for n := 0; n < ChunkSize && c.leaving <= 2; e = e.next {
		switch isChannel := e.parent != nil; {
		case e == &r.log:
			c.leaving++
		case e.marker:
		default:
			n++
			isUnknown := c.isRefused(e) && e != c.tried // lookupd may be about to accept that
			if e.ephemeral && isChannel == (c.leaving == 1) && !isUnknown {
				out = append(out, newCommand(true, e))
				c.sent++
			}
		}
	}
	c.marker.linkBefore(e)
	return out, c.leaving <= 2
}

// hasRead tells whether the log was read up to the given place.
func (r *Registry) hasRead(c *Cursor, place uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.read >= place
}

// View returns what a lookupd's status shows of its cursor.
func (r *Registry) View(c *Cursor) (pending int, refused []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pending(c), c.refusals(Everything)
}

// pending is the number of changes that lookupd has not acknowledged.
func (r *Registry) pending(c *Cursor) int {
	if !c.connected {
		return r.topics + r.channels
	}
	return c.unread + int(c.reads-c.settled)
}

// Everything as the limit upTo of Read.
const Everything = math.MaxUint64
