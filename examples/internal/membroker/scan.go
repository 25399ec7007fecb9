package membroker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// scan returns timed out and deferred messages to their queues until ctx ends.
func (b *Broker) scan(ctx context.Context) {
	ticker := time.NewTicker(scanInterval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			b.alarms.requeueDue(now)
		case <-ctx.Done():
			return
		}
	}
}

// alarms are the channels in which messages wait for a time: the others cost
// nothing, however many they are. Its lock is the last that is taken.
type alarms struct {
	mu       sync.Mutex
	channels map[*channel]struct{}
}

func newAlarms() *alarms { return &alarms{channels: make(map[*channel]struct{})} }

// set is called with channel.mu held, like unset.
func (a *alarms) set(c *channel) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.channels[c] = struct{}{}
}

func (a *alarms) unset(c *channel) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.channels, c)
}

func (a *alarms) waiting() []*channel {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.channels))
}

func (a *alarms) requeueDue(now time.Time) {
	for _, c := range a.waiting() {
		c.requeueDue(now)
	}
}
