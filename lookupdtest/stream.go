package lookupdtest

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// stream is one direction of a connection on a Network: what one end writes and the
// other reads. Whoever waits does so on changed, or for a time, never under mu.
type stream struct {
	network *Network
	back    *stream // the other direction
	changed signal  // fired under mu

	mu       sync.Mutex // guards what follows
	segments []segment  // under way or unread, oldest first
	size     int        // their bytes
	busy     time.Time  // until when the bandwidth is taken

	stalledAt time.Time // what would arrive after it doesn't, while there is a partition; zero: none

	reader, writer end
}

// segment is data, or with none the orderly end of the stream.
type segment struct {
	data []byte
	at   time.Time // when it arrives
}

// end is the reading or the writing end of a stream.
type end struct {
	closed   bool
	deadline time.Time
	resetAt  time.Time // when a reset arrives here; zero: none
}

// segmentSize is what a limited bandwidth carries at a time.
const segmentSize = 1460

// check says what keeps an end from doing anything now.
func (s *stream) check(e *end, now time.Time) error {
	switch {
	case e.closed:
		return net.ErrClosed
	case !e.deadline.IsZero() && !e.deadline.After(now):
		return os.ErrDeadlineExceeded
	case s.arrived(e.resetAt, now):
		return syscall.ECONNRESET
	}
	return nil
}

// arrived says whether what was to arrive at a time, if at any, has done so.
func (s *stream) arrived(at, now time.Time) bool {
	return !at.IsZero() && !at.After(now) && (s.stalledAt.IsZero() || !at.After(s.stalledAt))
}

// wait waits, after unlocking, for a change, the end's deadline, or the arrival of
// what is under way.
func (s *stream) wait(e *end, now time.Time, arrivals ...time.Time) {
	wake := e.deadline
	if s.stalledAt.IsZero() {
		for _, at := range append(arrivals, e.resetAt) {
			if at.After(now) && (wake.IsZero() || at.Before(wake)) {
				wake = at
			}
		}
	}
	changed := s.changed.next()
	s.mu.Unlock()
	waitUntil(changed, wake)
}

func (s *stream) read(p []byte) (int, error) {
	for {
		s.mu.Lock()
		now := time.Now()
		if err := s.check(&s.reader, now); err != nil {
			s.mu.Unlock()
			return 0, err
		}
		if n, err := s.take(p, now); n > 0 || err != nil || len(p) == 0 {
			s.mu.Unlock()
			return n, err
		}
		var next time.Time
		if len(s.segments) > 0 {
			next = s.segments[0].at
		}
		s.wait(&s.reader, now, next)
	}
}

// take reads what has arrived.
func (s *stream) take(p []byte, now time.Time) (n int, err error) {
	for n < len(p) && len(s.segments) > 0 && s.arrived(s.segments[0].at, now) {
		first := &s.segments[0]
		if len(first.data) == 0 {
			if n == 0 {
				err = io.EOF
			}
			break
		}
		copied := copy(p[n:], first.data)
		n += copied
		first.data = first.data[copied:]
		if len(first.data) == 0 {
			s.segments = s.segments[1:]
		}
	}
	if n > 0 {
		s.size -= n
		s.changed.fire()
	}
	return n, err
}

func (s *stream) write(p []byte) (n int, err error) {
	for {
		s.mu.Lock()
		now := time.Now()
		if err := s.check(&s.writer, now); err != nil {
			s.mu.Unlock()
			return n, err
		}
		if s.reader.closed { // what is sent is answered with a reset
			resetAt := s.arrival(len(p)-n, now).Add(s.network.latency.Load())
			s.writer.reset(resetAt)
			s.mu.Unlock()
			s.back.resetEnds(resetAt, &s.back.reader)
			return len(p), nil
		}
		n += s.put(p[n:], now)
		if n == len(p) {
			s.mu.Unlock()
			return n, nil
		}
		s.wait(&s.writer, now)
	}
}

// put sends as much as there is room for.
func (s *stream) put(p []byte, now time.Time) (n int) {
	limit, bandwidth := int(s.network.buffer.Load()), s.network.bandwidth.Load()
	for n < len(p) && s.size < limit {
		data := p[n:min(len(p), n+limit-s.size)]
		if bandwidth > 0 {
			data = data[:min(len(data), segmentSize)]
		}
		n += len(data)
		s.segments = append(s.segments, segment{data: bytes.Clone(data), at: s.arrival(len(data), now)})
		s.size += len(data)
	}
	if n > 0 {
		s.changed.fire()
	}
	return n
}

// arrival returns when n bytes arrive that are sent now. (They are read behind those
// that were sent before, even if these take longer.)
func (s *stream) arrival(n int, now time.Time) time.Time {
	if s.busy.Before(now) {
		s.busy = now
	}
	if bandwidth := s.network.bandwidth.Load(); bandwidth > 0 {
		s.busy = s.busy.Add(time.Duration(int64(n) * int64(time.Second) / bandwidth))
	}
	return s.kept(s.busy.Add(s.network.latency.Load()))
}

// kept puts what is sent at the very instant at which a partition began behind it.
func (s *stream) kept(at time.Time) time.Time {
	if at.Equal(s.stalledAt) {
		return at.Add(1)
	}
	return at
}

// closeWriter ends the stream: in good order, when what is under way arrives before,
// or not.
func (s *stream) closeWriter(orderly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writer.closed = true
	if orderly {
		s.segments = append(s.segments, segment{at: s.arrival(0, time.Now())})
	}
	s.changed.fire()
}

// closeReader says whether there was something unread or under way.
func (s *stream) closeReader() (unread bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reader.closed = true
	unread = s.size > 0
	s.segments, s.size = nil, 0
	s.changed.fire()
	return unread
}

// reset makes a reset arrive at an end, if none does so earlier.
func (e *end) reset(at time.Time) {
	if e.resetAt.IsZero() || at.Before(e.resetAt) {
		e.resetAt = at
	}
}

// resetEnds makes a reset arrive at the given ends.
func (s *stream) resetEnds(at time.Time, ends ...*end) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range ends {
		e.reset(s.kept(at))
	}
	s.changed.fire()
}

func (s *stream) setDeadline(e *end, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.deadline = t
	s.changed.fire()
}

// setStalled starts or ends a partition: what was kept by it arrives after its end.
func (s *stream) setStalled(stalled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stalled == !s.stalledAt.IsZero() {
		return
	}
	now := time.Now()
	if stalled {
		s.stalledAt = now
		return
	}
	earliest := now.Add(s.network.latency.Load())
	late := func(at *time.Time) {
		if at.After(s.stalledAt) && at.Before(earliest) {
			*at = earliest
		}
	}
	for i := range s.segments {
		late(&s.segments[i].at)
	}
	late(&s.reader.resetAt)
	late(&s.writer.resetAt)
	s.stalledAt = time.Time{}
	s.changed.fire()
}
