package lookuploop_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// The suite plays a broker at a running nsqlookupd and looks at nothing but
// that one's HTTP API, as nsqadmin and consumers do. It runs against
// lookupdtest over real TCP, as it is and as nsqlookupd was before 1.2.0, and
// against a real nsqlookupd where the environment variable NSQLOOKUPD names the
// binary.

func TestConformance(t *testing.T) { testConformance(t, startLookupdtest) }

func TestConformanceKeepEphemeralTopics(t *testing.T) { testConformance(t, startOldLookupdtest) }

func TestConformanceNSQLookupd(t *testing.T) {
	binary := os.Getenv("NSQLOOKUPD")
	if binary == "" {
		t.Skip("NSQLOOKUPD names no nsqlookupd")
	}
	testConformance(t, func(t *testing.T) *lookupd { return startNSQLookupd(t, binary) })
}

func testConformance(t *testing.T, start func(*testing.T) *lookupd) {
	for name, scenario := range map[string]func(*testing.T, *lookupd){
		"registrations":       testRegistrations,
		"deletions":           testDeletions,
		"many topics":         testManyTopics,
		"restart":             testRestart,
		"lost connection":     testLostConnection,
		"topic channels":      testTopicChannels,
		"tombstone":           testTombstone,
		"heartbeat":           testHeartbeat,
		"topology":            testTopology,
		"removed address":     testRemovedAddress,
		"end of Run":          testEndOfRun,
		"two brokers":         testTwoBrokers,
		"resync after forget": testResync,
	} {
		t.Run(name, func(t *testing.T) { scenario(t, start(t)) })
	}
}

// broker runs a Loop that keeps l informed, to the end of the test at latest.
func (l *lookupd) broker(t *testing.T, edits ...func(*lookuploop.Options)) (loop *lookuploop.Loop, end func()) {
	t.Helper()
	opts := brokerOptions()
	opts.Hostname, opts.Version = "broker-host", "1.2.3"
	opts.LookupdTCPAddresses = []string{l.tcp}
	opts.ResponseTimeout = patience // the machine may be busy
	for _, edit := range edits {
		edit(&opts)
	}
	loop, stop := start(opts)
	end = sync.OnceFunc(func() { require.NoError(t, stop()) })
	t.Cleanup(end)
	return loop, end
}

// notify tells the Loop and waits until lookupd has acknowledged it.
func notify(t *testing.T, loop *lookuploop.Loop, events ...lookuploop.Event) {
	t.Helper()
	require.NoError(t, loop.Notify(events...))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, loop.WaitRegistered(ctx, 0))
}

var orders = []lookuploop.Event{
	lookuploop.TopicCreated("orders"), lookuploop.ChannelCreated("orders", "mail"), lookuploop.ChannelCreated("orders", "tail#ephemeral"),
	lookuploop.TopicCreated("live#ephemeral"), lookuploop.ChannelCreated("live#ephemeral", "view#ephemeral"),
	lookuploop.TopicCreated("empty"),
}

func testRegistrations(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t)
	notify(t, loop, orders...)
	require.Equal(t, []string{"empty", "live#ephemeral", "orders"}, l.topics(t))
	require.Equal(t, []string{"mail", "tail#ephemeral"}, l.channels(t, "orders"))
	require.Equal(t, []string{"view#ephemeral"}, l.channels(t, "live#ephemeral"))
	require.Empty(t, l.channels(t, "empty"))

	want := producer{BroadcastAddress: "broker.example.com", Hostname: "broker-host", TCPPort: 4150, HTTPPort: 4151, Version: "1.2.3"}
	for _, topic := range l.topics(t) {
		found := l.lookup(t, topic)
		require.Equal(t, []producer{want}, found.Producers, topic)
		require.Equal(t, l.channels(t, topic), sorted(found.Channels), topic)
	}
	nodes := l.nodes(t)
	require.Len(t, nodes, 1)
	require.Equal(t, l.topics(t), sorted(nodes[0].Topics))
	require.Equal(t, want, nodes[0].producer)
	require.Equal(t, l.version(t), loop.Status().Lookupds[0].Info.Version)
}

func testDeletions(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t)
	notify(t, loop, orders...)
	notify(t, loop, lookuploop.TopicDeleted("empty"), lookuploop.ChannelDeleted("orders", "mail"), lookuploop.TopicDeleted("live#ephemeral"))
	require.Equal(t, []string{"orders"}, l.announced(t))
	l.requireTopics(t, []string{"empty", "orders"}, "live#ephemeral")
	require.Equal(t, []string{"mail", "tail#ephemeral"}, l.channels(t, "orders"))

	for range 100 {
		require.NoError(t, loop.Notify(lookuploop.TopicDeleted("orders")))
		require.NoError(t, loop.Notify(orders[:3]...))
	}
	notify(t, loop, lookuploop.TopicCreated("empty"))
	require.Equal(t, []string{"empty", "orders"}, l.announced(t))
	require.Equal(t, []string{"mail", "tail#ephemeral"}, sorted(l.lookup(t, "orders").Channels))

	notify(t, loop, lookuploop.TopicDeleted("orders"))
	require.Equal(t, []string{"empty"}, l.announced(t))
	require.Equal(t, []string{"mail"}, l.channels(t, "orders"), "the ephemeral one is gone")
}

func testManyTopics(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t)
	var m lookuploop.Metadata
	for i := range 5000 {
		m.Topics = append(m.Topics, lookuploop.TopicMetadata{Name: fmt.Sprintf("topic-%04d", i), Channels: []lookuploop.ChannelMetadata{{Name: "mail"}}})
	}
	require.NoError(t, loop.SetMetadata(m))
	notify(t, loop)
	require.Len(t, l.announced(t), 5000)
	require.Equal(t, []string{"mail"}, l.channels(t, "topic-4999"))

	m.Topics = m.Topics[:10]
	require.NoError(t, loop.SetMetadata(m))
	notify(t, loop)
	require.Len(t, l.announced(t), 10)
	require.Len(t, l.topics(t), 5000)
	require.Zero(t, loop.Status().Lookupds[0].Failures)
}

func testRestart(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t)
	notify(t, loop, orders...)
	notify(t, loop, lookuploop.TopicDeleted("empty"))
	l.restart(t)
	eventually(t, func() bool { return len(l.announced(t)) == 2 })
	notify(t, loop)
	require.Equal(t, []string{"live#ephemeral", "orders"}, l.announced(t))
	require.Equal(t, []string{"live#ephemeral", "orders"}, l.topics(t), "what was deleted before stays unknown")
	require.Len(t, l.lookup(t, "orders").Producers, 1)
}

func testLostConnection(t *testing.T, l *lookupd) {
	conns := make(chan net.Conn, 10)
	loop, _ := l.broker(t, func(o *lookuploop.Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				conns <- conn
			}
			return conn, err
		}
	})
	notify(t, loop, orders...)
	for range 3 {
		connects := loop.Status().Lookupds[0].Connects
		require.NoError(t, (<-conns).Close())
		eventually(t, func() bool { return loop.Status().Lookupds[0].Connects > connects })
		notify(t, loop)
		eventually(t, func() bool { return len(l.lookup(t, "orders").Producers) == 1 }) // lookupd saw the end
		require.Equal(t, []string{"empty", "live#ephemeral", "orders"}, l.announced(t))
	}
}

func testTopicChannels(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t)
	other, _ := l.broker(t, func(o *lookuploop.Options) { o.BroadcastTCPPort = 4250 })
	notify(t, loop)
	notify(t, other, orders...)
	l.post(t, "/channel/create?topic=orders&channel=audit")
	found, err := loop.TopicChannels(t.Context(), "orders")
	require.NoError(t, err)
	require.Equal(t, []string{"audit", "mail"}, found, "without those that are ephemeral")
	found, err = loop.TopicChannels(t.Context(), "unknown")
	require.NoError(t, err)
	require.Empty(t, found)
}

func testTombstone(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t, func(o *lookuploop.Options) {
		o.HeartbeatInterval, o.ResyncInterval = 10*time.Millisecond, 10*time.Millisecond
	})
	notify(t, loop, orders...)
	l.post(t, "/topic/tombstone?topic=orders&node=broker.example.com:4151")
	require.Empty(t, l.lookup(t, "orders").Producers)
	commands := loop.Status().Lookupds[0].Commands
	eventually(t, func() bool { return loop.Status().Lookupds[0].Commands > commands+20 })
	notify(t, loop)
	require.Empty(t, l.lookup(t, "orders").Producers, "neither PING nor REGISTER bring it back")
	require.Len(t, l.lookup(t, "empty").Producers, 1)

	notify(t, loop, lookuploop.TopicDeleted("orders"))
	notify(t, loop, orders...)
	require.Len(t, l.lookup(t, "orders").Producers, 1, "UNREGISTER takes the tombstone along")
}

func testHeartbeat(t *testing.T, l *lookupd) {
	const interval = 10 * time.Millisecond
	loop, _ := l.broker(t, func(o *lookuploop.Options) { o.HeartbeatInterval = interval })
	notify(t, loop, orders...)
	for range 5 {
		before := l.lastUpdate(t)
		eventually(t, func() bool { return l.lastUpdate(t).Sub(before) >= interval/2 })
	}
	require.EqualValues(t, 1, loop.Status().Lookupds[0].Connects)
}

func testTopology(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t, func(o *lookuploop.Options) { o.TopologyZone, o.TopologyRegion = "zone-1", "region-2" })
	notify(t, loop, orders...)
	var answer struct{ Producers []map[string]any }
	l.get(t, "/lookup?topic=orders", &answer)
	require.Len(t, answer.Producers, 1)
	zone, isShown := answer.Producers[0]["topology_zone"]
	if !isShown && l.isProcess {
		t.Skip("this nsqlookupd is too old to show topology")
	}
	require.Equal(t, "zone-1", zone)
	require.Equal(t, "region-2", answer.Producers[0]["topology_region"])
}

func testRemovedAddress(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t)
	notify(t, loop, orders...)
	require.NoError(t, loop.SetLookupdTCPAddresses(nil))
	eventually(t, func() bool { return len(l.nodes(t)) == 0 })
	requireOnlyNamesLeft(t, l)

	require.NoError(t, loop.SetLookupdTCPAddresses([]string{l.tcp}))
	notify(t, loop)
	require.Equal(t, []string{"empty", "live#ephemeral", "orders"}, l.announced(t))
}

func testEndOfRun(t *testing.T, l *lookupd) {
	loop, end := l.broker(t)
	notify(t, loop, orders...)
	end()
	eventually(t, func() bool { return len(l.nodes(t)) == 0 })
	requireOnlyNamesLeft(t, l)
}

// requireOnlyNamesLeft wants no producer, and no ephemeral name.
func requireOnlyNamesLeft(t *testing.T, l *lookupd) {
	t.Helper()
	l.requireTopics(t, []string{"empty", "orders"}, "live#ephemeral")
	require.Equal(t, []string{"mail"}, l.channels(t, "orders"))
	require.Empty(t, l.channels(t, "live#ephemeral"))
	require.Empty(t, l.lookup(t, "orders").Producers)
}

func testTwoBrokers(t *testing.T, l *lookupd) {
	first, endFirst := l.broker(t)
	second, _ := l.broker(t, func(o *lookuploop.Options) { o.BroadcastTCPPort, o.BroadcastHTTPPort = 4250, 4251 })
	notify(t, first, orders...)
	notify(t, second, orders[:3]...)
	ports := func(topic string) (ports []int) {
		for _, p := range l.lookup(t, topic).Producers {
			ports = append(ports, p.TCPPort)
		}
		slices.Sort(ports)
		return ports
	}
	require.Equal(t, []int{4150, 4250}, ports("orders"))
	require.Equal(t, []int{4150}, ports("empty"))
	notify(t, first, lookuploop.TopicDeleted("orders"))
	require.Equal(t, []int{4250}, ports("orders"))
	require.Equal(t, []string{"mail", "tail#ephemeral"}, l.channels(t, "orders"), "the other has it still")
	notify(t, first, orders...)

	endFirst()
	eventually(t, func() bool { return len(l.nodes(t)) == 1 })
	require.Equal(t, []int{4250}, ports("orders"))
	require.Empty(t, ports("empty"))
	require.Equal(t, []string{"mail", "tail#ephemeral"}, l.channels(t, "orders"))
}

func testResync(t *testing.T, l *lookupd) {
	loop, _ := l.broker(t, func(o *lookuploop.Options) { o.ResyncInterval = 20 * time.Millisecond })
	notify(t, loop, orders...)
	l.post(t, "/channel/delete?topic=orders&channel=mail")
	eventually(t, func() bool { return slices.Contains(l.channels(t, "orders"), "mail") })
	l.post(t, "/topic/delete?topic=orders")
	eventually(t, func() bool { return slices.Contains(l.announced(t), "orders") })
	eventually(t, func() bool { return len(l.channels(t, "orders")) == 2 })
}
