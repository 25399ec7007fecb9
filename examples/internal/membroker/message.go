package membroker

import (
	"container/heap"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/nsqio/go-nsq"
)

// message is what a producer published. All channels share it; nothing in it
// changes once it is made.
type message struct {
	id        nsq.MessageID
	timestamp time.Time
	notBefore time.Time // deferred until then; the timestamp if it is not
	body      []byte
}

// Message IDs count on from the start of the process, by the clock: those of
// a restarted broker differ from those that consumers still hold.
var (
	firstID = time.Now().UnixNano()
	newIDs  atomic.Int64 // given out since
)

func newMessage(body []byte, delay time.Duration) *message {
	now := time.Now()
	m := &message{timestamp: now, notBefore: now.Add(delay), body: body}
	copy(m.id[:], fmt.Appendf(nil, "%016x", firstID+newIDs.Add(1)))
	return m
}

// delivery is the way of one message through one channel. It belongs to the
// channel and is guarded by its lock.
type delivery struct {
	*message
	attempts uint16

	// Of a delivery in channel.waiting, in flight or deferred:
	holder    *consumer // who has it in flight; nil if it is deferred
	delivered time.Time // in flight since
	due       time.Time // goes back into the queue
	index     int       // in the heap
}

// attempt counts one more try. The protocol has 16 bits for it: it stays at the highest.
func (d *delivery) attempt() {
	if d.attempts < math.MaxUint16 {
		d.attempts++
	}
}

// dueHeap orders deliveries by the time at which they go back into the queue.
type dueHeap []*delivery

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push and Pop are for package heap; everyone else uses add, remove and popDue.
func (h *dueHeap) Push(x any) {
	d := x.(*delivery)
	d.index = len(*h)
	*h = append(*h, d)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	d := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return d
}

func (h *dueHeap) add(d *delivery, due time.Time) {
	d.due = due
	heap.Push(h, d)
}

func (h *dueHeap) remove(d *delivery) { heap.Remove(h, d.index) }

// popDue takes out a delivery that is due now, or returns nil.
func (h *dueHeap) popDue(now time.Time) *delivery {
	if len(*h) == 0 || (*h)[0].due.After(now) {
		return nil
	}
	return heap.Pop(h).(*delivery)
}
