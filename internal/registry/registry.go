package registry

import (
	"strings"
	"sync"
)

// Registry is what the broker has, as a compacted log. Each topic and each
// channel has one entry in it, at the place of its last creation or deletion;
// that change moves it to the end, pausing doesn't. A deleted one stays as a
// tombstone until every connected lookupd has passed it. A lookupd is a
// cursor into this log (see cursor.go): a full sync, a single change and a
// resync are all "send what lies after my cursor".
//
// Everything here is guarded by mu, which is never held across I/O.
type Registry struct {
	mu      sync.Mutex
	entries map[key]*entry
	log     entry  // the log is a ring of entries and cursors' markers; log is where it begins and ends
	size    int    // entries in the log
	seq     uint64 // of the last change that moved an entry
	closed  bool   // nothing may change any more

	tombstones    entry // the deleted ones, also a ring, in the log's order
	numTombstones int
	maxTombstones int // a lookupd that lags more of them is disconnected

	topics, channels int    // that are not deleted
	ephemerals       int    // entries, tombstones among them, that are ephemeral
	version          uint64 // raised by each change of what belongs into nsqd.dat

	scratch map[Change]fate // of check, empty between its calls

	connected []*Cursor
	waiters   int
	changed   chan struct{} // closed when a waiter should look again
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
	seq        uint64 // place in the log; 0 once it left the log
	prev, next *entry // in the log

	prevTombstone, nextTombstone *entry // set only for a tombstone

	firstChannel             *entry // of a topic: its channels, tombstones among them
	prevSibling, nextSibling *entry // of a channel

	marker    bool // no entry at all, but the marker of a cursor
	deleted   bool
	paused    bool
	ephemeral bool // it or its topic
}

// EphemeralSuffix ends the name of a topic or channel that is not to outlive
// its use.
const EphemeralSuffix = "#ephemeral"

// New returns an empty registry.
func New() *Registry {
	r := &Registry{entries: make(map[key]*entry), maxTombstones: MaxTombstones, changed: make(chan struct{})}
	r.log.prev, r.log.next = &r.log, &r.log
	r.tombstones.prevTombstone, r.tombstones.nextTombstone = &r.tombstones, &r.tombstones
	return r
}

// LimitTombstones sets how many deletions a lookupd may lag. The standard serves
// but for tests.
func (r *Registry) LimitTombstones(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.maxTombstones = n
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

func (r *Registry) live(k key) *entry {
	if e := r.entries[k]; e != nil && !e.deleted {
		return e
	}
	return nil
}

// create makes the topic or channel exist. A channel's topic must.
func (r *Registry) create(k key) {
	e := r.entries[k]
	switch {
	case e == nil:
		k.name = strings.Clone(k.name) // the caller's may be part of something large
		e = &entry{key: k, ephemeral: strings.HasSuffix(k.name, EphemeralSuffix)}
		if k.parent != nil {
			e.ephemeral = e.ephemeral || k.parent.ephemeral
			k.parent.addChannel(e)
		}
		r.entries[k] = e
		r.size++
		if e.ephemeral {
			r.ephemerals++
		}
	case !e.deleted:
		return
	default:
		e.deleted, e.paused = false, false
		r.removeTombstone(e)
	}
	r.count(e, 1)
	r.moveToEnd(e)
	r.touch(e)
}

// delete makes a live topic or channel a tombstone. A topic's channels go
// first: nsqlookupd wonders about a topic that goes with channels.
func (r *Registry) delete(e *entry) {
	for c := e.firstChannel; c != nil; c = c.nextSibling {
		if !c.deleted {
			r.bury(c)
		}
	}
	r.bury(e)
	r.collect()
}

func (r *Registry) bury(e *entry) {
	e.deleted = true
	r.count(e, -1)
	r.moveToEnd(e)
	r.touch(e)

	last := r.tombstones.prevTombstone
	last.nextTombstone, e.prevTombstone = e, last
	e.nextTombstone, r.tombstones.prevTombstone = &r.tombstones, e
	r.numTombstones++
}

func (r *Registry) removeTombstone(e *entry) {
	e.prevTombstone.nextTombstone, e.nextTombstone.prevTombstone = e.nextTombstone, e.prevTombstone
	e.prevTombstone, e.nextTombstone = nil, nil
	r.numTombstones--
}

// pause sets whether a live entry is paused.
func (r *Registry) pause(e *entry, paused bool) {
	if e.paused != paused {
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
		}
	}
	if e.prev != nil {
		e.unlink()
	}
	e.linkBefore(&r.log)
	r.seq++
	e.seq = r.seq
}

// collect drops the tombstones that every connected lookupd has passed, and
// disconnects a lookupd that is too far behind.
func (r *Registry) collect() {
	for {
		passed := r.seq
		for _, c := range r.connected {
			passed = min(passed, c.passed())
		}
		for e := r.tombstones.nextTombstone; e != &r.tombstones && e.seq <= passed; e = r.tombstones.nextTombstone {
			r.drop(e)
		}
		if r.numTombstones <= r.maxTombstones {
			return
		}
		for _, c := range r.connected {
			if c.passed() == passed {
				r.detach(c)
				c.lagged = true
				break
			}
		}
	}
}

// drop removes a tombstone for good.
func (r *Registry) drop(e *entry) {
	for _, c := range r.connected {
		if !c.wasRead(e) {
			c.unread--
		}
	}
	r.removeTombstone(e)
	e.unlink()
	e.seq = 0
	if e.parent != nil {
		e.parent.removeChannel(e)
	}
	delete(r.entries, e.key)
	r.size--
	if e.ephemeral {
		r.ephemerals--
	}
}

// The links of an entry.

func (e *entry) linkBefore(next *entry) {
	e.prev, e.next = next.prev, next
	e.prev.next, next.prev = e, e
}

func (e *entry) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

func (e *entry) addChannel(c *entry) {
	c.nextSibling = e.firstChannel
	if c.nextSibling != nil {
		c.nextSibling.prevSibling = c
	}
	e.firstChannel = c
}

func (e *entry) removeChannel(c *entry) {
	if c.prevSibling != nil {
		c.prevSibling.nextSibling = c.nextSibling
	} else {
		e.firstChannel = c.nextSibling
	}
	if c.nextSibling != nil {
		c.nextSibling.prevSibling = c.prevSibling
	}
	c.prevSibling, c.nextSibling = nil, nil
}
