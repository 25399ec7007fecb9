package registry

import (
	"cmp"
	"iter"
	"runtime"
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

// longHold is how many entries a walk over the registry looks at before it lets
// others have the lock: that takes some 20 µs.
const longHold = 256

// spins is how often lock looks at a mu that is held before it sleeps: for longer
// than a hold should last, at least 50 µs.
const spins = 100_000

// lock locks mu. Walks, which lock it again and again, let those who wait here go
// first: a sync.Mutex by itself would let them wait for up to 1 ms.
func (r *Registry) lock() {
	if !r.mu.TryLock() {
		r.wait()
	}
}

// wait is lock while others have mu. Where all processors are busy, whoever sleeps
// gets one again after up to 10 ms, so it stays awake at first. With one processor it
// sleeps at once: whoever has mu needs that.
func (r *Registry) wait() {
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	if runtime.GOMAXPROCS(0) > 1 {
		for range spins {
			if r.mu.TryLock() {
				return
			}
		}
	}
	r.asleep.Add(1)
	defer r.asleep.Add(-1)
	r.mu.Lock()
}

// unlock unlocks mu. Whoever sleeps in wait is made ready by that, but gets to run
// only when this goroutine is done with its work, or yields.
func (r *Registry) unlock() {
	r.release()
	if r.asleep.Load() > 0 {
		runtime.Gosched()
	}
}

// release is unlock without the yield, for callers that must not wait for a processor.
func (r *Registry) release() {
	r.last = lookup{} // whose name may be part of something large
	r.mu.Unlock()
}

// letOthersIn gives the lock to whoever waits for it. It is called with mu held.
func (r *Registry) letOthersIn() {
	r.open()
	r.shut()
}

// open unlocks mu in a walk, and shut locks it again.
func (r *Registry) open() {
	r.mu.Unlock()
	if r.others != nil {
		r.others()
	}
}

func (r *Registry) shut() {
	runtime.Gosched()
	for range 1000 { // some 100 µs, while who waits is being woken up
		if r.waiting.Load() == 0 {
			break
		}
		runtime.Gosched()
	}
	for !r.mu.TryLock() { // Lock would make others wait for this goroutine to run, if it waited for 1 ms
		runtime.Gosched()
	}
	if r.back != nil {
		r.back()
	}
}

// snapshot is a walk over the log that collects what there was when it began.
// Others change the registry meanwhile: what the walk has not reached is kept as
// it was before it changes.
type snapshot struct {
	marker     entry
	end        uint64 // the log's end when the walk began
	reached    uint64 // the walk came up to here
	persistent bool
	items      []snapshotItem
	kept       map[*entry]bool // that are among items, though the walk hasn't reached them
}

type snapshotItem struct {
	*entry
	seq    uint64
	paused bool
}

// Snapshot copies what the broker has; persistent leaves out what is ephemeral.
// It waits for a declaration that is being carried out.
func (r *Registry) Snapshot(persistent bool) Content {
	topics, channels := r.Count()
	n := topics + channels
	// Made without the lock, or the lock would be held while memory is found for it.
	s := &snapshot{persistent: persistent, items: make([]snapshotItem, 0, n+n/8)}
	content := Content{Version: r.beginSnapshot(s)}
	r.walk(s)
	s.group(&content)
	return content
}

func (r *Registry) beginSnapshot(s *snapshot) (version uint64) {
	r.flip.Lock()
	defer r.flip.Unlock()
	r.lock()
	defer r.unlock()
	s.end = r.seq
	s.marker.linkBefore(r.log.next)
	r.snapshots = append(r.snapshots, s)
	return r.version
}

func (r *Registry) walk(s *snapshot) {
	r.lock()
	defer r.unlock()
	n := 0
	for e := s.marker.next; e != &r.log && (e.isMarker() || e.seq <= s.end); e = s.marker.next {
		s.marker.unlink()
		s.marker.linkBefore(e.next)
		if e.isMarker() {
			continue
		}
		s.reached = e.seq
		if !e.deleted && !s.kept[e] {
			s.add(e)
		}
		if n++; n%r.hold == 0 {
			r.letOthersIn()
		}
	}
	s.marker.unlink()
	r.snapshots = slices.DeleteFunc(r.snapshots, func(other *snapshot) bool { return other == s })
}

func (s *snapshot) add(e *entry) {
	if !s.persistent || !e.ephemeral {
		s.items = append(s.items, snapshotItem{e, e.seq, e.paused})
	}
}

// keep is called before e changes.
func (s *snapshot) keep(e *entry) {
	if e.deleted || e.prev == nil || e.seq <= s.reached || e.seq > s.end || s.kept[e] {
		return
	}
	if s.kept == nil {
		s.kept = make(map[*entry]bool)
	}
	s.kept[e] = true
	s.add(e)
}

// group puts the channels behind their topics. In the log a channel is somewhere
// behind its topic.
func (s *snapshot) group(content *Content) {
	if len(s.kept) > 0 {
		slices.SortFunc(s.items, func(a, b snapshotItem) int { return cmp.Compare(a.seq, b.seq) })
	}
	var topic *entry
	isGrouped := true
	for _, item := range s.items {
		if item.parent == nil {
			topic = item.entry
			content.Topics++
		} else if isGrouped = isGrouped && item.parent == topic; true {
			content.Channels++
		}
	}
	if !isGrouped {
		s.items = grouped(s.items, content.Topics)
	}
	content.Items = func(yield func(Item) bool) {
		for _, item := range s.items {
			i := Item{Topic: item.name, Paused: item.paused}
			if item.parent != nil {
				i.Topic, i.Channel = item.parent.name, item.name
			}
			if !yield(i) {
				return
			}
		}
	}
}

// grouped returns items with the channels behind their topics, otherwise in the
// same order.
func grouped(items []snapshotItem, topics int) []snapshotItem {
	place := make(map[*entry]int, topics) // of a topic among the topics
	size := make([]int, 0, topics)        // of the topics with their channels
	for _, item := range items {
		if item.parent == nil {
			place[item.entry] = len(size)
			size = append(size, 1)
		} else {
			size[place[item.parent]]++
		}
	}
	next := make([]int, len(size)) // where the next item of a topic goes
	for i := 1; i < len(next); i++ {
		next[i] = next[i-1] + size[i-1]
	}
	all := make([]snapshotItem, len(items))
	for _, item := range items {
		topic := item.parent
		if topic == nil {
			topic = item.entry
		}
		at := &next[place[topic]]
		all[*at] = item
		*at++
	}
	return all
}

// topicWalk is a walk over the channels of one topic, to read them.
type topicWalk struct {
	topic *entry
	isOld bool // something changed since the walk began
}

// Topic returns one topic with its channels, the oldest first, as they are at one
// instant. It is not found if there is none of that name.
func (r *Registry) Topic(name string) (items []Item, found bool) {
	items = make([]Item, 0, 8) // without the lock, or the lock would be held while memory is found for it
	r.lock()
	defer r.unlock()
	topic := r.topic(name)
	if topic == nil {
		return nil, false
	}
	walk := &topicWalk{topic: topic}
	r.topicWalks = append(r.topicWalks, walk)
	defer func() {
		r.topicWalks = slices.DeleteFunc(r.topicWalks, func(other *topicWalk) bool { return other == walk })
	}()
	items = append(items, Item{Topic: name, Paused: topic.paused})
	for c := topic.nextChannel; c != nil; c = c.nextChannel {
		items = r.appendChannel(items, c)
		isFull := len(items) == cap(items)
		if !isFull && len(items)%r.hold != 0 {
			continue
		}
		r.open()
		if isFull {
			items = slices.Grow(items, len(items))
		}
		r.shut()
		if walk.isOld || r.entries[c.key] != c { // c may have left the list
			return r.topicAtOnce(name, items[:0])
		}
	}
	slices.Reverse(items[1:]) // the newest was first
	return items, true
}

// topicAtOnce is Topic without a pause. It is called with mu held.
func (r *Registry) topicAtOnce(name string, items []Item) ([]Item, bool) {
	topic := r.topic(name)
	if topic == nil {
		return nil, false
	}
	items = append(items, Item{Topic: name, Paused: topic.paused})
	for c := topic.nextChannel; c != nil; c = c.nextChannel {
		items = r.appendChannel(items, c)
	}
	slices.Reverse(items[1:])
	return items, true
}

// appendChannel appends c if it is live. It is called with mu held.
func (r *Registry) appendChannel(items []Item, c *entry) []Item {
	if c = r.settled(c); c.deleted {
		return items
	}
	return append(items, Item{c.parent.name, c.name, c.paused})
}

// Version is that of what belongs into nsqd.dat. Each change of it raises it.
func (r *Registry) Version() uint64 {
	r.lock()
	defer r.unlock()
	return r.version
}

// WasChanged tells whether there has ever been anything.
func (r *Registry) WasChanged() bool { return r.End() > 0 }

// Size is how many topics and channels there are entries for, deleted ones that
// a lookupd has to hear of among them.
func (r *Registry) Size() int {
	r.lock()
	defer r.unlock()
	return r.size
}

// Count returns how many topics and channels the broker has.
func (r *Registry) Count() (topics, channels int) {
	r.lock()
	defer r.unlock()
	return r.topics, r.channels
}
