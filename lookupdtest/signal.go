package lookupdtest

import (
	"time"

	"go.uber.org/atomic"
)

// signal wakes those who wait for a change. When nobody waits it costs one load.
// The zero value is ready.
type signal struct {
	waiting atomic.Pointer[chan struct{}] // nil: nobody asked for next since the last fire
}

// next returns a channel that the next fire closes. Call it before looking at
// what is waited for, or under the lock that its changes are made under.
func (s *signal) next() <-chan struct{} {
	for {
		if ch := s.waiting.Load(); ch != nil {
			return *ch
		}
		ch := make(chan struct{})
		if s.waiting.CompareAndSwap(nil, &ch) {
			return ch
		}
	}
}

// fire is called after a change. It never waits, so any lock may be held.
func (s *signal) fire() {
	if s.waiting.Load() == nil {
		return
	}
	if ch := s.waiting.Swap(nil); ch != nil {
		close(*ch)
	}
}

// waitUntil waits for the channel or the time; a zero time is never.
func waitUntil(changed <-chan struct{}, at time.Time) {
	if at.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}
