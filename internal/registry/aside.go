package registry

import "container/heap"

// aside is a name that one lookupd may refuse, or does. It is not for the main
// connection, because a refusal would cost that all registrations.
type aside struct {
	*entry
	state   asideState
	index   int      // in its heap
	told    uint64   // lookupd may have taken what was born up to here: it, and channels of it
	strikes int      // how often a probe ended at it alone
	onMain  bool     // REGISTER was sent on the main connection …
	acked   bool     // … and acknowledged; channels that it covered are still to be asked about
	covered []*entry // of a topic: channels that the main connection passed over because of it …
	pass    int      // … in this pass
}

type asideState int

const (
	remembered asideState = iota // it was deleted; made again, it is in doubt
	waiting                      // for the probe
	probing                      // sent on the probe, and not answered
	passed                       // acknowledged on the probe: it is for the main connection, too
	refused                      // until the next retry
)

// standing is an aside in one of two heaps: of what lookupd refused, and of
// what it doesn't know yet. The oldest is on top.
type standing struct {
	seq    uint64 // its place
	reason error  // why lookupd refuses it; nil: it doesn't
	aside  *aside
}

type standings []standing

func (s standings) Len() int           { return len(s) }
func (s standings) Less(i, j int) bool { return s[i].seq < s[j].seq }
func (s standings) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].aside.index, s[j].aside.index = i, j
}

func (s *standings) Push(x any) {
	item := x.(standing)
	item.aside.index = len(*s)
	*s = append(*s, item)
}

func (s *standings) Pop() any {
	last := len(*s) - 1
	item := (*s)[last]
	(*s)[last] = standing{}
	*s = (*s)[:last]
	return item
}

// reaches tells whether the oldest is at or before place.
func (s standings) reaches(place uint64) bool { return len(s) > 0 && s[0].seq <= place }

// The following are called with mu held.

// of returns what is known of a's place; the zero standing if a is in no heap.
func (c *Cursor) of(a *aside) standing {
	for _, s := range []standings{c.refused, c.unresolved} {
		if a.index < len(s) && s[a.index].aside == a {
			return s[a.index]
		}
	}
	return standing{}
}

// stand gives a its standing: refused for a reason, or without one unresolved.
func (c *Cursor) stand(a *aside, reason error) {
	c.leave(a)
	if reason != nil {
		heap.Push(&c.refused, standing{a.seq, reason, a})
	} else {
		heap.Push(&c.unresolved, standing{a.seq, nil, a})
	}
}

// leave takes a out of its heap, if it is in one.
func (c *Cursor) leave(a *aside) {
	for _, s := range []*standings{&c.refused, &c.unresolved} {
		if a.index < len(*s) && (*s)[a.index].aside == a {
			heap.Remove(s, a.index)
			return
		}
	}
}

// setAside returns the aside of e; a new one, if need be, says that lookupd may
// have taken what was born up to told.
func (c *Cursor) setAside(e *entry, told uint64) *aside {
	a := c.aside[e]
	if a == nil {
		if c.aside == nil {
			c.aside = make(map[*entry]*aside)
		}
		a = &aside{entry: e, told: told}
		c.aside[e] = a
		e.isAside = true
	}
	return a
}

// doubtName lets the probe ask for e.
func (c *Cursor) doubtName(e *entry) {
	a := c.setAside(e, c.told)
	*a = aside{entry: e, state: waiting, told: a.told, index: a.index}
	c.stand(a, nil)
	c.queue = append(c.queue, a)
}

// resolve ends that a is set aside: the main connection has it.
func (c *Cursor) resolve(a *aside) {
	c.leave(a)
	delete(c.aside, a.entry)
}

// forget is for an entry that was deleted. What the main connection has said of
// it needs to be taken back; otherwise it is in doubt when it is made again.
func (c *Cursor) forget(e *entry) {
	a := c.aside[e]
	if a == nil {
		return
	}
	if a.onMain {
		c.resolve(a)
		return
	}
	c.leave(a)
	a.state, a.covered = remembered, nil
}

// isMain tells whether REGISTER for a live e is for the main connection, and
// nothing is known of it that needs care.
func (c *Cursor) isMain(e *entry) bool {
	if len(c.aside) == 0 && c.doubt.isEmpty() {
		return true
	}
	return c.aside[e] == nil && !c.isCovered(e) && !c.doubt.has(e.seq)
}

// isCovered tells whether e is a channel of a topic that is not for the main
// connection: REGISTER topic channel would announce that, too.
func (c *Cursor) isCovered(e *entry) bool {
	if e.parent == nil {
		return false
	}
	topic := c.aside[e.parent]
	return topic != nil && topic.state != passed
}

// cover notes that the main connection passed over a channel of topic.
func (c *Cursor) cover(topic *aside, channel *entry) {
	if topic.pass != c.pass {
		topic.covered, topic.pass = nil, c.pass
	}
	topic.covered = append(topic.covered, channel)
}

// coverAside is cover for a channel that was set aside itself, before its topic
// was.
func (c *Cursor) coverAside(a *aside) {
	c.leave(a)
	delete(c.aside, a.entry)
	c.cover(c.aside[a.parent], a.entry)
}

// wasSaid tells whether the main connection may have announced e, which is
// deleted.
func (c *Cursor) wasSaid(e *entry) bool {
	if len(c.aside) == 0 {
		return true
	}
	if c.aside[e] != nil {
		return false
	}
	if e.parent == nil {
		return true
	}
	topic := c.aside[e.parent]
	return topic == nil || topic.onMain
}

// span is a piece of the log: the places behind after, up to upTo.
type span struct{ after, upTo uint64 }

func (s span) isEmpty() bool         { return s.after >= s.upTo }
func (s span) has(place uint64) bool { return place > s.after && place <= s.upTo }

// common is what both have.
func (s span) common(other span) span {
	return span{max(s.after, other.after), min(s.upTo, other.upTo)}
}

// with is the smallest span that has both.
func (s span) with(other span) span {
	switch {
	case s.isEmpty():
		return other
	case other.isEmpty():
		return s
	}
	return span{min(s.after, other.after), max(s.upTo, other.upTo)}
}
