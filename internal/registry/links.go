package registry

// The links of an entry in the log.

func (e *entry) linkBefore(next *entry) {
	e.prev, e.next = next.prev, next
	e.prev.next, next.prev = e, e
}

func (e *entry) unlink() {
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
}

// The list of a topic's channels, the newest first.

func (e *entry) addChannel(c *entry) {
	c.nextChannel = e.nextChannel
	if c.nextChannel != nil {
		c.nextChannel.prevChannel = c
	}
	e.nextChannel = c
}

func (e *entry) removeChannel(c *entry) {
	if c.prevChannel != nil {
		c.prevChannel.nextChannel = c.nextChannel
	} else {
		e.nextChannel = c.nextChannel
	}
	if c.nextChannel != nil {
		c.nextChannel.prevChannel = c.prevChannel
	}
	c.prevChannel, c.nextChannel = nil, nil
}

// ring holds deleted entries, the oldest first, and markers of walks over it. An
// entry is in one ring at most.
type ring struct {
	root entry
	n    int
}

func (r *ring) init() { r.root.prevInRing, r.root.nextInRing = &r.root, &r.root }

// first returns the oldest entry, or nil.
func (r *ring) first() *entry {
	e := r.root.nextInRing
	for e.isMarker() {
		if e == &r.root {
			return nil
		}
		e = e.nextInRing
	}
	return e
}

func (r *ring) push(e *entry) { r.pushBefore(&r.root, e) }

func (r *ring) pushBefore(next, e *entry) {
	e.prevInRing, e.nextInRing = next.prevInRing, next
	e.prevInRing.nextInRing, next.prevInRing = e, e
	if !e.isMarker() {
		r.n++
	}
}

func (r *ring) remove(e *entry) {
	e.prevInRing.nextInRing, e.nextInRing.prevInRing = e.nextInRing, e.prevInRing
	e.prevInRing, e.nextInRing = nil, nil
	if !e.isMarker() {
		r.n--
	}
}
