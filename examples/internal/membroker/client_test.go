package membroker

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

func TestConversation(t *testing.T) {
	b := start(t, Options{})
	producer, consumer := dial(t, b.TCPAddress()), dial(t, b.TCPAddress())

	consumer.send("IDENTIFY\n" + sized(`{"feature_negotiation":true,"msg_timeout":30000,"snappy":true,"deflate":true,"tls_v1":true,"sample_rate":50}`))
	_, agreed := consumer.frame()
	require.JSONEq(t, `{"max_rdy_count":2500,"version":"`+Version+`","max_msg_timeout":900000,"msg_timeout":30000,
		"tls_v1":false,"deflate":false,"deflate_level":0,"max_deflate_level":0,"snappy":false,"sample_rate":0,
		"auth_required":false,"output_buffer_size":4096,"output_buffer_timeout":0}`, agreed)
	consumer.subscribe("t", "c", 1)

	producer.publish("t", "first")
	m, id := consumer.expectMessage()
	require.Equal(t, "first", string(m.Body))
	require.EqualValues(t, 1, m.Attempts)
	require.InDelta(t, time.Now().UnixNano(), m.Timestamp, float64(time.Minute))

	consumer.send("REQ " + id + " 0\n")
	m, _ = consumer.expectMessage()
	require.EqualValues(t, 2, m.Attempts)
	consumer.send("TOUCH " + id + "\nNOP\nFIN " + id + "\n")

	producer.send("MPUB t\n" + batchOf("\x00\x00\x00\x02", "second", "third"))
	producer.expect("OK")
	producer.send("DPUB t 1\n" + sized("fourth"))
	producer.expect("OK")
	for _, want := range []string{"second", "third", "fourth"} {
		m, id := consumer.expectMessage()
		require.Equal(t, want, string(m.Body))
		consumer.send("FIN " + id + "\n")
	}
	consumer.send("CLS\n")
	consumer.expect("CLOSE_WAIT")
}

// What concerns one message leaves the connection open; all else ends it, and
// the client can read why although it had more to say.
func TestErrors(t *testing.T) {
	b := start(t, Options{MemQueueSize: 2})
	megabytes := strings.Repeat("x", 3<<20)
	for _, test := range []struct{ first, send, code string }{
		{"", "HELLO\n", "E_INVALID"},
		{"", strings.Repeat("x", 10<<10), "E_INVALID"},
		{"", "PUB t\n" + sized(megabytes), "E_BAD_MESSAGE"},
		{"", "PUB bad/topic\n" + sized(megabytes), "E_BAD_TOPIC"},
		{"", "MPUB t\n" + batchOf("\x00\x00\x00\x01", megabytes), "E_BAD_MESSAGE"},
		{"", "MPUB full\n" + batchOf("\x00\x00\x00\x03", "1", "2", "3"), "E_BAD_BODY"},
		{"PUB full\n" + sized("1"), "MPUB full\n" + batchOf("\x00\x00\x00\x02", "2", "3"), "E_MPUB_FAILED"},
		{"PUB full\n" + sized("2"), "PUB full\n" + sized("3"), "E_PUB_FAILED"},
		{"", "DPUB full 0\n" + sized("3"), "E_DPUB_FAILED"},
		{"", "IDENTIFY\n" + sized("nonsense"), "E_BAD_BODY"},
		{"", "RDY 1\n", "E_INVALID"},
		{"", "FIN " + anID + "\n", "E_INVALID"},
		{"", "CLS\n", "E_INVALID"},
		{"SUB s c\n", "SUB s c\n", "E_INVALID"},
		{"SUB s c\n", "IDENTIFY\n" + sized("{}"), "E_INVALID"},
		{"IDENTIFY\n" + sized(`{"heartbeat_interval":-1}`), "SUB s c\n", "E_INVALID"},
		{"SUB s c\n", "FIN " + anID + "\n", "E_FIN_FAILED"},
		{"SUB s c\n", "REQ " + anID + " 0\n", "E_REQ_FAILED"},
		{"SUB s c\n", "TOUCH " + anID + "\n", "E_TOUCH_FAILED"},
	} {
		c := dial(t, b.TCPAddress())
		if test.first != "" {
			c.send(test.first)
			c.expect("OK")
		}
		c.send(test.send)
		c.expectError(test.code + " ")
		switch test.code {
		case "E_FIN_FAILED", "E_REQ_FAILED", "E_TOUCH_FAILED":
			c.send("CLS\n")
			c.expect("CLOSE_WAIT")
		default:
			c.expectClosed()
		}
		c.conn.Close()
	}
	require.Equal(t, 2, b.stats("full", "", false).Topics[0].Depth, "what was accepted is there, nothing else is")
}

func TestRefusedClientMaySayMoreBeforeItReadsWhy(t *testing.T) {
	b := start(t, Options{})
	c := dial(t, b.TCPAddress())
	c.send("PUB t\n" + sized(strings.Repeat("x", maxMsgSize+1))[:100])
	_, err := c.r.Peek(1) // the answer is there
	require.NoError(t, err)
	for range 3 {
		c.send("what it had not sent yet")
	}
	c.expectError("E_BAD_MESSAGE ")
}

func TestOtherProtocolIsRefused(t *testing.T) {
	b := start(t, Options{})
	conn, err := net.Dial("tcp", b.TCPAddress())
	require.NoError(t, err)
	c := newRawClient(t, conn)
	c.send("GET / HTTP/1.1\r\n\r\n")
	c.expectError("E_BAD_PROTOCOL")
	c.expectClosed()
}

func TestDroppedConsumersMessagesAreRedeliveredAtOnce(t *testing.T) {
	b := start(t, Options{})
	dropped, other := dial(t, b.TCPAddress()), dial(t, b.TCPAddress())
	dropped.subscribe("t", "c", 5)
	other.publish("t", "message")
	dropped.expectMessage()
	other.subscribe("t", "c", 5)
	dropped.conn.Close()
	m, _ := other.expectMessage()
	require.EqualValues(t, 2, m.Attempts)
}

// pipe connects a client to a broker without listeners, in memory.
func pipe(t *testing.T, b *Broker) *rawClient {
	server, conn := net.Pipe()
	go b.serveClient(server)
	return newRawClient(t, conn)
}

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, unserved(t, Options{}))
		c.send("  V2IDENTIFY\n" + sized(`{"heartbeat_interval":2000}`))
		c.expect("OK")
		start := time.Now()
		for i := range 5 {
			c.expect("_heartbeat_")
			require.Equal(t, time.Duration(i+1)*2*time.Second, time.Since(start))
			c.send("NOP\n")
		}
		c.expect("_heartbeat_")
		c.expectClosed()
		require.Equal(t, 14*time.Second, time.Since(start), "two intervals after the last NOP")
	})
}

func TestClientThatTakesNothingIsDroppedAfterAHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, unserved(t, Options{}))
		c.send("  V2IDENTIFY\n" + sized(`{"heartbeat_interval":2000}`))
		c.expect("OK")
		start := time.Now()
		for time.Since(start) < time.Minute {
			time.Sleep(time.Second)
			if _, err := c.conn.Write([]byte("NOP\n")); err != nil {
				break
			}
		}
		require.LessOrEqual(t, time.Since(start), 5*time.Second, "the first heartbeat was sent after 2 s")
	})
}

func TestClientWithoutHeartbeatsMayBeSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := pipe(t, unserved(t, Options{}))
		c.send("  V2IDENTIFY\n" + sized(`{"heartbeat_interval":-1}`))
		c.expect("OK")
		time.Sleep(time.Hour)
		c.send("PUB t\n" + sized("late"))
		c.expect("OK")

		c.send("PUB t\n\x00\x00")
		start := time.Now()
		c.conn.SetReadDeadline(time.Time{})
		_, _, err := nsq.ReadUnpackedResponse(c.r)
		require.NoError(t, err)
		require.Equal(t, 2*defaultHeartbeat, time.Since(start), "but must finish what it began")
	})
}

func TestSilentClientIsDroppedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := unserved(t, Options{})
		for _, bytes := range []string{"", "  V"} {
			c := pipe(t, b)
			start := time.Now()
			if bytes != "" {
				c.send(bytes)
			}
			c.expectClosed()
			require.Equal(t, handshakeTimeout, time.Since(start))
		}
	})
}

// A thousand clients that say nothing cost a slot each, and those beyond the
// limit not even that; who speaks is served as soon as they are gone.
func TestSilentConnections(t *testing.T) {
	if !*long {
		t.Skip("waits for handshakeTimeout in real time: play it with -long")
	}
	t.Parallel()
	const limit = 1000
	b := start(t, Options{MaxConnections: limit})
	silent := make([]*rawClient, limit)
	for i := range silent {
		conn, err := net.Dial("tcp", b.TCPAddress())
		require.NoError(t, err)
		silent[i] = newRawClient(t, conn)
	}
	conn, err := net.Dial("tcp", b.TCPAddress())
	require.NoError(t, err)
	newRawClient(t, conn).expectClosed()

	began := time.Now()
	for _, c := range silent {
		c.expectClosed()
	}
	require.Less(t, time.Since(began), handshakeTimeout+5*time.Second)
	dial(t, b.TCPAddress()).publish("t", "hello")
}

func TestEndLetsConsumersFinish(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	busy, idle, producer := dial(t, b.TCPAddress()), dial(t, b.TCPAddress()), dial(t, b.TCPAddress())
	producer.publish("t", "1")
	producer.publish("t", "2")
	busy.subscribe("t", "c", 1)
	_, id := busy.expectMessage()
	idle.subscribe("other", "c", 1)
	b.waitRegistered(t)

	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	require.NoError(t, lookupd.Wait(t.Context(), func() bool { return len(lookupd.Producers("t", "")) == 0 }))
	require.Empty(t, stopped, "first the lookupds forget the broker")
	idle.expectClosed()
	producer.expectClosed()
	busy.send("FIN " + id + "\n")
	rest, err := io.ReadAll(busy.r)
	require.NoError(t, err)
	require.Empty(t, rest, "the next message is not handed out")
	require.NoError(t, <-stopped)
	require.Equal(t, 1, b.topics["t"].outstanding(), "the one in flight was finished")
}

func TestEndAcceptsNothing(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	busy, idle := dial(t, b.TCPAddress()), dial(t, b.TCPAddress())
	busy.publish("t", "1")
	busy.subscribe("t", "c", 1)
	busy.expectMessage()
	idle.subscribe("t", "c", 1)
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	idle.expectClosed()
	busy.send("PUB t\n" + sized("2"))
	busy.expectError("E_PUB_FAILED .*exiting")
	require.NoError(t, <-stopped)
}

func TestEndDoesNotWaitForever(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dial(t, b.TCPAddress())
	c.publish("t", "1")
	c.subscribe("t", "c", 1)
	c.expectMessage()
	began := time.Now()
	require.NoError(t, b.stop())
	require.Less(t, time.Since(began), 2*time.Second)
}

func TestMessagesThatEndWithTheBrokerAreLogged(t *testing.T) {
	var log strings.Builder
	b := unserved(t, Options{})
	b.opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	b.topics["t"] = newTopic("t", 10)
	b.reportLoss()
	require.Empty(t, log.String(), "there are none")
	require.NoError(t, b.topics["t"].publish(texts(2)))
	b.reportLoss()
	require.Contains(t, log.String(), "messages=2")
}

// halfClosed is a connection whose other end closed it in one direction and reads
// no more.
type halfClosed struct {
	script
	closed chan struct{}
	once   sync.Once
}

func (c *halfClosed) Write([]byte) (int, error) {
	<-c.closed
	return 0, net.ErrClosed
}

func (c *halfClosed) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func TestClientThatReadsNoMoreIsLeftOnceItCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := &halfClosed{script: script{strings.NewReader("  V2PUB t\n" + sized("a"))}, closed: make(chan struct{})}
		unserved(t, Options{}).serveClient(conn)
	})
}

func TestStatsOfAConsumer(t *testing.T) {
	b := start(t, Options{})
	c := dial(t, b.TCPAddress())
	c.send("IDENTIFY\n" + sized(`{"client_id":"me","hostname":"here","user_agent":"test/1"}`))
	c.expect("OK")
	c.publish("t", "1")
	c.subscribe("t", "c", 3)
	c.expectMessage()
	got := b.stats("", "", true).Topics[0].Channels[0].Clients
	want := clientStats{ClientID: "me", Hostname: "here", UserAgent: "test/1", Version: "V2", RemoteAddress: c.conn.LocalAddr().String(),
		State: stateSubscribed, ReadyCount: 3, InFlightCount: 1, MessageCount: 1, ConnectTime: got[0].ConnectTime}
	require.Equal(t, []clientStats{want}, got)
	_, err := json.Marshal(got)
	require.NoError(t, err)
	require.Equal(t, 3, got[0].State, "as nsqd and nsqadmin have it")

	c.send("CLS\n")
	c.expect("CLOSE_WAIT")
	require.Equal(t, 4, b.stats("", "", true).Topics[0].Channels[0].Clients[0].State)
}

// FuzzServeClient lets a client send anything. Whatever it was, the broker
// serves it to its end, leaves nothing behind that the Loop doesn't know.
func FuzzServeClient(f *testing.F) {
	for _, seed := range []string{
		"SUB t c\nRDY 1\nPUB t\n" + sized("a") + "CLS\n",
		"IDENTIFY\n" + sized(`{"heartbeat_interval":1000,"msg_timeout":1000}`) + "SUB t#ephemeral c#ephemeral\nPUB t\n" + sized("a") + "NOP\n",
		"MPUB t\n" + batchOf("\x00\x00\x00\x02", "a", "bc") + "DPUB t 5\n" + sized("d") + "REQ " + anID + " 0\n",
		"SUB t c\nFIN " + anID + "\nTOUCH " + anID + "\nRDY 0\nSUB t c\n",
	} {
		f.Add("  V2" + seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		b := unserved(t, Options{MemQueueSize: 3})
		conn := &script{Reader: strings.NewReader(input)}
		b.serveClient(conn)
		b.starts.Wait()
		require.Equal(t, b.names(), namesOf(b.loop.Metadata()))
		for _, topic := range b.stats("", "", true).Topics {
			require.LessOrEqual(t, b.topics[topic.TopicName].outstanding(), 3*max(1, len(topic.Channels)))
			for _, c := range topic.Channels {
				require.Empty(t, c.Clients)
				require.Zero(t, c.InFlightCount)
				require.False(t, isEphemeral(c.ChannelName), "an ephemeral channel goes with its last consumer")
			}
		}
	})
}

// script is a connection whose other end sends what is in the reader and then closes.
type script struct{ io.Reader }

func (*script) Write(p []byte) (int, error)      { return len(p), nil }
func (*script) Close() error                     { return nil }
func (*script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*script) SetDeadline(time.Time) error      { return nil }
func (*script) SetReadDeadline(time.Time) error  { return nil }
func (*script) SetWriteDeadline(time.Time) error { return nil }
