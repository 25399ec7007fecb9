package wire

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"go.uber.org/atomic"
)

// lastLook is how long the socket is read from once more when the reader notices
// late that the time for an answer is over. The answer may have come in time: a
// process that was stopped, or had no turn, didn't read it.
const lastLook = 50 * time.Millisecond

// socket is the connection that was dialed, with the deadline for reading.
type socket struct {
	net.Conn
	closed atomic.Bool
	fault  atomic.Pointer[error] // why Write closed it; nil: it didn't

	mu     sync.Mutex // guards the connection's read deadline too
	due    time.Time  // when what is expected must have come; zero: nothing is
	looked bool       // once more, since due was set
}

// Close closes, once, what was dialed. It is left to others what that does, but
// for a tls.Conn, which would first try to say goodbye for up to 5 s.
func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	if secure, ok := s.Conn.(*tls.Conn); ok {
		return secure.NetConn().Close()
	}
	return s.Conn.Close()
}

// Write writes all of p. The rule of io.Writer, that a write of less has an error,
// may be broken by what was dialed; then nothing may follow, as lookupd would take
// it for the end of the command that was cut.
func (s *socket) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	if err == nil && n < len(p) {
		fault := fmt.Errorf("Options.Dial returned a connection that wrote %d of %d bytes: %w", n, len(p), io.ErrShortWrite)
		s.fault.Store(&fault)
		s.Close()
		return n, fault
	}
	return n, err
}

// expect sets when an answer must have come; zero: none is due.
func (s *socket) expect(due time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due, s.looked = due, false
	return deadlineError(s.SetReadDeadline(due))
}

// limit sets when reads and writes must have ended; zero: there is no limit.
func (s *socket) limit(t time.Time) error {
	if err := deadlineError(s.SetWriteDeadline(t)); err != nil {
		return err
	}
	return s.expect(t)
}

// deadlineError explains why a deadline wasn't set. What closed the connection
// is told better by who reads and writes.
func deadlineError(err error) error {
	if err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return fmt.Errorf("Options.Dial returned a connection that can't do deadlines: %w", err)
}

// Read reads what has come. The reader alone calls it.
func (s *socket) Read(p []byte) (int, error) {
	for {
		n, err := s.Conn.Read(p)
		fault := s.fault.Load()
		switch {
		case err != nil && fault != nil:
			return n, *fault
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
		return s.SetReadDeadline(now.Add(lastLook)) == nil
	}
	return true
}
