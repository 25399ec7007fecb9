package wire

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scriptedConn gives out what was prepared, one string for each Read, and after
// it, if it is empty or ends with an exclamation mark, that its time is over.
type scriptedConn struct {
	net.Conn // nil: nothing else is called
	script   []string
}

func (c *scriptedConn) SetReadDeadline(time.Time) error { return nil }

func (c *scriptedConn) Read(p []byte) (n int, err error) {
	said, isOver := strings.CutSuffix(c.script[0], "!")
	c.script = c.script[1:]
	if isOver || said == "" {
		err = os.ErrDeadlineExceeded
	}
	return copy(p, said), err
}

func TestSocketLooksOnceForEachDeadline(t *testing.T) {
	s := socket{Conn: &scriptedConn{script: []string{"", "a", "", "", "b", "", "", "c!", ""}}}
	p := make([]byte, 1)
	for _, want := range []string{"a", "b", "c"} {
		s.expect(time.Now())
		n, err := s.Read(p)
		require.NoError(t, err)
		require.Equal(t, want, string(p[:n]))
		_, err = s.Read(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	}
}
