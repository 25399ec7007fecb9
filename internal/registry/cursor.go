package registry

import (
	"slices"
	"time"
)

const (
	// ChunkSize is how many entries are read under one lock.
	ChunkSize = 256

	maxRemembered = 10_000 // deleted names of which it is remembered that a lookupd refused them
)

// Cursor is the place of one lookupd in the registry's log, and what is known
// of the names that it may refuse. Make it with [Registry.NewCursor]. Everything
// in it is guarded by the registry's mu.
type Cursor struct {
	index     int // in the registry's cursors
	connected bool

	marker entry  // stands in the log: what is before it has been read
	read   uint64 // the seq up to which the log was read
	skip   uint64 // tombstones up to here send nothing: they are from before the connection or the resync
	known  uint64 // during a resync: what was read before it
	goal   uint64 // the log's end when the connection came up: once acknowledged, lookupd is in sync
	acked  uint64 // everything up to here has been answered

	sent, answered uint64 // commands on this connection
	unread         int    // entries behind the marker (and not known)
	reads, settled uint64 // entries read on this connection, and how many of these are acknowledged
	pass           int    // over the log; each connection and each resync begins one
	leaving        int    // passes of the farewell begun

	pairs map[*entry]*entry // scratch of Read: a topic's channel that announces both

	// What follows survives the connection.

	missing    time.Time // since when lookupd doesn't know everything; zero: it does
	told       uint64    // lookupd may have taken what was born up to here
	toldBefore uint64    // the same before the last connection
	ghosts     []ghost
	suspect    span // what was unanswered when a connection ended without an answer
	doubt      span // what is in doubt, and not set aside yet

	aside      map[*entry]*aside
	refused    standings
	unresolved standings // what is in doubt, or passed and not acknowledged on the main connection
	late       []*aside  // passed, and behind the main connection's place
	lateSent   []lateCommand
	again      []*entry // that lookupd lost, see Announce
	probe
}

// lateCommand is a REGISTER on the main connection for a name that passed.
type lateCommand struct {
	number uint64 // of the command on this connection
	aside  *aside
}

// NewCursor returns the cursor of a lookupd that never connected. Refused names
// are tried again after retryDelay, which doubles up to MaxRetryDelay.
func (r *Registry) NewCursor(retryDelay time.Duration) *Cursor {
	r.lock()
	defer r.unlock()
	c := &Cursor{missing: time.Now(), probe: probe{firstDelay: retryDelay}}
	c.index = len(r.cursors)
	r.cursors = append(r.cursors, c)
	return c
}

// Remove forgets a cursor that was released, for good.
func (r *Registry) Remove(c *Cursor) {
	r.lock()
	defer r.unlock()
	if c.index >= len(r.cursors) || r.cursors[c.index] != c {
		return // it was removed before
	}
	end := len(r.cursors) - 1
	last := r.cursors[end]
	last.index = c.index
	r.cursors[c.index] = last
	r.cursors[end] = nil
	r.cursors = r.cursors[:end]
}

// Attach puts the cursor of a lookupd that just identified itself to the
// beginning of the log, and pins what gets deleted from now on.
func (r *Registry) Attach(c *Cursor, now time.Time) {
	r.lock()
	defer r.unlock()
	c.connected = true
	c.read, c.known, c.acked, c.skip, c.goal = 0, 0, 0, r.seq, r.seq
	c.sent, c.answered, c.reads, c.settled, c.unread = 0, 0, 0, 0, r.size
	c.leaving = 0
	c.pass++
	c.marker.linkBefore(r.log.next)
	r.connected = append(r.connected, c)
	c.retrySoon(now)
	r.signal()
}

// Release takes the cursor out of the log when the connection ended. unanswered
// are the commands without a good answer, in their order; severed tells that the
// connection ended without an answer to the first of them.
//
// Mostly that is the network's fault. If two connections in a row end amid the
// same commands, lookupd refuses one of them, and TCP lost its answer, or it is
// stuck at one: these commands, and what comes after them, are in doubt.
func (r *Registry) Release(c *Cursor, unanswered []Command, severed bool) {
	r.lock()
	defer r.unlock()
	if c.connected {
		r.detach(c)
		r.keepGhosts(c, unanswered, severed)
		r.collect()
	}
	isDoubted := false
	if severed && len(unanswered) > 0 {
		open := span{c.acked, c.read}
		common := open.common(c.suspect)
		if isDoubted = !common.isEmpty(); isDoubted {
			c.doubt = c.doubt.with(span{common.after, r.seq})
			open = span{}
		}
		c.suspect = open
	}
	for _, late := range c.lateSent {
		late.aside.onMain = false
		if isDoubted && c.aside[late.aside.entry] == late.aside { // that it passed the probe once means nothing any more
			c.doubtName(late.aside.entry)
		}
	}
	for _, topic := range c.uncovered {
		topic.onMain = false
	}
	c.late, c.lateSent, c.uncovered, c.again = nil, nil, nil, nil
	r.signal()
}

func (r *Registry) detach(c *Cursor) {
	c.toldBefore, c.told = c.told, max(c.told, c.read, c.known)
	c.connected = false
	c.marker.unlink()
	r.connected = slices.DeleteFunc(r.connected, func(other *Cursor) bool { return other == c })

	// The deletions that it didn't hear of may concern nobody else.
	var marker entry
	n := 0
	for r.tombstones.pushBefore(r.tombstones.root.nextInRing, &marker); ; {
		e := marker.nextInRing
		r.tombstones.remove(&marker)
		if e == &r.tombstones.root {
			return
		}
		r.tombstones.pushBefore(e.nextInRing, &marker)
		if e.isMarker() || e.seq <= c.passed() {
			continue
		}
		if e.birth <= c.told {
			c.haunt(e, 0)
		}
		if !r.isNeeded(e, e.seq) {
			r.tombstones.remove(e)
			r.drop(e)
		}
		if n++; n%r.hold == 0 {
			r.letOthersIn()
		}
	}
}

// wasRead tells whether e, at its place, has been read on this connection.
func (c *Cursor) wasRead(e *entry) bool { return e.seq <= max(c.read, c.known) }

// passed is the place up to which tombstones mean nothing to this lookupd any more.
func (c *Cursor) passed() uint64 { return max(c.read, c.skip) }

// Acknowledge notes the good answers to n commands, of which last was the last.
func (r *Registry) Acknowledge(c *Cursor, n int, last Command) {
	r.lock()
	defer r.unlock()
	if !c.connected {
		return
	}
	doubt := c.oldestInDoubt()
	c.answered += uint64(n)
	for len(c.lateSent) > 0 && c.lateSent[0].number <= c.answered {
		if a := c.lateSent[0].aside; c.aside[a.entry] == a && a.onMain {
			if a.acked = len(a.covered) > 0 && a.pass == c.pass; !a.acked {
				c.resolve(a)
			}
		}
		c.lateSent = c.lateSent[1:]
	}
	c.settled = last.reads
	r.acknowledged(c, last.ackTo)
	r.settle(c)
	if c.acked >= c.goal {
		c.suspect = span{}
	}
	r.resolved(c, doubt)
}

// settle acknowledges what needed no answer, once no answer is awaited.
func (r *Registry) settle(c *Cursor) {
	if c.answered == c.sent {
		c.settled = c.reads
		r.acknowledged(c, c.read)
	}
}

// InSync tells whether lookupd has acknowledged all that there was when the
// connection came up, but for what is in doubt.
func (r *Registry) InSync(c *Cursor) bool {
	r.lock()
	defer r.unlock()
	return c.connected && c.acked >= c.goal
}

// Resync puts the cursor back to the beginning, provided it is at the end, and the
// probe has nothing to do. The deletions before it have been sent.
func (r *Registry) Resync(c *Cursor) bool {
	r.lock()
	defer r.unlock()
	if !c.connected || c.read != r.seq || c.isAsking() || len(c.unresolved) > 0 {
		return false
	}
	c.skip, c.known, c.read = c.read, c.read, 0
	c.pass++
	c.marker.unlink()
	c.marker.linkBefore(r.log.next)
	return true
}

// Announce lets the main connection say again that items exist, because lookupd
// lost them. Those that it has not said yet, or must not say, are left out; each
// item occurs once. It takes the place of an earlier call's items.
func (r *Registry) Announce(c *Cursor, items []Item) {
	r.lock()
	defer r.unlock()
	var again []*entry
	for i, item := range items {
		e := r.topic(item.Topic)
		if item.Channel != "" {
			e = r.channel(item.Topic, item.Channel)
		}
		if e != nil {
			again = append(again, e)
		}
		if i%r.hold == r.hold-1 {
			r.letOthersIn()
		}
	}
	if c.connected {
		c.again = again
	}
}

// View is what a lookupd's status shows of its cursor.
type View struct {
	Pending      int       // changes that it has not acknowledged
	Refusals     []error   // why it refuses names, oldest first
	MissingSince time.Time // since when it doesn't know everything; zero: it does
}

// View returns how a lookupd stands at one instant.
func (r *Registry) View(c *Cursor) View {
	var all standings // made without the lock, or to hold it would take as long as the refusals are many
	r.lock()
	for len(c.refused) > cap(all) {
		n := len(c.refused)
		r.mu.Unlock()
		all = make(standings, 0, n+n/8)
		r.lock()
	}
	all = append(all, c.refused...)
	r.note(c)
	v := View{Pending: r.pending(c), MissingSince: c.missing}
	r.unlock()
	v.Refusals = all.reasons()
	return v
}

// note keeps since when lookupd doesn't know everything. It is called with mu
// held, after what may have changed that.
func (r *Registry) note(c *Cursor) {
	switch knows := c.connected && r.pending(c) == 0 && len(c.refused) == 0; {
	case knows:
		c.missing = time.Time{}
	case c.missing.IsZero():
		c.missing = time.Now()
	}
}

// pending is the number of changes that lookupd has not acknowledged.
func (r *Registry) pending(c *Cursor) int {
	if !c.connected {
		return r.topics + r.channels
	}
	return c.unread + int(c.reads-c.settled) + len(c.unresolved)
}

// reasons sorts s and returns why the names are refused.
func (s standings) reasons() []error {
	slices.SortFunc(s, func(a, b standing) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	var all []error
	for _, item := range s {
		all = append(all, item.reason)
	}
	return all
}
