package registry

import (
	"cmp"
	"math"
	"slices"
)

// End is the place of the last change. A lookupd that has acknowledged it
// knows all that the broker has.
func (r *Registry) End() uint64 {
	r.lock()
	defer r.unlock()
	return r.seq
}

// UnchangedSince tells whether the broker has a topic, or a channel of it, and had
// it all the time since that place.
func (r *Registry) UnchangedSince(place uint64, topic, channel string) bool {
	r.lock()
	defer r.unlock()
	e := r.topic(topic)
	if channel != "" {
		e = r.channel(topic, channel)
	}
	return e != nil && e.seq <= place
}

// Watch lets one goroutine wait for lookupds to acknowledge what there was when it
// began.
type Watch struct {
	reg     *Registry
	place   uint64
	changed chan struct{} // capacity 1: readable when to look again; the registry sends
	stopped bool
}

// Watch begins to watch. The caller ends it with Stop.
func (r *Registry) Watch() *Watch {
	r.lock()
	defer r.unlock()
	w := &Watch{reg: r, place: r.seq, changed: make(chan struct{}, 1)}
	r.watches = append(r.watches, w)
	return w
}

// Place is that of the last change before the watch began.
func (w *Watch) Place() uint64 { return w.place }

// Changed is readable after Standing may have come to tell that a lookupd has
// acknowledged the place, or refuses something up to it.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Stop ends the watch.
func (w *Watch) Stop() {
	r := w.reg
	r.lock()
	defer r.unlock()
	w.stopped = true
	if r.stopped++; r.stopped > len(r.watches)/2 {
		r.watches = slices.DeleteFunc(r.watches, func(w *Watch) bool { return w.stopped })
		r.stopped = 0
	}
}

// Wake lets all who watch look again.
func (r *Registry) Wake() {
	r.lock()
	defer r.unlock()
	r.signal()
}

// signal is Wake with mu held.
func (r *Registry) signal() {
	for _, c := range r.cursors {
		r.note(c)
	}
	for _, w := range r.watches {
		w.wake()
	}
}

// acknowledged notes that lookupd has acknowledged all up to place, and lets those
// look again to whom that matters: whoever waits for another change sleeps on, or
// n who wait for n changes would look n times each. It is called with mu held.
func (r *Registry) acknowledged(c *Cursor, place uint64) {
	before := c.acked
	c.acked = max(before, place)
	r.note(c)
	first, _ := slices.BinarySearchFunc(r.watches, before+1, func(w *Watch, place uint64) int { return cmp.Compare(w.place, place) })
	for _, w := range r.watches[first:] {
		if w.place > c.acked {
			break
		}
		w.wake()
	}
}

// resolved lets all look again if the oldest name that is in doubt was older before.
// It is called with mu held.
func (r *Registry) resolved(c *Cursor, before uint64) {
	if c.oldestInDoubt() > before {
		r.signal()
	}
}

// oldestInDoubt is the place of the first name that lookupd may not know.
func (c *Cursor) oldestInDoubt() uint64 {
	if len(c.unresolved) == 0 {
		return math.MaxUint64
	}
	return c.unresolved[0].seq
}

func (w *Watch) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Standing tells of one lookupd whether it knows everything up to a place.
type Standing struct {
	Acknowledged bool // it is connected, and has acknowledged all that it doesn't refuse
	Refuses      bool // some of that
}

// Standing tells how all of cursors stand at one instant.
func (r *Registry) Standing(cursors []*Cursor, place uint64) []Standing {
	r.lock()
	defer r.unlock()
	all := make([]Standing, len(cursors))
	for i, c := range cursors {
		all[i] = Standing{
			Acknowledged: c.connected && c.acked >= place && !c.unresolved.reaches(place),
			Refuses:      c.refused.reaches(place),
		}
	}
	return all
}
