package lookuploop

import (
	"slices"
	"strings"
	"sync"
)

// registry is what the broker has, as a compacted log. Each topic and each
// channel has one entry in it, at the place of its last creation or deletion;
// that change moves it to the end, pausing doesn't. A deleted one stays as a
// tombstone until every connected lookupd has passed it. A lookupd is a
// cursor into this log (see cursor.go): a full sync, a single change and a
// resync are all "send what lies after my cursor".
//
// Everything here is guarded by mu, which is never held across I/O.
type registry struct {
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

	scratch map[Event]fate // of check, empty between its calls

	connected []*cursor
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

const ephemeralSuffix = "#ephemeral"

func newRegistry() *registry {
	r := &registry{entries: make(map[key]*entry), maxTombstones: maxTombstones, changed: make(chan struct{})}
	r.log.prev, r.log.next = &r.log, &r.log
	r.tombstones.prevTombstone, r.tombstones.nextTombstone = &r.tombstones, &r.tombstones
	return r
}

// The following are called with mu held.

// topic returns the live topic of that name, or nil.
func (r *registry) topic(name string) *entry { return r.live(key{name: name}) }

// channel returns the live channel, or nil.
func (r *registry) channel(topic, name string) *entry {
	parent := r.topic(topic)
	if parent == nil {
		return nil
	}
	return r.live(key{parent, name})
}

func (r *registry) live(k key) *entry {
	if e := r.entries[k]; e != nil && !e.deleted {
		return e
	}
	return nil
}

// create makes the topic or channel exist. A channel's topic must.
func (r *registry) create(k key) {
	e := r.entries[k]
	switch {
	case e == nil:
		k.name = strings.Clone(k.name) // the caller's may be part of something large
		e = &entry{key: k, ephemeral: strings.HasSuffix(k.name, ephemeralSuffix)}
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
func (r *registry) delete(e *entry) {
	for c := e.firstChannel; c != nil; c = c.nextSibling {
		if !c.deleted {
			r.bury(c)
		}
	}
	r.bury(e)
	r.collect()
}

func (r *registry) bury(e *entry) {
	e.deleted = true
	r.count(e, -1)
	r.moveToEnd(e)
	r.touch(e)

	last := r.tombstones.prevTombstone
	last.nextTombstone, e.prevTombstone = e, last
	e.nextTombstone, r.tombstones.prevTombstone = &r.tombstones, e
	r.numTombstones++
}

func (r *registry) removeTombstone(e *entry) {
	e.prevTombstone.nextTombstone, e.nextTombstone.prevTombstone = e.nextTombstone, e.prevTombstone
	e.prevTombstone, e.nextTombstone = nil, nil
	r.numTombstones--
}

// pause sets whether a live entry is paused.
func (r *registry) pause(e *entry, paused bool) {
	if e.paused != paused {
		e.paused = paused
		r.touch(e)
	}
}

func (r *registry) count(e *entry, n int) {
	if e.parent == nil {
		r.topics += n
	} else {
		r.channels += n
	}
}

// touch notes that what belongs into nsqd.dat changed.
func (r *registry) touch(e *entry) {
	if !e.ephemeral {
		r.version++
	}
}

// moveToEnd gives e the next place in the log.
func (r *registry) moveToEnd(e *entry) {
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
func (r *registry) collect() {
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
func (r *registry) drop(e *entry) {
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

// signal lets all who wait look again.
func (r *registry) signal() {
	if r.waiters > 0 {
		close(r.changed)
		r.changed = make(chan struct{})
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

// snapshot copies what the broker has, with the version it has; persistent
// leaves out what is ephemeral.
func (r *registry) snapshot(persistent bool) (Metadata, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := Metadata{Topics: make([]TopicMetadata, 0, r.topics)}
	channels := make([]ChannelMetadata, 0, r.channels) // of all topics, one after another
	for e := r.log.next; e != &r.log; e = e.next {
		if e.marker || e.deleted || e.parent != nil || persistent && e.ephemeral {
			continue
		}
		first := len(channels)
		for c := e.firstChannel; c != nil; c = c.nextSibling {
			if !c.deleted && !(persistent && c.ephemeral) {
				channels = append(channels, ChannelMetadata{Name: c.name, Paused: c.paused})
			}
		}
		slices.Reverse(channels[first:]) // the newest was first
		m.Topics = append(m.Topics, TopicMetadata{
			Name: e.name, Paused: e.paused, Channels: channels[first:len(channels):len(channels)],
		})
	}
	return m, r.version
}

// persistentVersion is the version of what belongs into nsqd.dat.
func (r *registry) persistentVersion() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.version
}

// wasChanged tells whether there has been anything in the log.
func (r *registry) wasChanged() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seq > 0
}
