package main_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// BenchmarkMemory measures the bytes that a registration takes (a topic with
// one channel are two) before anybody is connected and after 10 lookupds were
// told; x-map is how many times as many as in a brokerMap. B/lookupd are those
// that a connected lookupd takes that has nothing to do, stacks included.
func BenchmarkMemory(b *testing.B) {
	lookupd := startHelper(b, "lookupdtest")
	defer lookupd.end()
	toLookupd := func(o *lookuploop.Options) { // wherever they are said to be
		o.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, lookupd.address)
		}
	}
	const registrations, few, many = 100_000, 10, 200
	var alone, inMap, told, perLookupd float64
	for b.Loop() {
		m := someMetadata(registrations / 2)
		before := liveMemory()
		names := newBrokerMap(m)
		inMap = float64(liveMemory()-before) / registrations
		runtime.KeepAlive(names)

		before = liveMemory()
		loop := newLoop(b, toLookupd)
		require.NoError(b, loop.SetMetadata(m))
		alone = float64(liveMemory()-before) / registrations

		end := run(b, loop)
		require.NoError(b, loop.SetLookupdTCPAddresses(manyAddresses(few)))
		registered(b, loop, few)
		told = float64(liveMemory()-before) / registrations
		end()
		runtime.KeepAlive(m)

		idle := newLoop(b, toLookupd)
		end = run(b, idle)
		before = liveMemory()
		require.NoError(b, idle.SetLookupdTCPAddresses(manyAddresses(many)))
		require.NoError(b, idle.Notify(lookuploop.TopicCreated("orders")))
		registered(b, idle, many)
		perLookupd = float64(liveMemory()-before) / many
		end()
	}
	b.ReportMetric(alone, "B/registration")
	b.ReportMetric(alone/inMap, "x-map")
	b.ReportMetric(told, "B/registration-10-lookupds")
	b.ReportMetric(perLookupd, "B/lookupd")
}

func manyAddresses(n int) (addresses []string) {
	for i := range n {
		addresses = append(addresses, fmt.Sprintf("lookupd-%d.test:4160", i))
	}
	return addresses
}

// liveMemory is what live objects and stacks take.
func liveMemory() int {
	runtime.GC()
	runtime.GC() // what the first moved out of pools
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc + stats.StackInuse)
}
