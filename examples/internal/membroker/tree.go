package membroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/lookuploop/lookuploop"
)

var (
	errClosing         = errors.New("exiting")
	errTopicNotFound   = errors.New("topic not found")
	errChannelNotFound = errors.New("channel not found")
)

// This file is the broker's truth: which topics and channels exist, and which
// are paused. It is guarded by Broker.mu, and each change of it follows one
// pattern, which is all that an embedder of lookuploop has to do:
//
//	lock; tell the Loop; change the tree; unlock
//
// Under the lock, so that the Loop hears the changes in the order in which they
// happen; first the Loop, so that what it refuses does not happen. Notify
// waits for nothing, so no publisher ever waits for a lookupd.

// publish gives the messages to the topic, which is created if need be.
func (b *Broker) publish(topicName string, msgs ...*message) error {
	for {
		err := b.publishExisting(topicName, msgs)
		if !errors.Is(err, errTopicNotFound) {
			return err
		}
		if err := b.createTopic(topicName); err != nil {
			return err
		}
	}
}

func (b *Broker) publishExisting(topicName string, msgs []*message) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closing {
		return errClosing
	}
	t := b.topics[topicName]
	if t == nil {
		return errTopicNotFound
	}
	return t.publish(msgs)
}

func (b *Broker) createTopic(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.ensureTopic(name)
	return err
}

// ensureTopic returns the topic, which it creates if there is none. b.mu is held.
func (b *Broker) ensureTopic(name string) (*topic, error) {
	if b.closing {
		return nil, errClosing
	}
	if t := b.topics[name]; t != nil {
		return t, nil
	}
	if err := b.loop.Notify(lookuploop.TopicCreated(name)); err != nil {
		return nil, err
	}
	t := newTopic(name, b.opts.MemQueueSize)
	t.starting = true
	b.topics[name] = t
	b.starts.Go(func() { b.startTopic(t) })
	return t, nil
}

// startTopic gives a new topic the channels that the lookupds know from other
// brokers, so that their consumers miss none of its messages. Meanwhile the topic
// keeps what is published. It is given lookupTimeout, and holds no lock while it asks.
func (b *Broker) startTopic(t *topic) {
	ctx, cancel := context.WithTimeout(b.lookups, lookupTimeout)
	defer cancel()
	names, err := b.lookupChannels(ctx, t.name)

	b.mu.Lock()
	if b.topics[t.name] == t { // not deleted meanwhile
		for _, name := range names {
			if _, e := b.ensureChannel(t, name); e != nil {
				err = errors.Join(err, fmt.Errorf("channel %q: %w", name, e))
			}
		}
		t.starting = false
		t.resume()
	}
	b.mu.Unlock()

	if err != nil {
		b.opts.Logger.Info("new topic did not get all its channels from the lookupds", "topic", t.name, "error", err)
	}
}

// lookupChannels asks the connected lookupds, for a few topics at a time: a thousand new
// topics at once need not be a thousand connections to each lookupd.
func (b *Broker) lookupChannels(ctx context.Context, topicName string) ([]string, error) {
	select {
	case b.lookupSlots <- struct{}{}:
		defer func() { <-b.lookupSlots }()
		names, err := b.loop.TopicChannels(ctx, topicName)
		if n := len(names) - maxLookedUp; n > 0 {
			names = names[:maxLookedUp]
			err = errors.Join(err, fmt.Errorf("%d of %d channels are left out", n, n+maxLookedUp))
		}
		return names, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// createChannel adds a channel to a topic that exists.
func (b *Broker) createChannel(topicName, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[topicName]
	if t == nil {
		return errTopicNotFound
	}
	_, err := b.ensureChannel(t, name)
	return err
}

// ensureChannel returns the channel, which it creates if there is none. b.mu is held.
func (b *Broker) ensureChannel(t *topic, name string) (*channel, error) {
	if b.closing {
		return nil, errClosing
	}
	if c := t.channels[name]; c != nil {
		return c, nil
	}
	if err := b.loop.Notify(lookuploop.ChannelCreated(t.name, name)); err != nil {
		return nil, err
	}
	c := newChannel(name, false, b.alarms)
	t.channels[name] = c
	t.resume() // the first channel gets what was published before it
	return c, nil
}

// subscribe makes s a consumer of the channel. Topic and channel are created if need be,
// and can't vanish in between.
func (b *Broker) subscribe(topicName, channelName string, s *consumer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, err := b.ensureTopic(topicName)
	if err != nil {
		return err
	}
	c, err := b.ensureChannel(t, channelName)
	if err != nil {
		return err
	}
	s.topic, s.channel = t, c
	c.join(s)
	return nil
}

// unsubscribe ends what subscribe began. An ephemeral channel goes with its
// last consumer, an ephemeral topic with its last channel.
func (b *Broker) unsubscribe(s *consumer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, c := s.topic, s.channel
	left := c.leave(s)
	alive := !b.closing && b.topics[t.name] == t && t.channels[c.name] == c
	if left > 0 || !alive || !isEphemeral(c.name) {
		return nil
	}
	return b.removeChannel(t, c)
}

func (b *Broker) deleteTopic(name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	if t == nil {
		return errTopicNotFound
	}
	return b.removeTopic(t)
}

func (b *Broker) deleteChannel(topicName, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, c, err := b.find(topicName, name)
	if err != nil {
		return err
	}
	return b.removeChannel(t, c)
}

// removeTopic deletes a topic with its channels; their consumers are
// disconnected. b.mu is held.
func (b *Broker) removeTopic(t *topic) error {
	if err := b.loop.Notify(lookuploop.TopicDeleted(t.name)); err != nil {
		return err
	}
	delete(b.topics, t.name)
	for _, c := range t.channels {
		c.close()
	}
	return nil
}

// removeChannel deletes a channel, and its topic too if that is ephemeral and has no
// other. b.mu is held.
func (b *Broker) removeChannel(t *topic, c *channel) error {
	if isEphemeral(t.name) && len(t.channels) == 1 {
		return b.removeTopic(t)
	}
	if err := b.loop.Notify(lookuploop.ChannelDeleted(t.name, c.name)); err != nil {
		return err
	}
	delete(t.channels, c.name)
	c.close()
	return nil
}

func (b *Broker) pauseTopic(name string, paused bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.topics[name]
	if t == nil {
		return errTopicNotFound
	}
	event := lookuploop.TopicUnpaused(name)
	if paused {
		event = lookuploop.TopicPaused(name)
	}
	if err := b.loop.Notify(event); err != nil {
		return err
	}
	t.paused = paused
	t.resume()
	return nil
}

func (b *Broker) pauseChannel(topicName, name string, paused bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, c, err := b.find(topicName, name)
	if err != nil {
		return err
	}
	event := lookuploop.ChannelUnpaused(topicName, name)
	if paused {
		event = lookuploop.ChannelPaused(topicName, name)
	}
	if err := b.loop.Notify(event); err != nil {
		return err
	}
	c.setPaused(paused)
	return nil
}

// emptyTopic and emptyChannel drop messages. They change nothing that the Loop knows.
func (b *Broker) emptyTopic(name string) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	t := b.topics[name]
	if t == nil {
		return errTopicNotFound
	}
	t.empty()
	return nil
}

func (b *Broker) emptyChannel(topicName, name string) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, c, err := b.find(topicName, name)
	if err != nil {
		return err
	}
	c.empty()
	return nil
}

// find returns a channel that exists. b.mu is held, at least for reading.
func (b *Broker) find(topicName, channelName string) (*topic, *channel, error) {
	t := b.topics[topicName]
	if t == nil {
		return nil, nil, errTopicNotFound
	}
	c := t.channels[channelName]
	if c == nil {
		return nil, nil, errChannelNotFound
	}
	return t, c, nil
}

// restore builds the tree that the Loop read from nsqd.dat. The Loop has it
// already, so it is not told. Nothing else runs yet.
func (b *Broker) restore(saved lookuploop.Metadata) {
	for _, tm := range saved.Topics {
		t := newTopic(tm.Name, b.opts.MemQueueSize)
		t.paused = tm.Paused
		for _, cm := range tm.Channels {
			t.channels[cm.Name] = newChannel(cm.Name, cm.Paused, b.alarms)
		}
		b.topics[t.name] = t
	}
}
