package lookuploop

import (
	"errors"
	"fmt"

	"github.com/nsqio/go-nsq"
)

// check returns what is wrong with events. It is called with mu held.
func (r *registry) check(events []Event) error {
	var errs []error
	earlier := view{registry: r, noted: r.scratch}
	for i, e := range events {
		if err := earlier.check(e); err != nil {
			errs = append(errs, err)
		}
		if i < len(events)-1 {
			earlier.note(e)
		}
	}
	r.scratch = nil
	if len(earlier.noted) < 100 { // as it mostly is: the next call needn't make another
		clear(earlier.noted)
		r.scratch = earlier.noted
	}
	return errors.Join(errs...)
}

// apply makes a checked event true. It is called with mu held.
func (r *registry) apply(e Event) {
	k := key{name: e.topic}
	if e.isAboutChannel() {
		k = key{r.topic(e.topic), e.channel}
		if k.parent == nil {
			return // the channel of an unknown topic was deleted
		}
	}
	switch e.kind {
	case topicCreated, channelCreated:
		r.create(k)
	case topicDeleted, channelDeleted:
		if entry := r.live(k); entry != nil {
			r.delete(entry)
		}
	case topicPaused, channelPaused:
		r.pause(r.live(k), true)
	case topicUnpaused, channelUnpaused:
		r.pause(r.live(k), false)
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

// hasChannel is about a topic that exists.
func (v *view) hasChannel(topic, name string) bool {
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
