package membroker

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop"
	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// long is as in the tests of lookuploop.
var long = flag.Bool("long", false, "play in full what tests otherwise do a part of")

func TestMain(m *testing.M) {
	if lookupds := os.Getenv("MEMBROKER_TEST_LOOKUPDS"); lookupds != "" {
		consumeUntilKilled(lookupds)
	}
	if err := flag.Set("test.parallel", "8"); err != nil { // what is parallel here waits more than it works
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait for something that must happen.
const patience = 20 * time.Second

// running is a broker that runs until the test ends or stop is called.
type running struct {
	*Broker
	stop func() error
}

func start(t testing.TB, opts Options) running {
	t.Helper()
	if opts.TCPAddress == "" {
		opts.TCPAddress = "127.0.0.1:0"
	}
	opts.HTTPAddress = "127.0.0.1:0"
	opts.Logger = slog.New(slog.DiscardHandler)
	b, err := New(opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			return fmt.Errorf("the broker did not end within %v", patience)
		}
	})
	t.Cleanup(func() { require.NoError(t, stop()) })
	_, pong := b.do(t, "GET", "/ping", "") // answered when the broker is served
	require.Equal(t, "OK", pong)
	return running{b, stop}
}

// unserved is a broker without listeners, for tests in virtual time.
func unserved(t testing.TB, opts Options) *Broker {
	t.Helper()
	opts.BroadcastAddress = "broker"
	opts.Logger = slog.New(slog.DiscardHandler)
	opts, err := opts.withDefaults()
	require.NoError(t, err)
	b := newBroker(opts)
	b.loop, err = lookuploop.New(lookuploop.Options{
		BroadcastAddress: "broker", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151, Logger: opts.Logger,
	})
	require.NoError(t, err)
	t.Cleanup(func() { b.stopLookups(); b.starts.Wait(); b.cutClients() })
	return b
}

// texts returns n messages "0", "1", …
func texts(n int) []*message {
	msgs := make([]*message, n)
	for i := range msgs {
		msgs[i] = newMessage(fmt.Appendf(nil, "%d", i), 0)
	}
	return msgs
}

// rawClient speaks the protocol by hand.
type rawClient struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
}

func dial(t testing.TB, address string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	c := newRawClient(t, conn)
	c.send("  V2")
	return c
}

func newRawClient(t testing.TB, conn net.Conn) *rawClient {
	t.Cleanup(func() { conn.Close() })
	return &rawClient{t, conn, bufio.NewReader(conn)}
}

func (c *rawClient) send(text string) {
	c.t.Helper()
	c.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := io.WriteString(c.conn, text)
	require.NoError(c.t, err)
}

// sized is a string with its length in front.
func sized(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

// frame reads one frame.
func (c *rawClient) frame() (frameType int32, data string) {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	frameType, body, err := nsq.ReadUnpackedResponse(c.r)
	require.NoError(c.t, err)
	return frameType, string(body)
}

func (c *rawClient) expect(response string) {
	c.t.Helper()
	frameType, data := c.frame()
	require.Equal(c.t, response, data)
	require.Equal(c.t, nsq.FrameTypeResponse, frameType)
}

func (c *rawClient) expectError(prefix string) {
	c.t.Helper()
	frameType, data := c.frame()
	require.Equal(c.t, nsq.FrameTypeError, frameType, data)
	require.Regexp(c.t, "^"+prefix, data)
}

// expectMessage returns the next message and its ID as text.
func (c *rawClient) expectMessage() (m *nsq.Message, id string) {
	c.t.Helper()
	frameType, data := c.frame()
	require.Equal(c.t, nsq.FrameTypeMessage, frameType, data)
	m, err := nsq.DecodeMessage([]byte(data))
	require.NoError(c.t, err)
	return m, string(m.ID[:])
}

// expectClosed reads until the other side ends the connection.
func (c *rawClient) expectClosed() {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, c.r)
	require.NotErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

// subscribe subscribes and asks for messages.
func (c *rawClient) subscribe(topic, channel string, rdy int) {
	c.t.Helper()
	c.send("SUB " + topic + " " + channel + "\n")
	c.expect("OK")
	c.send(fmt.Sprintf("RDY %d\n", rdy))
}

func (c *rawClient) publish(topic, body string) {
	c.t.Helper()
	c.send("PUB " + topic + "\n" + sized(body))
	c.expect("OK")
}
