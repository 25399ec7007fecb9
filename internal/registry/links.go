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

// ring holds deleted entries, the oldest first. An entry is in one ring at most.
type ring struct {
	root entry
	n    int
}

func (r *ring) init() { r.root.prevInRing, r.root.nextInRing = &r.root, &r.root }

// first returns the oldest entry, or nil.
func (r *ring) first() *entry {
	if r.n == 0 {
		return nil
	}
	return r.root.nextInRing
}

// last returns the newest entry, or nil.
func (r *ring) last() *entry {
	if r.n == 0 {
		return nil
	}
	return r.root.prevInRing
}

// before returns the entry that is older than e, or nil.
func (r *ring) before(e *entry) *entry {
	if e.prevInRing == &r.root {
		return nil
	}
	return e.prevInRing
}

func (r *ring) push(e *entry) {
	last := r.root.prevInRing
	last.nextInRing, e.prevInRing = e, last
	e.nextInRing, r.root.prevInRing = &r.root, e
	r.n++
}

func (r *ring) remove(e *entry) {
	e.prevInRing.nextInRing, e.nextInRing.prevInRing = e.nextInRing, e.prevInRing
	e.prevInRing, e.nextInRing = nil, nil
	r.n--
}
