package lookuploop

import "fmt"

// Event says that a topic or channel of the broker came, went, or was paused
// or unpaused. Make one with TopicCreated and its like, and hand it to Notify.
// Events are comparable.
type Event struct {
	kind           eventKind
	topic, channel string
}

type eventKind uint8

const (
	topicCreated eventKind = iota + 1
	topicDeleted
	topicPaused
	topicUnpaused
	channelCreated
	channelDeleted
	channelPaused
	channelUnpaused
)

var eventNames = [...]string{
	"no event", "topic created", "topic deleted", "topic paused", "topic unpaused",
	"channel created", "channel deleted", "channel paused", "channel unpaused",
}

// TopicCreated says that the broker has the topic now.
func TopicCreated(topic string) Event { return Event{topicCreated, topic, ""} }

// TopicDeleted says that the broker doesn't have the topic any more, nor its channels.
func TopicDeleted(topic string) Event { return Event{topicDeleted, topic, ""} }

// TopicPaused says that the topic was paused. It matters to nsqd.dat only.
func TopicPaused(topic string) Event { return Event{topicPaused, topic, ""} }

// TopicUnpaused undoes TopicPaused.
func TopicUnpaused(topic string) Event { return Event{topicUnpaused, topic, ""} }

// ChannelCreated says that the broker has the channel now. Its topic must exist.
func ChannelCreated(topic, channel string) Event { return Event{channelCreated, topic, channel} }

// ChannelDeleted says that the broker doesn't have the channel any more.
func ChannelDeleted(topic, channel string) Event { return Event{channelDeleted, topic, channel} }

// ChannelPaused says that the channel was paused. It matters to nsqd.dat only.
func ChannelPaused(topic, channel string) Event { return Event{channelPaused, topic, channel} }

// ChannelUnpaused undoes ChannelPaused.
func ChannelUnpaused(topic, channel string) Event { return Event{channelUnpaused, topic, channel} }

func (e Event) String() string {
	switch {
	case e.kind == 0:
		return eventNames[0]
	case e.isAboutChannel():
		return fmt.Sprintf("%s: %q %q", eventNames[e.kind], e.topic, e.channel)
	}
	return fmt.Sprintf("%s: %q", eventNames[e.kind], e.topic)
}

// isAboutChannel tells whether the event is about a channel rather than a topic.
func (e Event) isAboutChannel() bool { return e.kind >= channelCreated }

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
	return l.change(func(r *registry) error {
		if err := r.check(events); err != nil {
			return err
		}
		for _, e := range events {
			r.apply(e)
		}
		return nil
	})
}

// SetMetadata declares the whole of what the broker has, for brokers that
// reconcile instead of notifying. The difference to what it had is applied as
// one change; what stays is not touched. m.Version is ignored.
//
// An invalid name (ErrInvalidName) or a name that occurs twice is an error,
// and then nothing changes. Otherwise as Notify.
func (l *Loop) SetMetadata(m Metadata) error {
	if err := m.validate(); err != nil {
		return err
	}
	return l.change(func(r *registry) error {
		r.declare(m)
		return nil
	})
}

// change runs f under the registry's lock and tells those whom its changes concern.
func (l *Loop) change(f func(*registry) error) error {
	if err := l.mayChange(); err != nil {
		return err
	}
	r := l.reg
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	seq, version := r.seq, r.version
	err := f(r)
	isMoved, isDirty := r.seq != seq, r.version != version
	r.mu.Unlock()

	if isMoved {
		signal(l.notify)
	}
	if isDirty && l.writer != nil {
		l.writer.Changed()
	}
	return err
}

// Metadata returns all that the broker has, ephemeral topics and channels
// included. It may be called at any time from any goroutine.
func (l *Loop) Metadata() Metadata {
	m, _ := l.reg.snapshot(false)
	m.Version = l.opts.Version
	return m
}
