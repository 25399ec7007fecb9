package registry

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// contents are the names of what the broker has, "topic" and "topic channel", and
// whether they are paused.
type contents map[string]bool

func contentsOf(t require.TestingT, content Content) contents {
	all := make(contents)
	topic, topics := "", 0
	for item := range content.Items {
		name := item.Topic
		if item.Channel == "" {
			topic = item.Topic
			topics++
		} else {
			name += " " + item.Channel
		}
		require.Equal(t, topic, item.Topic, "channels are behind their topic")
		require.NotContains(t, all, name)
		all[name] = item.Paused
	}
	require.Equal(t, []int{content.Topics, content.Topics + content.Channels}, []int{topics, len(all)})
	return all
}

func (c contents) has(name string) bool {
	_, found := c[name]
	return found
}

// apply is what a change makes of c. It returns false if that is impossible.
func (c contents) apply(change Change) bool {
	name := change.Topic
	if change.isAboutChannel() {
		name += " " + change.Channel
	}
	_, hasTopic := c[change.Topic]
	_, has := c[name]
	switch change.Kind {
	case TopicCreated, ChannelCreated:
		if !hasTopic && change.Kind == ChannelCreated {
			return false
		}
		if !has {
			c[name] = false
		}
	case TopicDeleted:
		maps.DeleteFunc(c, func(other string, _ bool) bool { return topicOf(other) == name })
	case ChannelDeleted:
		delete(c, name)
	default:
		if has {
			c[name] = change.Kind == TopicPaused || change.Kind == ChannelPaused
		}
		return has
	}
	return true
}

func drawChange(t *rapid.T) Change {
	c := Change{Kind: Kind(rapid.IntRange(1, 8).Draw(t, "kind")), Topic: drawTopic(t)}
	if c.isAboutChannel() {
		c.Channel = drawChannel(t)
	}
	return c
}

func drawItems(t *rapid.T) (items []Item, all contents) {
	all = make(contents)
	paused := func() bool { return rapid.Bool().Draw(t, "paused") }
	for _, topic := range rapid.Permutation(modelTopics).Draw(t, "topics") {
		if !rapid.Bool().Draw(t, topic) {
			continue
		}
		items = append(items, Item{Topic: topic, Paused: paused()})
		all[topic] = items[len(items)-1].Paused
		for _, channel := range modelChannels {
			if rapid.Bool().Draw(t, channel) {
				items = append(items, Item{topic, channel, paused()})
				all[topic+" "+channel] = items[len(items)-1].Paused
			}
		}
	}
	return items, all
}

// TestDeclarationsAndSnapshotsAreOfOneInstant lets the broker change, read, and
// ask whenever a declaration or a snapshot lets others have the lock. The change
// comes before the declaration or after it, for everybody; a snapshot shows what
// there was when it began.
func TestDeclarationsAndSnapshotsAreOfOneInstant(t *testing.T) {
	setRapidDefault(t, "checks", "3000")
	rapid.Check(t, func(t *rapid.T) {
		r := New()
		r.hold = rapid.IntRange(1, 3).Draw(t, "hold")
		c := r.NewCursor(0)
		truth := make(contents)
		change := func() {
			change := drawChange(t)
			after := maps.Clone(truth)
			isPossible := after.apply(change)
			_, err := r.Apply([]Change{change})
			require.Equal(t, isPossible, err == nil, "%v: %v", change, err)
			if isPossible {
				truth = after
			}
		}
		check := func() {
			topics, channels := r.Count()
			require.Equal(t, len(truth), topics+channels)
			name := drawTopic(t)
			items, found := r.topicAtOnce(name, nil)
			_, want := truth[name]
			require.Equal(t, want, found)
			for _, item := range items[min(1, len(items)):] {
				require.Contains(t, truth, name+" "+item.Channel)
			}
		}
		read := func() {
			if !c.connected {
				return
			}
			if rapid.Bool().Draw(t, "announce") { // and read later
				others := r.others
				r.others = nil
				r.Announce(c, []Item{{Topic: drawTopic(t)}})
				r.others = others
				return
			}
			chunk, _ := r.Read(c, 2, nil)
			for _, cmd := range chunk {
				require.True(t, cmd.unregister || truth.has(commandName(cmd)), "%v", cmd)
			}
		}
		for range rapid.IntRange(0, 8).Draw(t, "before") {
			change()
		}
		for range 4 {
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				want := maps.Clone(truth)
				r.others = change
				got := contentsOf(t, r.Snapshot(false))
				r.others = nil
				require.Equal(t, want, got)
			case 1:
				items, declared := drawItems(t)
				cameIntoForce := false
				inForce := func() {
					if !cameIntoForce && (r.declaration == nil || r.declaration.isInForce) { // nil: it came into force, and ends
						cameIntoForce = true
						truth = declared
					}
				}
				r.others = func() {
					inForce()
					change()
					check()
					read()
				}
				_, err := r.Declare(slices.Values(items))
				require.NoError(t, err)
				r.others = nil
				if !cameIntoForce {
					truth = declared
				}
			case 2:
				if !c.connected {
					r.Attach(c, noTime)
				}
				read()
			default:
				r.Release(c, nil, false)
			}
			require.Equal(t, truth, contentsOf(t, r.Snapshot(false)))
			check()
			require.Empty(t, r.snapshots)
			require.Nil(t, r.declaration)
			require.Len(t, r.entries, r.size+r.remembered.n)
			for _, e := range r.entries {
				require.False(t, e.isTodo)
			}
		}
	})
}

// TestDeclareNothingNew compares a large registry with what it has already.
func TestDeclareNothingNew(t *testing.T) {
	r := New()
	var items []Item
	for _, name := range manyNames(3 * longHold) {
		items = append(items, Item{Topic: name}, Item{Topic: name, Channel: "mail"})
	}
	effect, err := r.Declare(slices.Values(items))
	require.NoError(t, err)
	require.Equal(t, Effect{Moved: true, Dirty: true}, effect)
	effect, err = r.Declare(slices.Values(items))
	require.NoError(t, err)
	require.Equal(t, Effect{}, effect)
	require.Equal(t, items, slices.Collect(r.Snapshot(false).Items), "in the order of creation")
}

// TestRegistryIsClosedDuringADeclaration, which then changes nothing.
func TestRegistryIsClosedDuringADeclaration(t *testing.T) {
	r := New()
	r.hold = 1
	r.apply(Change{TopicCreated, "a", ""})
	r.others = r.Close
	_, err := r.Declare(slices.Values([]Item{{Topic: "b"}, {Topic: "b", Channel: "x"}, {Topic: "c"}}))
	require.ErrorIs(t, err, ErrClosed)
	r.others = nil
	require.Equal(t, []Item{{Topic: "a"}}, slices.Collect(r.Snapshot(false).Items))
	require.Len(t, r.entries, 1)
}

func TestNothingChangesOnceTheRegistryIsClosed(t *testing.T) {
	r := New()
	r.Apply([]Change{{TopicCreated, "a", ""}})
	r.Close()
	_, err := r.Apply([]Change{{TopicDeleted, "a", ""}})
	require.ErrorIs(t, err, ErrClosed)
	_, err = r.Declare(slices.Values([]Item(nil)))
	require.ErrorIs(t, err, ErrClosed)
	require.Equal(t, []Item{{Topic: "a"}}, slices.Collect(r.Snapshot(false).Items))
}

// TestWalksLetOthersInNowAndThen, and not after each entry, or they would take long.
func TestWalksLetOthersInNowAndThen(t *testing.T) {
	const pieces = 10
	var topics []Item
	channels := []Item{{Topic: "a"}}
	for _, name := range manyNames(pieces * longHold) {
		topics = append(topics, Item{Topic: name})
		channels = append(channels, Item{Topic: "a", Channel: name})
	}
	r := New()
	timesOf := func(walk func()) (times int) {
		r.others = func() { times++ }
		defer func() { r.others = nil }()
		walk()
		return times
	}
	declare := func(items []Item) func() {
		return func() { r.Declare(slices.Values(items)) }
	}
	require.Equal(t, 1+3*pieces, timesOf(declare(topics)), "to read them, to make them and to tidy up")
	require.Equal(t, 1+2*pieces, timesOf(declare(topics)), "to read them and to compare")
	require.Equal(t, pieces, timesOf(func() { r.Snapshot(false) }))

	lost, slow := r.NewCursor(0), r.NewCursor(0)
	for _, c := range []*Cursor{lost, slow} {
		r.Attach(c, noTime)
		for c.read < r.seq {
			readLines(r, c, ChunkSize)
		}
	}
	require.Equal(t, pieces, timesOf(func() { r.Announce(lost, topics) }))
	declare(channels)()
	times := timesOf(func() { r.Topic("a") })
	require.GreaterOrEqual(t, times, pieces)
	require.Less(t, times, 2*pieces, "also to get memory without the lock")
	declare(channels[:100])()
	require.Positive(t, timesOf(func() { r.Topic("a") }), "to get memory")
	require.Equal(t, pieces, timesOf(func() { r.Release(lost, nil, false) }), "to look for deletions that nobody else needs")
}

// TestMoreIsForgottenThanIsRemembered is about deletions of more topics, channels
// first, than are remembered: amid a lost connection, and amid a declaration during
// which the channels change.
func TestMoreIsForgottenThanIsRemembered(t *testing.T) {
	names := manyNames(maxRemembered + 10)
	var items []Item
	var channels, topics []Change
	for _, name := range names {
		items = append(items, Item{Topic: name}, Item{Topic: name, Channel: "c"})
		channels = append(channels, Change{ChannelDeleted, name, "c"})
		topics = append(topics, Change{TopicDeleted, name, ""})
	}
	requireEmpty := func(r *Registry) {
		require.Zero(t, r.size)
		require.Zero(t, r.remembered.n)
		require.Empty(t, r.entries)
	}

	r := New()
	lost, slow := r.NewCursor(0), r.NewCursor(0)
	r.Declare(slices.Values(items))
	r.Attach(lost, noTime)
	r.Attach(slow, noTime)
	for lost.read < r.seq {
		readLines(r, lost, ChunkSize)
	}
	r.Apply(channels)
	r.Apply(topics)
	r.Release(lost, nil, false)
	for slow.read < r.seq {
		readLines(r, slow, ChunkSize)
	}
	requireEmpty(r)

	r = New()
	r.Declare(slices.Values(items))
	n := 0
	r.others = func() {
		if n++; n < 10 {
			r.Apply([]Change{{ChannelPaused, names[len(names)-n], "c"}})
		}
	}
	r.Declare(slices.Values([]Item(nil)))
	r.others = nil
	requireEmpty(r)
}

// TestATopicIsOfOneInstant changes a topic whenever a look at it pauses.
func TestATopicIsOfOneInstant(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Registry)
		want   func(before []Item) []Item
	}{
		"it is deleted": {
			func(r *Registry) { r.Apply([]Change{{TopicDeleted, "a", ""}}) },
			func([]Item) []Item { return nil },
		},
		"its newest channel is deleted, and then its oldest": {
			func(r *Registry) {
				r.Apply([]Change{{ChannelDeleted, "a", "c49"}})
				r.Apply([]Change{{ChannelDeleted, "a", "c0"}})
			},
			func(before []Item) []Item { return slices.Concat(before[:1], before[2:50]) },
		},
		"it has a new channel, and no longer its oldest": {
			func(r *Registry) { r.Apply([]Change{{ChannelCreated, "a", "c50"}, {ChannelDeleted, "a", "c0"}}) },
			func(before []Item) []Item {
				return append(slices.Concat(before[:1], before[2:]), Item{Topic: "a", Channel: "c50"})
			},
		},
		"it is paused, and then its oldest channel": {
			func(r *Registry) { r.Apply([]Change{{TopicPaused, "a", ""}, {ChannelPaused, "a", "c0"}}) },
			func(before []Item) []Item {
				before[0].Paused, before[1].Paused = true, true
				return before
			},
		},
		"something else is declared": {
			func(r *Registry) { r.Declare(slices.Values([]Item{{Topic: "a"}, {Topic: "a", Channel: "c0"}})) },
			func(before []Item) []Item { return before[:2] },
		},
		"another topic changes": {
			func(r *Registry) { r.Apply([]Change{{TopicDeleted, "b", ""}, {TopicCreated, "b", ""}}) },
			func(before []Item) []Item { return before },
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := New()
			items := []Item{{Topic: "a"}}
			for i := range 50 {
				items = append(items, Item{Topic: "a", Channel: fmt.Sprint("c", i)})
			}
			r.Declare(slices.Values(append(items, Item{Topic: "b"})))
			lookupd := r.NewCursor(0)
			r.Attach(lookupd, noTime)
			for lookupd.read < r.seq { // it has to hear of what is deleted
				readLines(r, lookupd, ChunkSize)
			}
			pauses := 0
			r.others = func() {
				r.others = nil
				pauses++
				tt.change(r)
			}
			got, found := r.Topic("a")
			require.Equal(t, 1, pauses)
			want := tt.want(items)
			require.Equal(t, want != nil, found)
			require.Equal(t, want, got)
			require.Empty(t, r.topicWalks)
		})
	}
}

// TestATopicIsOfOneInstantAmidADeclaration lets a declaration come into force when a
// look at a topic pauses, and be carried out for that topic only later.
func TestATopicIsOfOneInstantAmidADeclaration(t *testing.T) {
	r := New()
	var items []Item
	for _, name := range manyNames(2 * longHold) {
		items = append(items, Item{Topic: name})
	}
	items = append(items, Item{Topic: "a"})
	for i := range 12 {
		items = append(items, Item{Topic: "a", Channel: fmt.Sprint("c", i)})
	}
	r.Declare(slices.Values(items))
	want := []Item{{Topic: "a"}, {Topic: "a", Channel: "c0"}}
	inForce, seen, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	r.others = func() { // the look pauses
		r.others = func() { // the declaration lets others in
			if d := r.declaration; d != nil && d.isInForce {
				r.others = nil
				close(inForce)
				<-seen
			}
		}
		go func() {
			defer close(ended)
			r.Declare(slices.Values(want))
		}()
		<-inForce
	}
	got, _ := r.Topic("a")
	close(seen)
	<-ended
	require.Equal(t, want, got)
}
