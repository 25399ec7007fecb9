package registry

// End is the place of the last change. A lookupd that has acknowledged it
// knows all that the broker has.
func (r *Registry) End() uint64 {
	r.lock()
	defer r.mu.Unlock()
	return r.seq
}

// UnchangedSince tells whether the broker has a topic, or a channel of it, and had
// it all the time since that place.
func (r *Registry) UnchangedSince(place uint64, topic, channel string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.topic(topic)
	if channel != "" {
		e = r.channel(topic, channel)
	}
	return e != nil && e.seq <= place
}

// Watch lets one goroutine wait for cursors to get on.
type Watch struct{ reg *Registry }

// Watch begins to watch. The caller ends it with Stop.
func (r *Registry) Watch() Watch {
	r.lock()
	defer r.mu.Unlock()
	r.waiters++
	return Watch{r}
}

// Changed returns a channel that is closed when what Standing tells may have
// changed. Take it before you look.
func (w Watch) Changed() <-chan struct{} {
	w.reg.lock()
	defer w.reg.mu.Unlock()
	return w.reg.changed
}

// Stop ends the watch.
func (w Watch) Stop() {
	w.reg.lock()
	defer w.reg.mu.Unlock()
	w.reg.waiters--
}

// Wake lets all who watch look again.
func (r *Registry) Wake() {
	r.lock()
	defer r.mu.Unlock()
	r.signal()
}

// signal is Wake with mu held.
func (r *Registry) signal() {
	for _, c := range r.cursors {
		r.note(c)
	}
	if r.waiters > 0 {
		close(r.changed)
		r.changed = make(chan struct{})
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
	defer r.mu.Unlock()
	all := make([]Standing, len(cursors))
	for i, c := range cursors {
		all[i] = Standing{
			Acknowledged: c.connected && c.acked >= place && !c.unresolved.reaches(place),
			Refuses:      c.refused.reaches(place),
		}
	}
	return all
}
