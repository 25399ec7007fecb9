package membroker

import (
	"errors"
	"sync"
)

var errFull = errors.New("queue is full (-mem-queue-size)")

// topic hands what is published to each of its channels. While it has none,
// is paused, or still asks the lookupds which channels it should have, it
// keeps the messages.
//
// channels, paused and starting are part of the Broker's tree and guarded by Broker.mu.
type topic struct {
	name     string
	limit    int // Options.MemQueueSize
	channels map[string]*channel
	paused   bool
	starting bool // its channels are not all known yet

	// mu is between publishers: they hold Broker.mu for reading only.
	mu                         sync.Mutex
	backlog                    []*message
	messageCount, messageBytes uint64
}

func newTopic(name string, limit int) *topic {
	return &topic{name: name, limit: limit, channels: make(map[string]*channel)}
}

// publish takes all messages or none. Broker.mu is held for reading.
func (t *topic) publish(msgs []*message) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(msgs) > t.room() {
		return errFull
	}
	t.messageCount += uint64(len(msgs))
	for _, m := range msgs {
		t.messageBytes += uint64(len(m.body))
	}
	t.backlog = append(t.backlog, msgs...)
	t.forward()
	return nil
}

// room is how many messages each channel can take, now or when the topic
// forwards its backlog. Only publish uses it up, so forward always fits.
func (t *topic) room() int {
	most := 0
	for _, c := range t.channels {
		most = max(most, c.held())
	}
	return t.limit - len(t.backlog) - most
}

// forward moves the backlog into the channels, if it is time to.
func (t *topic) forward() {
	if t.paused || t.starting || len(t.channels) == 0 || len(t.backlog) == 0 {
		return
	}
	for _, c := range t.channels {
		c.put(t.backlog)
	}
	t.backlog = nil
}

// resume is called when something changed that may have held the backlog
// back. Broker.mu is held.
func (t *topic) resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forward()
}

// empty drops the backlog; what the channels have is theirs.
func (t *topic) empty() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.backlog = nil
}

// outstanding is how many messages wait in the topic and in each of its channels.
func (t *topic) outstanding() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(t.backlog)
	for _, c := range t.channels {
		n += c.held()
	}
	return n
}
