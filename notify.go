package lookuploop

import "github.com/lookuploop/lookuploop/internal/registry"

// Event is a change at the broker: a topic or channel was created, deleted, paused
// or unpaused. Create one with [TopicCreated] or a similar function and pass it to
// [Loop.Notify]. Events are comparable.
type Event struct{ change registry.Change }

// TopicCreated reports a new topic.
func TopicCreated(topic string) Event { return about(registry.TopicCreated, topic, "") }

// TopicDeleted reports that a topic was deleted, together with its channels.
func TopicDeleted(topic string) Event { return about(registry.TopicDeleted, topic, "") }

// TopicPaused reports that a topic was paused. It affects only nsqd.dat.
func TopicPaused(topic string) Event { return about(registry.TopicPaused, topic, "") }

// TopicUnpaused reports that a topic was unpaused. It affects only nsqd.dat.
func TopicUnpaused(topic string) Event { return about(registry.TopicUnpaused, topic, "") }

// ChannelCreated reports a new channel. Its topic must exist.
func ChannelCreated(topic, channel string) Event {
	return about(registry.ChannelCreated, topic, channel)
}

// ChannelDeleted reports that a channel was deleted.
func ChannelDeleted(topic, channel string) Event {
	return about(registry.ChannelDeleted, topic, channel)
}

// ChannelPaused reports that a channel was paused. It affects only nsqd.dat.
func ChannelPaused(topic, channel string) Event {
	return about(registry.ChannelPaused, topic, channel)
}

// ChannelUnpaused reports that a channel was unpaused. It affects only nsqd.dat.
func ChannelUnpaused(topic, channel string) Event {
	return about(registry.ChannelUnpaused, topic, channel)
}

func about(kind registry.Kind, topic, channel string) Event {
	return Event{registry.Change{Kind: kind, Topic: topic, Channel: channel}}
}

func (e Event) String() string { return e.change.String() }

// Notify announces changes at the broker. It waits for neither network nor disk.
// Call it under the lock that guards the change: the order of the calls is the
// order of the changes.
//
// Notify accepts all events or none. The error names each invalid event. It is not
// an error to create what exists or to delete what doesn't exist; that changes
// nothing. Creating a channel of an unknown topic, or pausing or unpausing
// something unknown, is [ErrUnknown]. Earlier events of the same call count. So
// a channel that is created after its topic was deleted doesn't restore the topic.
// Names must be valid, otherwise the error is [ErrInvalidName].
//
// Notify may be called before and during Run, from any goroutine. With a DataPath,
// call LoadMetadata first. Once Run's context has ended, Notify returns [ErrClosed].
func (l *Loop) Notify(events ...Event) error {
	if err := l.mayChange(); err != nil {
		return err
	}
	var few [8]registry.Change // as it mostly is: nothing is allocated
	changes := few[:0]
	for _, e := range events {
		changes = append(changes, e.change)
	}
	return l.tell(l.reg.Apply(changes))
}

// SetMetadata replaces everything that the broker has. It is for brokers that read
// their topics from somewhere else instead of reporting each change. The difference
// is applied as one change; topics and channels that stay are not affected.
// m.Version is ignored.
//
// An invalid name ([ErrInvalidName]) or a name that occurs twice is an error,
// and then nothing changes. When it may be called, and what it returns after the
// end, is as for [Loop.Notify].
//
// SetMetadata is atomic, but doesn't block Notify, however large m is: a concurrent
// Notify takes effect before or after it. m must not change until SetMetadata returns.
func (l *Loop) SetMetadata(m Metadata) error {
	if err := m.validate(); err != nil {
		return err
	}
	if err := l.mayChange(); err != nil {
		return err
	}
	return l.tell(l.reg.Declare(m.items()))
}

// tell tells those whom a change concerns.
func (l *Loop) tell(effect registry.Effect, err error) error {
	if effect.Moved {
		signal(l.notify)
	}
	if effect.Dirty && l.writer != nil {
		l.writer.Changed()
	}
	if err == nil {
		return nil
	}
	return publicEach(err)
}

// TopicMetadata returns one topic of the broker with its channels, the oldest
// first, including ephemeral ones. It reports whether the topic exists. Its cost
// doesn't depend on the number of other topics. It may be called at any time from
// any goroutine.
func (l *Loop) TopicMetadata(topic string) (TopicMetadata, bool) {
	items, found := l.reg.Topic(topic)
	if !found {
		return TopicMetadata{}, false
	}
	m := TopicMetadata{Name: topic, Paused: items[0].Paused, Channels: make([]ChannelMetadata, 0, len(items)-1)}
	for _, channel := range items[1:] {
		m.Channels = append(m.Channels, ChannelMetadata{Name: channel.Channel, Paused: channel.Paused})
	}
	return m, true
}

// Metadata returns a snapshot of everything that the broker has, including
// ephemeral topics and channels. It doesn't block Notify. It may be called at any
// time from any goroutine.
func (l *Loop) Metadata() Metadata {
	return newMetadata(l.reg.Snapshot(false), l.opts.Version)
}
