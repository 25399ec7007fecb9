package registry

import "iter"

// declaration is a Declare that is under way. It compares what the broker has
// with what it is to have, in pieces, while others change the registry. At one
// instant it comes into force; what it changes is changed in pieces after that,
// and whoever asks for a name first settles that.
type declaration struct {
	generation uint16 // the mark of what is wanted
	isInForce  bool
	todo       []*entry // that differ, or were changed during the comparison
	erased     []*entry // that are to leave the registry when all is done

	topics, channels int // that are wanted
}

// Declare makes items the whole truth: all that is not among them is deleted.
// Their names are valid, and each occurs once. Until it returns the lookupds may
// be told a part of it; nobody else sees a part.
func (r *Registry) Declare(items iter.Seq[Item]) (Effect, error) {
	r.declaring.Lock()
	defer r.declaring.Unlock()
	r.lock()
	defer r.unlock()
	if r.closed {
		return Effect{}, ErrClosed
	}
	seq, version := r.seq, r.version
	r.generation++
	d := &declaration{generation: r.generation}
	r.declaration = d
	defer r.endDeclaration(d)

	r.compare(d, items)
	if !r.flip.TryLock() { // a snapshot begins
		r.mu.Unlock()
		r.flip.Lock()
		r.lock()
	}
	defer r.flip.Unlock()
	if r.closed {
		return Effect{}, ErrClosed
	}
	d.isInForce = true
	for _, w := range r.topicWalks {
		w.isOld = true
	}
	r.topics, r.channels = d.topics, d.channels
	r.settleAll(d)
	return Effect{Moved: r.seq != seq, Dirty: r.version != version}, nil
}

// The following are called with mu held, and the longer ones let others have it
// from time to time.

func (r *Registry) endDeclaration(d *declaration) {
	r.declaration = nil
	for i, e := range append(d.todo, d.erased...) {
		e.isTodo = false
		isOut := e.prev == nil && e.prevInRing == nil // to be erased, or to be made, and the registry was closed
		if isOut && r.entries[e.key] == e {
			r.erase(e)
		}
		if i%r.hold == r.hold-1 {
			r.letOthersIn()
		}
	}
}

// compare marks what is wanted, and notes what differs from that.
func (r *Registry) compare(d *declaration, items iter.Seq[Item]) {
	var topic *entry
	chunk := make([]Item, 0, r.hold)
	mark := func() {
		for _, item := range chunk {
			k := key{name: item.Topic}
			if item.Channel == "" {
				topic = r.want(d, k, item.Paused)
				d.topics++
			} else {
				r.want(d, key{topic, item.Channel}, item.Paused)
				d.channels++
			}
		}
		chunk = chunk[:0]
	}
	r.open()
	for item := range items {
		if chunk = append(chunk, item); len(chunk) == cap(chunk) {
			r.shut()
			mark()
			r.open()
		}
	}
	r.shut()
	mark()

	var marker entry
	marker.linkBefore(r.log.next)
	n := 0
	for e := marker.next; e != &r.log; e = marker.next {
		marker.unlink()
		marker.linkBefore(e.next)
		if !e.isMarker() && !e.deleted && e.mark != d.generation {
			d.add(e)
		}
		if n++; n%r.hold == 0 {
			r.letOthersIn()
		}
	}
	marker.unlink()
}

// want marks the entry of k, which it makes outside of the log if there is none.
func (r *Registry) want(d *declaration, k key, paused bool) *entry {
	e := r.entries[k]
	if e == nil {
		e = r.newEntry(k)
		e.deleted = true
	}
	e.mark, e.wantsPause = d.generation, paused
	if e.deleted || e.paused != paused {
		d.add(e)
	}
	return e
}

func (d *declaration) add(e *entry) {
	if !e.isTodo {
		e.isTodo = true
		d.todo = append(d.todo, e)
	}
}

// settleAll settles all that differs: what goes, channels before their topics,
// and then what comes.
func (r *Registry) settleAll(d *declaration) {
	n := 0
	settle := func(e *entry) {
		r.settled(e)
		if n++; n%r.hold == 0 {
			r.letOthersIn()
		}
	}
	for _, e := range d.todo {
		if e.mark == d.generation {
			continue
		}
		if e.parent == nil {
			for c := e.nextChannel; c != nil; c = c.nextChannel { // none leaves the list before the end
				settle(c)
			}
		}
		settle(e)
	}
	for _, e := range d.todo {
		settle(e)
	}
	r.collect()
}

// settled makes e what the declaration in force, if there is one, says of it.
// Everybody who comes to an entry by its name or its topic calls it.
func (r *Registry) settled(e *entry) *entry {
	d := r.declaration
	if !e.isTodo || d == nil || !d.isInForce {
		return e
	}
	e.isTodo = false
	topics, channels := r.topics, r.channels // which count it already
	if e.mark != d.generation {
		if !e.deleted {
			r.deleteChannels(e)
			r.bury(e)
		}
	} else {
		if e.parent != nil {
			r.settled(e.parent)
		}
		if e.deleted {
			r.revive(e)
		}
		r.pause(e, e.wantsPause)
	}
	r.topics, r.channels = topics, channels
	return e
}

// isDoomed tells whether e is there only because its deletion by the declaration
// in force was not carried out yet.
func (r *Registry) isDoomed(e *entry) bool {
	return e.isTodo && r.declaration != nil && r.declaration.isInForce && e.mark != r.declaration.generation
}

// changing is called before somebody changes e.
func (r *Registry) changing(e *entry) {
	for _, s := range r.snapshots {
		s.keep(e)
	}
	for _, w := range r.topicWalks {
		w.isOld = w.isOld || e == w.topic || e.parent == w.topic
	}
	if d := r.declaration; d != nil && !d.isInForce {
		d.add(e)
	}
}

// Load declares what was found on disk, and returns the version that this is. It
// comes first.
func (r *Registry) Load(items iter.Seq[Item]) (version uint64) {
	r.lock()
	defer r.unlock()
	n := 0
	for range items {
		n++
	}
	r.entries = make(map[key]*entry, n)
	for item := range items {
		k := key{name: item.Topic}
		if item.Channel != "" {
			k.parent, k.name = r.entries[k], item.Channel
		}
		r.create(k)
		r.pause(r.entries[k], item.Paused)
	}
	return r.version
}
