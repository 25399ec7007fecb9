package wire

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// lastLook is how long the socket is read from once more when the reader notices
// late that the time for an answer is over. The answer may have come in time: a
// process that was stopped, or had no turn, didn't read it.
const lastLook = 50 * time.Millisecond

// socket is the connection that was dialed, with the deadline for reading.
type socket struct {
	net.Conn

	mu     sync.Mutex // guards the connection's read deadline too
	due    time.Time  // when what is expected must have come; zero: nothing is
	looked bool       // once more, since due was set
}

// expect sets when an answer must have come; zero: none is due.
func (s *socket) expect(due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due, s.looked = due, false
	s.SetReadDeadline(due)
}

// Read reads what has come. The reader alone calls it.
func (s *socket) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return n, err
		case n > 0:
			return n, nil
		case !s.lookAgain():
			return 0, err
		}
	}
}

// lookAgain tells whether Read is to try again after its time was over, which it
// is once for each time that was set: because it is later than that by now, or
// because another was set meanwhile.
func (s *socket) lookAgain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked {
		return false
	}
	s.looked = true
	if now := time.Now(); !s.due.IsZero() && now.After(s.due) {
		s.SetReadDeadline(now.Add(lastLook))
	}
	return true
}
