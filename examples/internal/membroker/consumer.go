package membroker

import "time"

// consumer is one client's subscription to one channel.
type consumer struct {
	client  clientInfo
	address string // the client's
	since   time.Time
	topic   *topic
	channel *channel
	wake    chan<- struct{} // capacity 1: there may be something to take; anyone sends, the client's writer receives
	gone    chan struct{}   // closed when the channel is deleted

	// Guarded by channel.mu:
	rdy      int // how many messages it wants in flight; 0 after CLS
	inFlight int
	closing  bool // said CLS

	messageCount, finishCount, requeueCount uint64
}

func (s *consumer) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // a wake-up that was not seen yet counts for this one too
	}
}

// join adds a consumer, which gets nothing before its first RDY.
func (c *channel) join(s *consumer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.consumers[s] = struct{}{}
}

// leave removes a consumer, requeues at once what it had in flight, and
// returns how many consumers are left.
func (c *channel) leave(s *consumer) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.consumers, s)
	for _, d := range c.inFlight {
		if d.holder == s {
			c.land(d)
			c.ready = append(c.ready, d)
		}
	}
	c.wakeConsumers()
	return len(c.consumers)
}

// setReady answers RDY; after CLS it changes nothing.
func (c *channel) setReady(s *consumer, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.closing {
		s.rdy = n
		s.wakeUp()
	}
}

// stopFeeding answers CLS: no more messages, but those in flight may be
// finished. It returns false if that was said before.
func (c *channel) stopFeeding(s *consumer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := !s.closing
	s.rdy, s.closing = 0, true
	return first
}

// idle reports whether the consumer has nothing in flight.
func (c *channel) idle(s *consumer) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return s.inFlight == 0
}
