package wire

import (
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inBubble is synctest.Test. Under the race detector everything runs on one
// thread: two that look at due timers of one bubble at the same time can crash
// the detector itself (https://github.com/golang/go/issues/78156).
func inBubble(t *testing.T, f func(*testing.T)) {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, f)
}

// talk is a connection to a lookupd on a Network, and what came of it. The tag of
// a command is its number in what was said at once, from 1.
type talk struct {
	*Conn[int]
	network *lookupdtest.Network
	lookupd *lookupdtest.Server
	n, last int // valid once Done is closed, as are the following
	pings   []time.Duration
}

func newTalk(t *testing.T) *talk {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	t.Cleanup(lookupd.Close)
	conn, err := network.Dial(t.Context(), "tcp", lookupd.TCPAddress)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &talk{
		Conn:    NewConn[int](lookupd.TCPAddress, conn, time.Second, 1024),
		network: network,
		lookupd: lookupd,
	}
}

// identity is what nsqlookupd wants to know of a broker.
var identity = map[string]any{
	"broadcast_address": "broker.test", "hostname": "broker-host", "version": "1.3.0",
	"tcp_port": 4150, "http_port": 4151,
}

// identified identifies and begins to read.
func (k *talk) identified(t *testing.T) *talk {
	_, err := k.Identify(identity)
	require.NoError(t, err)
	k.read(t)
	return k
}

// read reads answers until the test ends.
func (k *talk) read(t *testing.T) {
	go k.ReadAnswers(func(a Answers[int]) {
		if a.N > 0 {
			k.n += a.N
			k.last = a.Last
		}
		if a.Ping {
			k.pings = append(k.pings, a.RTT)
		}
	})
	t.Cleanup(func() {
		k.Close()
		<-k.Done()
	})
}

// say sends commands, given as "PING", "REGISTER topic" or "REGISTER topic channel".
func (k *talk) say(t *testing.T, lines ...string) {
	t.Helper()
	require.NoError(t, k.Send(batchOf(lines...)))
}

func batchOf(lines ...string) *Batch[int] {
	var b Batch[int]
	for i, line := range lines {
		verb, names, _ := strings.Cut(line, " ")
		topic, channel, _ := strings.Cut(names, " ")
		if verb == Ping {
			b.Ping()
		} else {
			b.Add(verb, topic, channel, i+1)
		}
	}
	return &b
}
