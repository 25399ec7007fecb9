package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nsqio/go-nsq"
)

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
	return strings.TrimRight(fmt.Sprintf("%s: %q %q", eventNames[e.kind], e.topic, e.channel), ` "`) + `"`
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
		l.writer.changed()
	}
	return err
}

// check returns what is wrong with events. It is called with mu held.
func (r *registry) check(events []Event) error {
	var errs []error
	earlier := view{registry: r}
	for i, e := range events {
		if err := earlier.check(e); err != nil {
			errs = append(errs, err)
		}
		if i < len(events)-1 {
			earlier.note(e)
		}
	}
	return errors.Join(errs...)
}

// apply makes a checked event true. It is called with mu held.
func (r *registry) apply(e Event) {
	topic := r.topic(e.topic)
	entry := topic
	if e.isAboutChannel() && topic != nil {
		entry = r.live(key{topic, e.channel})
	}
	switch e.kind {
	case topicCreated:
		r.create(key{name: e.topic})
	case channelCreated:
		r.create(key{topic, e.channel})
	case topicDeleted, channelDeleted:
		if entry != nil {
			r.delete(entry)
		}
	case topicPaused, channelPaused:
		r.pause(entry, true)
	case topicUnpaused, channelUnpaused:
		r.pause(entry, false)
	}
}

// view is the registry as it will be after the events noted.
type view struct {
	*registry
	noted map[Event]fate // by the event that would create the topic or channel
	n     int
}

type fate struct {
	exists bool
	order  int // of the event that decided it
}

// note makes e count for later checks.
func (v *view) note(e Event) {
	switch e.kind {
	case topicCreated, topicDeleted, channelCreated, channelDeleted:
		if v.noted == nil {
			v.noted = make(map[Event]fate)
		}
		v.n++
		creation := TopicCreated(e.topic)
		if e.isAboutChannel() {
			creation = ChannelCreated(e.topic, e.channel)
		} else if e.kind == topicDeleted {
			v.noted[TopicDeleted(e.topic)] = fate{order: v.n}
		}
		v.noted[creation] = fate{e == creation, v.n}
	}
}

func (v *view) hasTopic(name string) bool {
	if f, ok := v.noted[TopicCreated(name)]; ok {
		return f.exists
	}
	return v.topic(name) != nil
}

func (v *view) hasChannel(topic, name string) bool {
	if !v.hasTopic(topic) {
		return false
	}
	deletion, topicWasDeleted := v.noted[TopicDeleted(topic)]
	if f, ok := v.noted[ChannelCreated(topic, name)]; ok && f.order > deletion.order {
		return f.exists
	}
	return !topicWasDeleted && v.channel(topic, name) != nil
}

// check returns what is wrong with e.
func (v *view) check(e Event) error {
	if e.kind == 0 {
		return errors.New("lookuploop: empty Event: make it with TopicCreated and its like")
	}
	// A name that exists is valid, and most events are about such.
	topicExists := v.hasTopic(e.topic)
	if !topicExists && !nsq.IsValidTopicName(e.topic) {
		return fmt.Errorf("%w: %v: topic %s", ErrInvalidName, e, nameRule)
	}
	channelExists := e.isAboutChannel() && topicExists && v.hasChannel(e.topic, e.channel)
	if e.isAboutChannel() && !channelExists && !nsq.IsValidChannelName(e.channel) {
		return fmt.Errorf("%w: %v: channel %s", ErrInvalidName, e, nameRule)
	}
	switch e.kind {
	case topicPaused, topicUnpaused, channelCreated:
		if !topicExists {
			return fmt.Errorf("%w topic: %v: create the topic first", ErrUnknown, e)
		}
	case channelPaused, channelUnpaused:
		if !channelExists {
			return fmt.Errorf("%w channel: %v: create the channel first", ErrUnknown, e)
		}
	}
	return nil
}

const nameRule = "names have 1 to 64 of the characters .a-zA-Z0-9_- and may end in #ephemeral"

// declare makes m, which is valid, the whole truth. It is called with mu held.
func (r *registry) declare(m Metadata) {
	wanted := make(map[key]bool, len(m.Topics)) // topics; channels under their name and a topic that exists
	for _, t := range m.Topics {
		wanted[key{name: t.Name}] = true
		if parent := r.topic(t.Name); parent != nil {
			for _, c := range t.Channels {
				wanted[key{parent, c.Name}] = true
			}
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
	for _, t := range m.Topics {
		r.create(key{name: t.Name})
		topic := r.topic(t.Name)
		r.pause(topic, t.Paused)
		for _, c := range t.Channels {
			r.create(key{topic, c.Name})
			r.pause(r.live(key{topic, c.Name}), c.Paused)
		}
	}
}

// Metadata returns all that the broker has, ephemeral topics and channels
// included. It may be called at any time from any goroutine.
func (l *Loop) Metadata() Metadata {
	m, _ := l.reg.snapshot(false)
	m.Version = l.opts.Version
	return m
}

// WaitRegistered returns once n nsqlookupds (n <= 0: all that are configured)
// are connected and have acknowledged, at one instant, everything that was
// accepted before the call. With more than there are it waits for addresses to
// be added; n <= 0 without any address returns at once.
//
// An nsqlookupd that refused a name counts as one that doesn't have it. When n
// can't be reached without such, the error joins their *ResponseErrors. When
// ctx ends, the error wraps ctx.Err() and says which nsqlookupds are missing
// and why. It may be called from any goroutine but OnStateChange, also before
// Run; once Run's context has ended it returns ErrClosed.
func (l *Loop) WaitRegistered(ctx context.Context, n int) error {
	r := l.reg
	r.mu.Lock()
	defer r.mu.Unlock()
	target := r.seq
	r.waiters++
	defer func() { r.waiters-- }()
	for {
		if l.hasEnded() {
			return ErrClosed
		}
		if done, err := l.isRegistered(target, n); done {
			return err
		}
		changed := r.changed
		r.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-l.ended:
		case <-ctx.Done():
			err = fmt.Errorf("lookuploop: not registered: %s: %w", l.missing(), ctx.Err())
		}
		r.mu.Lock()
		if err != nil {
			return err
		}
	}
}

// isRegistered tells whether the wait for n lookupds to acknowledge target is
// over, and with what. It is called with the registry's mu held.
func (l *Loop) isRegistered(target uint64, n int) (bool, error) {
	peers := l.lookupPeers()
	if n <= 0 {
		n = len(peers)
	}
	registered, refusing := 0, 0
	var errs []error
	for _, p := range peers {
		switch refusals := p.cursor.refusals(target); {
		case len(refusals) > 0:
			refusing++
			for _, err := range refusals {
				errs = append(errs, err)
			}
		case p.cursor.connected && p.cursor.acked >= target:
			registered++
		}
	}
	switch {
	case registered >= n:
		return true, nil
	case len(peers) >= n && len(peers)-refusing < n:
		return true, errors.Join(errs...)
	}
	return false, nil
}

// missing says of each lookupd that doesn't know everything why it doesn't.
func (l *Loop) missing() string {
	var texts []string
	for _, s := range l.Status().Lookupds {
		switch {
		case len(s.Refused) > 0:
			texts = append(texts, fmt.Sprintf("%s refused %d names", s.Address, len(s.Refused)))
		case s.State == Connected && s.Pending > 0:
			texts = append(texts, fmt.Sprintf("%s has %d changes to acknowledge", s.Address, s.Pending))
		case s.State != Connected && s.LastError == nil && s.ResolveError != nil:
			texts = append(texts, fmt.Sprintf("%s is %v (%v)", s.Address, s.State, s.ResolveError))
		case s.State != Connected && s.LastError != nil:
			texts = append(texts, fmt.Sprintf("%s is %v (%v)", s.Address, s.State, s.LastError))
		case s.State != Connected:
			texts = append(texts, fmt.Sprintf("%s is %v", s.Address, s.State))
		}
	}
	if len(texts) == 0 {
		return "too few lookupd addresses"
	}
	return strings.Join(texts, ", ")
}
