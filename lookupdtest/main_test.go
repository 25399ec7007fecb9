package lookupdtest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what is to happen; only a red test does.
const patience = 20 * time.Second

// bubble runs a test in virtual time, on a Network of its own. Under the race detector
// everything runs on one thread: two that look at due timers of one bubble at the same
// time can crash the detector itself (https://github.com/golang/go/issues/78156).
func bubble(t *testing.T, f func(t *testing.T, n *Network)) {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, func(t *testing.T) { f(t, NewNetwork()) })
}

// withClient runs a test in virtual time, with a server and a client that has
// identified itself.
func withClient(t *testing.T, f func(t *testing.T, s *Server, c *client)) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		f(t, s, c)
	})
}

// client is a connection to a lookupd, for tests that look at single bytes.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func dial(t *testing.T, s *Server) *client {
	t.Helper()
	dial := (&net.Dialer{}).DialContext
	if s.network != nil {
		dial = s.network.Dial
	}
	return dialWith(t, dial, s.TCPAddress)
}

func dialWith(t *testing.T, dial func(context.Context, string, string) (net.Conn, error), address string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := dial(ctx, "tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	return newClient(t, conn)
}

func newClient(t *testing.T, conn net.Conn) *client {
	return &client{Conn: conn, t: t, r: bufio.NewReader(conn)}
}

// send writes a string.
func (c *client) send(s string) {
	c.t.Helper()
	_, err := io.WriteString(c, s)
	require.NoError(c.t, err)
}

// response reads a response and returns its body.
func (c *client) response() (string, error) {
	var size [4]byte
	if _, err := io.ReadFull(c.r, size[:]); err != nil {
		return "", err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxBody {
		return "", fmt.Errorf("a length of %d", int32(n))
	}
	body := make([]byte, n)
	_, err := io.ReadFull(c.r, body)
	return string(body), err
}

// expect reads responses and compares their bodies.
func (c *client) expect(bodies ...string) {
	c.t.Helper()
	for _, want := range bodies {
		body, err := c.response()
		require.NoError(c.t, err)
		require.Equal(c.t, want, body)
	}
}

// expectEnd reads the end of the connection, orderly or not.
func (c *client) expectEnd() {
	c.t.Helper()
	rest, err := io.ReadAll(c.r)
	require.Empty(c.t, string(rest))
	if err != nil { // a reset is an end too, running out of time is not
		require.NotErrorIs(c.t, err, context.DeadlineExceeded)
		timeout, ok := err.(net.Error)
		require.False(c.t, ok && timeout.Timeout(), "the connection is still open")
	}
}

// identify sends magic and IDENTIFY and reads the answer.
func (c *client) identify() {
	c.t.Helper()
	c.send(magicIdentify("broker.test", 4150))
	body, err := c.response()
	require.NoError(c.t, err)
	require.Contains(c.t, body, `"tcp_port":`)
}

// magicIdentify is what a client sends first.
func magicIdentify(broadcast string, tcpPort int) string {
	body := fmt.Sprintf(`{"broadcast_address":%q,"hostname":"broker-host","http_port":4151,"tcp_port":%d,"version":"1.3.0"}`,
		broadcast, tcpPort)
	return "  V1IDENTIFY\n" + string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

// do runs f for the command and expects the same of the answer.
func (c *client) do(command, answer string) {
	c.t.Helper()
	c.send(command + "\n")
	c.expect(answer)
}

// eventually waits for a condition on the server.
func eventually(t *testing.T, s *Server, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, s.Wait(ctx, cond))
}

// httpClient returns a client that keeps no connection.
func httpClient(s *Server) *http.Client {
	if s.network != nil {
		return s.network.Client()
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
}

// ask asks the HTTP API and returns status and body.
func ask(t *testing.T, s *Server, method, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.HTTPAddress+path, nil)
	require.NoError(t, err)
	resp, err := httpClient(s).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

func decodeJSON[T any](t *testing.T, r io.Reader) T {
	t.Helper()
	var v T
	require.NoError(t, json.NewDecoder(r).Decode(&v))
	return v
}

// longDial connects without a deadline.
func longDial(t *testing.T, s *Server) *client {
	c := dial(t, s)
	require.NoError(t, c.SetDeadline(time.Time{}))
	return c
}

// mute expects that nothing is read for so long.
func (c *client) mute(d time.Duration) {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(d)))
	_, err := c.r.ReadByte()
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
	require.NoError(c.t, c.SetReadDeadline(time.Time{}))
}
