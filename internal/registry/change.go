package registry

import (
	"errors"
	"fmt"

	"github.com/nsqio/go-nsq"
)

// The errors of a change that the broker can't make. What is returned wraps
// them.
var (
	ErrClosed      = errors.New("lookuploop: closed")
	ErrInvalidName = errors.New("lookuploop: invalid name")
	ErrUnknown     = errors.New("lookuploop: unknown")
)

// NameRule says which names NSQ allows.
const NameRule = "names have 1 to 64 of the characters .a-zA-Z0-9_- and may end in #ephemeral"

// Change says what happened to one topic or channel of the broker. Changes are
// comparable.
type Change struct {
	Kind           Kind
	Topic, Channel string // no Channel: the change is about the topic
}

// Kind is what happened. The zero Kind is not a change.
type Kind uint8

const (
	TopicCreated Kind = iota + 1
	TopicDeleted
	TopicPaused
	TopicUnpaused
	ChannelCreated
	ChannelDeleted
	ChannelPaused
	ChannelUnpaused
)

var kindNames = [...]string{
	"no event", "topic created", "topic deleted", "topic paused", "topic unpaused",
	"channel created", "channel deleted", "channel paused", "channel unpaused",
}

func (c Change) String() string {
	switch {
	case c.Kind == 0:
		return kindNames[0]
	case c.isAboutChannel():
		return fmt.Sprintf("%s: %q %q", kindNames[c.Kind], c.Topic, c.Channel)
	}
	return fmt.Sprintf("%s: %q", kindNames[c.Kind], c.Topic)
}

func (c Change) isAboutChannel() bool { return c.Kind >= ChannelCreated }

// Effect says whom a change concerns.
type Effect struct {
	Moved bool // there is something to say to the lookupds
	Dirty bool // what belongs into nsqd.dat changed
}

// Apply makes all changes true, in their order, or none and says what is wrong
// with each.
func (r *Registry) Apply(changes []Change) (Effect, error) {
	r.lock()
	defer r.release()
	if r.closed {
		return Effect{}, ErrClosed
	}
	seq, version := r.seq, r.version
	isNews, err := r.check(changes)
	if err == nil && isNews {
		for _, c := range changes {
			r.apply(c)
		}
	}
	return Effect{Moved: r.seq != seq, Dirty: r.version != version}, err
}

// Close lets nothing change any more.
func (r *Registry) Close() {
	r.lock()
	defer r.unlock()
	r.closed = true
}

// The following are called with mu held.

// check returns what is wrong with changes, and whether any is other than the
// creation of what exists.
func (r *Registry) check(changes []Change) (isNews bool, err error) {
	var errs []error
	earlier := view{Registry: r, noted: r.scratch}
	for i, c := range changes {
		exists, err := earlier.check(c)
		if err != nil {
			errs = append(errs, err)
		}
		isNews = isNews || !exists || c.Kind != TopicCreated && c.Kind != ChannelCreated
		if i < len(changes)-1 {
			earlier.note(c)
		}
	}
	r.scratch = nil
	if len(earlier.noted) < 100 { // as it mostly is: the next call needn't make another
		clear(earlier.noted)
		r.scratch = earlier.noted
	}
	return isNews, errors.Join(errs...)
}

// apply makes a checked change true.
func (r *Registry) apply(c Change) {
	k := key{name: c.Topic}
	if c.isAboutChannel() {
		k = key{r.topic(c.Topic), c.Channel}
		if k.parent == nil {
			return // the channel of an unknown topic was deleted
		}
	}
	switch c.Kind {
	case TopicCreated, ChannelCreated:
		r.create(k)
	case TopicDeleted, ChannelDeleted:
		if e := r.live(k); e != nil {
			r.delete(e)
		}
	case TopicPaused, ChannelPaused:
		r.pause(r.live(k), true)
	case TopicUnpaused, ChannelUnpaused:
		r.pause(r.live(k), false)
	}
}

// view is the registry as it will be after the changes noted.
type view struct {
	*Registry
	noted map[Change]fate // by the change that would create the topic or channel
	n     int
}

type fate struct {
	exists bool
	order  int // of the change that decided it
}

// note makes c count for later checks.
func (v *view) note(c Change) {
	switch c.Kind {
	case TopicCreated, TopicDeleted, ChannelCreated, ChannelDeleted:
		if v.noted == nil {
			v.noted = make(map[Change]fate)
		}
		v.n++
		creation := Change{TopicCreated, c.Topic, ""}
		if c.isAboutChannel() {
			creation = Change{ChannelCreated, c.Topic, c.Channel}
		} else if c.Kind == TopicDeleted {
			v.noted[c] = fate{order: v.n}
		}
		v.noted[creation] = fate{c == creation, v.n}
	}
}

func (v *view) hasTopic(name string) bool {
	if f, ok := v.noted[Change{TopicCreated, name, ""}]; ok {
		return f.exists
	}
	return v.topic(name) != nil
}

// hasChannel is about a topic that exists.
func (v *view) hasChannel(topic, name string) bool {
	deletion, topicWasDeleted := v.noted[Change{TopicDeleted, topic, ""}]
	if f, ok := v.noted[Change{ChannelCreated, topic, name}]; ok && f.order > deletion.order {
		return f.exists
	}
	return !topicWasDeleted && v.channel(topic, name) != nil
}

// check returns whether what c is about exists, and what is wrong with c.
func (v *view) check(c Change) (exists bool, _ error) {
	if c.Kind == 0 {
		return false, errors.New("lookuploop: empty Event: make it with TopicCreated and its like")
	}
	// A name that exists is valid, and most changes are about such.
	topicExists := v.hasTopic(c.Topic)
	if !topicExists && !nsq.IsValidTopicName(c.Topic) {
		return false, fmt.Errorf("%w: %v: topic %s", ErrInvalidName, c, NameRule)
	}
	channelExists := c.isAboutChannel() && topicExists && v.hasChannel(c.Topic, c.Channel)
	if c.isAboutChannel() && !channelExists && !nsq.IsValidChannelName(c.Channel) {
		return false, fmt.Errorf("%w: %v: channel %s", ErrInvalidName, c, NameRule)
	}
	switch c.Kind {
	case TopicPaused, TopicUnpaused, ChannelCreated:
		if !topicExists {
			return false, fmt.Errorf("%w topic: %v: create the topic first", ErrUnknown, c)
		}
	case ChannelPaused, ChannelUnpaused:
		if !channelExists {
			return false, fmt.Errorf("%w channel: %v: create the channel first", ErrUnknown, c)
		}
	}
	return topicExists && (channelExists || !c.isAboutChannel()), nil
}
