package membroker

import (
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/nsqio/go-nsq"
)

var (
	errNotInFlight = errors.New("message is not in flight")
	errNotYours    = errors.New("message is in flight to another client")
)

// channel is a queue with consumers. A message in it is in one of three
// places: in ready; in waiting with a holder, in flight; in waiting without
// one, deferred. It leaves only when its consumer finishes it or the channel
// is emptied.
//
// Which channels exist is the Broker's business; what is in a channel is its own,
// guarded by its own lock. Nothing here blocks: consumers are woken, and
// come and take.
type channel struct {
	name   string
	alarms *alarms

	mu        sync.Mutex
	paused    bool
	consumers map[*consumer]struct{}
	ready     []*delivery                 // first in, first out
	waiting   dueHeap                     // if there are any, the channel is among alarms
	inFlight  map[nsq.MessageID]*delivery // those in waiting that have a holder

	messageCount, requeueCount, timeoutCount uint64
}

// handout is a message on its way to a consumer, as it was when it was taken.
type handout struct {
	*message
	attempts uint16
}

func newChannel(name string, paused bool, alarms *alarms) *channel {
	return &channel{
		name:      name,
		alarms:    alarms,
		paused:    paused,
		consumers: make(map[*consumer]struct{}),
		inFlight:  make(map[nsq.MessageID]*delivery),
	}
}

func isEphemeral(name string) bool { return strings.HasSuffix(name, "#ephemeral") }

// held is the number of messages in the channel, wherever in it they are.
func (c *channel) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ready) + len(c.waiting)
}

// put adds messages. The caller has seen to it that there is room.
func (c *channel) put(msgs []*message) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range msgs {
		c.messageCount++
		d := &delivery{message: m}
		if m.notBefore.After(now) {
			c.wait(d, m.notBefore)
		} else {
			c.ready = append(c.ready, d)
		}
	}
	c.wakeConsumers()
}

// wait adds a delivery to those that wait for a time.
func (c *channel) wait(d *delivery, due time.Time) {
	if len(c.waiting) == 0 {
		c.alarms.set(c)
	}
	c.waiting.add(d, due)
}

// wakeConsumers tells those who could take something that there is something.
func (c *channel) wakeConsumers() {
	if len(c.ready) == 0 || c.paused {
		return
	}
	for s := range c.consumers {
		if s.inFlight < s.rdy {
			s.wakeUp()
		}
	}
}

// take gives the consumer at most n messages and counts them as in flight.
func (c *channel) take(s *consumer, n int) []handout {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused {
		return nil
	}
	n = min(n, s.rdy-s.inFlight, len(c.ready))
	if n <= 0 {
		return nil
	}
	taken := make([]handout, n)
	for i, d := range c.ready[:n] {
		d.attempt()
		d.holder = s
		d.delivered = now
		c.inFlight[d.id] = d
		c.wait(d, now.Add(s.client.msgTimeout))
		taken[i] = handout{d.message, d.attempts}
	}
	clear(c.ready[:n])
	c.ready = c.ready[n:]
	s.inFlight += n
	s.messageCount += uint64(n)
	if len(c.ready) > 0 && s.inFlight < s.rdy {
		s.wakeUp()
	}
	return taken
}

// land takes a delivery out of flight.
func (c *channel) land(d *delivery) {
	delete(c.inFlight, d.id)
	c.waiting.remove(d)
	c.release(d)
}

// release makes room for another message at a delivery's holder.
func (c *channel) release(d *delivery) {
	d.holder.inFlight--
	d.holder.wakeUp()
	d.holder = nil
}

// flight returns the delivery that a FIN, REQ or TOUCH is about.
func (c *channel) flight(s *consumer, id nsq.MessageID) (*delivery, error) {
	d := c.inFlight[id]
	if d == nil {
		return nil, errNotInFlight
	}
	if d.holder != s {
		return nil, errNotYours
	}
	return d, nil
}

func (c *channel) finish(s *consumer, id nsq.MessageID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.flight(s, id)
	if err != nil {
		return err
	}
	c.land(d)
	s.finishCount++
	return nil
}

func (c *channel) requeue(s *consumer, id nsq.MessageID, delay time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.flight(s, id)
	if err != nil {
		return err
	}
	c.land(d)
	s.requeueCount++
	c.requeueCount++
	if delay > 0 {
		c.wait(d, time.Now().Add(delay))
		return nil
	}
	c.ready = append(c.ready, d)
	c.wakeConsumers()
	return nil
}

// touch gives the consumer its message timeout again, up to maxMsgTimeout
// after the delivery.
func (c *channel) touch(s *consumer, id nsq.MessageID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.flight(s, id)
	if err != nil {
		return err
	}
	due := time.Now().Add(s.client.msgTimeout)
	if last := d.delivered.Add(maxMsgTimeout); due.After(last) {
		due = last
	}
	c.waiting.remove(d)
	c.wait(d, due)
	return nil
}

// requeueDue puts back into the queue what was in flight or deferred for long enough.
func (c *channel) requeueDue(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for d := c.waiting.popDue(now); d != nil; d = c.waiting.popDue(now) {
		if d.holder != nil {
			delete(c.inFlight, d.id)
			c.release(d)
			c.timeoutCount++
		}
		c.ready = append(c.ready, d)
	}
	if len(c.waiting) == 0 {
		c.alarms.unset(c)
	}
	c.wakeConsumers()
}

func (c *channel) setPaused(paused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
	c.wakeConsumers()
}

// empty drops all messages, those in flight too: their FIN will fail.
func (c *channel) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.inFlight {
		c.release(d)
	}
	clear(c.inFlight)
	c.ready, c.waiting = nil, nil
}

// close ends the connections of all consumers, because the channel is deleted.
func (c *channel) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.consumers {
		close(s.gone)
	}
	clear(c.consumers)
	c.alarms.unset(c)
}
