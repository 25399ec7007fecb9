package lookuploop

import "github.com/lookuploop/lookuploop/internal/registry"

// Event says that a topic or channel of the broker came, went, or was paused
// or unpaused. Make one with TopicCreated and its like, and hand it to Notify.
// Events are comparable.
type Event struct{ change registry.Change }

// TopicCreated says that the broker has the topic now.
func TopicCreated(topic string) Event { return about(registry.TopicCreated, topic, "") }

// TopicDeleted says that the broker doesn't have the topic any more, nor its channels.
func TopicDeleted(topic string) Event { return about(registry.TopicDeleted, topic, "") }

// TopicPaused says that the topic was paused. It matters to nsqd.dat only.
func TopicPaused(topic string) Event { return about(registry.TopicPaused, topic, "") }

// TopicUnpaused undoes TopicPaused.
func TopicUnpaused(topic string) Event { return about(registry.TopicUnpaused, topic, "") }

// ChannelCreated says that the broker has the channel now. Its topic must exist.
func ChannelCreated(topic, channel string) Event {
	return about(registry.ChannelCreated, topic, channel)
}

// ChannelDeleted says that the broker doesn't have the channel any more.
func ChannelDeleted(topic, channel string) Event {
	return about(registry.ChannelDeleted, topic, channel)
}

// ChannelPaused says that the channel was paused. It matters to nsqd.dat only.
func ChannelPaused(topic, channel string) Event {
	return about(registry.ChannelPaused, topic, channel)
}

// ChannelUnpaused undoes ChannelPaused.
func ChannelUnpaused(topic, channel string) Event {
	return about(registry.ChannelUnpaused, topic, channel)
}

func about(kind registry.Kind, topic, channel string) Event {
	return Event{registry.Change{Kind: kind, Topic: topic, Channel: channel}}
}

func (e Event) String() string { return e.change.String() }

// Notify says what changed at the broker. It waits for neither network nor
// disk. Call it under the lock that guards the change: the order of the calls
// is the order of the changes.
//
// Either all events are accepted or, with an error that names each one at
// fault, none. Creating what exists and deleting what doesn't is fine and
// changes nothing. A channel can't be created in an unknown topic, and what is
// unknown can be neither paused nor unpaused (ErrUnknown); earlier events of the
// same call count. So a channel that lost the race against the deletion of its
// topic doesn't bring the topic back. Names must be valid (ErrInvalidName).
//
// It may be called before and during Run, from any goroutine; with a DataPath,
// not before LoadMetadata. From the end of Run's context on it returns ErrClosed.
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

// SetMetadata declares the whole of what the broker has, for brokers that
// reconcile instead of notifying. The difference to what it had is applied as
// one change; what stays is not touched. m.Version is ignored.
//
// An invalid name (ErrInvalidName) or a name that occurs twice is an error,
// and then nothing changes. Otherwise as Notify.
//
// Notify doesn't wait for it, however large m is: what is notified meanwhile comes
// before the declaration or after it, as if that took no time. m must not change
// until SetMetadata returns.
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
	return publicEach(err)
}

// TopicMetadata returns one topic of the broker with its channels, the oldest
// first, ephemeral ones included, and whether there is such a topic. It costs
// nothing for the other topics. It may be called at any time from any goroutine.
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

// Metadata returns all that the broker has at one instant, ephemeral topics and
// channels included. Notify doesn't wait for it. It may be called at any time
// from any goroutine.
func (l *Loop) Metadata() Metadata {
	return newMetadata(l.reg.Snapshot(false), l.opts.Version)
}
