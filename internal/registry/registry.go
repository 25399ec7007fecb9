package registry

import (
	"strings"
	"sync"

	"go.uber.org/atomic"
)

// Registry is what the broker has, as a compacted log.
//
// Everything here is guarded by mu, which is never held across I/O.
type Registry struct {
	mu      sync.Mutex
	waiting atomic.Int32 // how many wait in lock …
	asleep  atomic.Int32 // … and no longer look at mu again and again
	entries map[key]*entry
	last    lookup // in entries: a change is checked, and then applied
	log     entry  // the log is a ring of entries and cursors' markers; log is where it begins and ends
	size    int    // entries in the log
	seq     uint64 // of the last change that moved an entry
	closed  bool   // nothing may change any more

	tombstones ring // the deleted ones that a lookupd has to hear of, in the log's order
	remembered ring // deleted ones that left the log, but that a lookupd refused

	topics, channels int    // that are not deleted
	ephemerals       int    // entries, tombstones among them, that are ephemeral
	version          uint64 // raised by each change of what belongs into nsqd.dat

	scratch map[Change]fate // of check, empty between its calls

	generation  uint16       // of the last declaration
	declaration *declaration // that is under way
	snapshots   []*snapshot  // that are under way
	topicWalks  []*topicWalk // that are under way

	// Locked before mu, by declarations and snapshots, who may wait for each other.
	declaring sync.Mutex // one declaration at a time
	flip      sync.Mutex // a snapshot doesn't begin while one is being carried out

	hold   int    // entries that a walk looks at before it lets others have the lock
	others func() // tests put in what they do then …
	back   func() // … and when the walk has the lock again

	cursors   []*Cursor // all of them
	connected []*Cursor
	watches   []*Watch // by place; some may have stopped
	stopped   int      // so many of them
}

// key names an entry: a topic has no parent, a channel's is its topic.
type key struct {
	parent *entry
	name   string
}

// entry is one topic or channel; key, channels' topics included, never
// changes, so that it may be read without the lock.
type entry struct {
	key
	seq        uint64 // place in the log; 0 outside of the log
	birth      uint64 // its first place since it came into the log
	prev, next *entry // in the log; nil outside of it

	prevInRing, nextInRing *entry // set only in a ring of deleted entries

	nextChannel *entry // of a topic: its newest channel; of a channel: the next older one, tombstones among them
	prevChannel *entry // of a channel: the next newer one

	deleted   bool
	paused    bool
	ephemeral bool // it or its topic
	isAside   bool // a cursor may have set it aside

	// For a declaration, see there.
	isTodo, wantsPause bool
	mark               uint16
}

// isMarker tells whether e is no entry at all, but marks a place in the log.
func (e *entry) isMarker() bool { return e.name == "" }

// EphemeralSuffix ends the name of a topic or channel that is not to outlive
// its use.
const EphemeralSuffix = "#ephemeral"

// New returns an empty registry.
func New() *Registry {
	r := &Registry{entries: make(map[key]*entry), hold: longHold}
	r.log.prev, r.log.next = &r.log, &r.log
	r.tombstones.init()
	r.remembered.init()
	return r
}

// The following are called with mu held.

// topic returns the live topic of that name, or nil.
func (r *Registry) topic(name string) *entry { return r.live(key{name: name}) }

// channel returns the live channel, or nil.
func (r *Registry) channel(topic, name string) *entry {
	parent := r.topic(topic)
	if parent == nil {
		return nil
	}
	return r.live(key{parent, name})
}

// lookup is what was found for a key: an entry, or nil.
type lookup struct {
	key
	found *entry
}

// find returns the entry of k, or nil.
func (r *Registry) find(k key) *entry {
	if k != r.last.key {
		r.last = lookup{k, r.entries[k]}
	}
	return r.last.found
}

func (r *Registry) live(k key) *entry {
	if e := r.find(k); e != nil && !r.settled(e).deleted {
		return e
	}
	return nil
}

// liveOf returns what there is of e's name, or nil. e itself may have left the
// registry.
func (r *Registry) liveOf(e *entry) *entry {
	if e.parent == nil {
		return r.topic(e.name)
	}
	return r.channel(e.parent.name, e.name)
}

// create makes the topic or channel exist. A channel's topic must.
func (r *Registry) create(k key) {
	e := r.find(k)
	if e == nil {
		e = r.newEntry(k)
		e.deleted = true
	}
	if r.settled(e).deleted {
		r.changing(e)
		r.revive(e)
	}
}

// newEntry makes an entry that is not in the log yet.
func (r *Registry) newEntry(k key) *entry {
	k.name = strings.Clone(k.name) // the caller's may be part of something large
	e := &entry{key: k, ephemeral: strings.HasSuffix(k.name, EphemeralSuffix)}
	if k.parent != nil {
		e.ephemeral = e.ephemeral || k.parent.ephemeral
		k.parent.addChannel(e)
	}
	r.entries[k] = e
	r.last = lookup{k, e}
	return e
}

// revive makes a deleted entry live.
func (r *Registry) revive(e *entry) {
	switch {
	case e.prevInRing == nil: // it is new
	case e.prev != nil:
		r.tombstones.remove(e)
	default:
		r.remembered.remove(e)
	}
	e.deleted, e.paused = false, false
	r.count(e, 1)
	r.moveToEnd(e)
	r.touch(e)
}

// delete makes a live topic or channel a tombstone. A topic's channels go
// first: nsqlookupd wonders about a topic that goes with channels.
func (r *Registry) delete(e *entry) {
	r.deleteChannels(e)
	r.bury(e)
	r.collect()
}

// deleteChannels deletes the channels of e, if it is a topic.
func (r *Registry) deleteChannels(e *entry) {
	if e.parent != nil {
		return
	}
	for c := e.nextChannel; c != nil; {
		next := c.nextChannel // c may leave the list
		if !r.settled(c).deleted {
			r.bury(c)
		}
		c = next
	}
}

func (r *Registry) bury(e *entry) {
	r.changing(e)
	e.deleted = true
	r.count(e, -1)
	r.touch(e)
	if e.ephemeral {
		r.haunt(e)
	}
	if e.isAside {
		for _, c := range r.cursors {
			c.forget(e)
		}
		r.signal()
	}
	if !r.isNeeded(e, r.seq+1) {
		r.drop(e)
		return
	}
	r.moveToEnd(e)
	r.tombstones.push(e)
}

// isNeeded tells whether a connected lookupd may know e, and has to hear yet of
// its deletion, which is at place. What was born and died before a lookupd read
// of it is none of its business.
func (r *Registry) isNeeded(e *entry, place uint64) bool {
	for _, c := range r.connected {
		if place > c.passed() && e.birth <= max(c.read, c.known) {
			return true
		}
	}
	return false
}

// pause sets whether a live entry is paused.
func (r *Registry) pause(e *entry, paused bool) {
	if e.paused != paused {
		r.changing(e)
		e.paused = paused
		r.touch(e)
	}
}

func (r *Registry) count(e *entry, n int) {
	if e.parent == nil {
		r.topics += n
	} else {
		r.channels += n
	}
}

// touch notes that what belongs into nsqd.dat changed.
func (r *Registry) touch(e *entry) {
	if !e.ephemeral {
		r.version++
	}
}

// moveToEnd gives e the next place in the log.
func (r *Registry) moveToEnd(e *entry) {
	for _, c := range r.connected {
		if c.wasRead(e) {
			c.unread++
			r.note(c)
		}
	}
	if e.prev != nil {
		e.unlink()
	} else {
		r.size++
		if e.ephemeral {
			r.ephemerals++
		}
	}
	e.linkBefore(&r.log)
	r.seq++
	e.seq = r.seq
	if e.birth == 0 {
		e.birth = e.seq
	}
}
