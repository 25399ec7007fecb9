package registry

// How deleted entries leave the log, and then the registry. The following are
// called with mu held.

// collect drops tombstones that every connected lookupd has passed.
func (r *Registry) collect() {
	passed := r.passed()
	for e := r.tombstones.first(); e != nil && e.seq <= passed; e = r.tombstones.first() {
		r.tombstones.remove(e)
		r.drop(e)
	}
}

// passed is the place up to which tombstones mean nothing to anybody any more.
func (r *Registry) passed() uint64 {
	passed := r.seq
	for _, c := range r.connected {
		passed = min(passed, c.passed())
	}
	return passed
}

// drop takes a deleted entry, which is no tombstone any more, out of the log. It
// is remembered for a while if a lookupd refused it, or a channel of it.
func (r *Registry) drop(e *entry) {
	for _, c := range r.connected {
		if !c.wasRead(e) {
			c.unread--
			r.note(c)
		}
	}
	if e.prev != nil {
		e.unlink()
		r.size--
		if e.ephemeral {
			r.ephemerals--
		}
	}
	e.seq, e.birth = 0, 0
	if r.isRefusedSomewhere(e) || e.parent == nil && e.nextChannel != nil {
		r.remembered.push(e)
		if r.remembered.n > maxRemembered {
			oldest := r.remembered.first()
			r.remembered.remove(oldest)
			r.erase(oldest)
		}
		return
	}
	r.erase(e)
}

// erase removes the last trace of a deleted entry; of a declaration that is under
// way only when that is done, as it may have come to that entry.
func (r *Registry) erase(e *entry) {
	if r.declaration != nil {
		r.declaration.erased = append(r.declaration.erased, e)
		return
	}
	if e.parent == nil {
		r.eraseChannels(e)
		if e.nextChannel != nil { // one is in the log still, and the topic goes after it
			r.remembered.push(e)
			return
		}
	}
	if e.isAside {
		for _, c := range r.cursors {
			delete(c.aside, e)
		}
	}
	delete(r.entries, e.key)
	r.last = lookup{}
	if topic := e.parent; topic != nil {
		topic.removeChannel(e)
		if isOut := topic.prev == nil && topic.prevInRing != nil; isOut && topic.nextChannel == nil && !r.isRefusedSomewhere(topic) {
			r.remembered.remove(topic) // it was for its channels only
			r.erase(topic)
		}
	}
}

// eraseChannels erases the channels of a topic that are remembered.
func (r *Registry) eraseChannels(topic *entry) {
	for c := topic.nextChannel; c != nil; {
		next := c.nextChannel
		if c.prev == nil && c.prevInRing != nil {
			r.remembered.remove(c)
			r.erase(c)
		}
		c = next
	}
}

func (r *Registry) isRefusedSomewhere(e *entry) bool {
	if e.isAside {
		for _, c := range r.cursors {
			if c.aside[e] != nil {
				return true
			}
		}
	}
	return false
}
