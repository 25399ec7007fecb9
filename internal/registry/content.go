package registry

import (
	"iter"
	"slices"
)

// Item is one topic or channel of the broker. The channels of a topic come
// right behind it.
type Item struct {
	Topic, Channel string // no Channel: the topic itself
	Paused         bool
}

// Content is what the broker has at one instant.
type Content struct {
	Items            iter.Seq[Item]
	Topics, Channels int    // how many of each are in Items
	Version          uint64 // of what belongs into nsqd.dat
}

// Declare makes items the whole truth: all that is not among them is deleted.
// Their names are valid, and each occurs once. Items is read twice, and must
// stay the same.
func (r *Registry) Declare(items iter.Seq[Item]) (Effect, error) {
	return r.change(func() error {
		r.declare(items)
		return nil
	})
}

// Load declares what was found on disk, and returns the version that this is.
func (r *Registry) Load(items iter.Seq[Item]) (version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.declare(items)
	return r.version
}

func (r *Registry) declare(items iter.Seq[Item]) {
	if r.size > 0 {
		r.deleteAllBut(items)
	} else { // nothing can be gone
		n := 0
		for range items {
			n++
		}
		r.entries = make(map[key]*entry, n)
	}
	for item := range items {
		k := key{name: item.Topic}
		if item.Channel != "" {
			k = key{r.topic(item.Topic), item.Channel}
		}
		r.create(k)
		r.pause(r.live(k), item.Paused)
	}
}

// deleteAllBut deletes what is not among items. It is called with mu held.
func (r *Registry) deleteAllBut(items iter.Seq[Item]) {
	wanted := make(map[key]bool) // topics; channels under their name and a topic that exists
	for item := range items {
		if item.Channel == "" {
			wanted[key{name: item.Topic}] = true
		} else if parent := r.topic(item.Topic); parent != nil {
			wanted[key{parent, item.Channel}] = true
		}
	}
	var gone []*entry
	for e := r.log.next; e != &r.log; e = e.next {
		if !e.marker && !e.deleted && !wanted[e.key] {
			gone = append(gone, e)
		}
	}
	for _, e := range gone {
		if !e.deleted { // with its topic
			r.delete(e)
		}
	}
}

// Snapshot copies what the broker has; persistent leaves out what is ephemeral.
func (r *Registry) Snapshot(persistent bool) Content {
	r.mu.Lock()
	defer r.mu.Unlock()
	content := Content{Version: r.version}
	items := make([]Item, 0, r.topics+r.channels)
	for e := r.log.next; e != &r.log; e = e.next {
		if e.marker || e.deleted || e.parent != nil || persistent && e.ephemeral {
			continue
		}
		items = append(items, Item{Topic: e.name, Paused: e.paused})
		content.Topics++
		first := len(items)
		for c := e.nextChannel; c != nil; c = c.nextChannel {
			if !c.deleted && !(persistent && c.ephemeral) {
				items = append(items, Item{e.name, c.name, c.paused})
			}
		}
		content.Channels += len(items) - first
		slices.Reverse(items[first:]) // the newest was first
	}
	content.Items = slices.Values(items)
	return content
}

// Version is that of what belongs into nsqd.dat. Each change of it raises it.
func (r *Registry) Version() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.version
}

// WasChanged tells whether there has ever been anything.
func (r *Registry) WasChanged() bool { return r.End() > 0 }

// Size is how many topics and channels there are entries for, deleted ones that
// a lookupd has to hear of among them.
func (r *Registry) Size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.size
}

// Count returns how many topics and channels the broker has.
func (r *Registry) Count() (topics, channels int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.topics, r.channels
}
