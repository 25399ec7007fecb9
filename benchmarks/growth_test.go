package main_test

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// These tests count work at n, 2n and 4n, and fail if it grows faster than promised:
// bytes that are allocated, commands, requests, look-ups. None measures time, so a
// busy machine changes nothing.

// growth is how work may grow with n.
type growth int

const (
	constant growth = iota
	linear
)

// requireGrowth measures work at n, 2n and 4n. What a linear n costs on top of a
// fixed part doubles from the first step to the second. Squares make it fourfold.
func requireGrowth(t *testing.T, promised growth, n int, work func(t *testing.T, n int) int) {
	t.Helper()
	one, two, four := work(t, n), work(t, 2*n), work(t, 4*n)
	t.Logf("n = %d: %d, %d, %d", n, one, two, four)
	if promised == constant {
		require.LessOrEqual(t, four, one+max(one/4, 1), "work is constant in n: %d, %d, %d", one, two, four)
		return
	}
	first, second := two-one, four-two
	require.Greater(t, first, 0, "something is measured")
	require.LessOrEqual(t, 4*second, 10*first, "work is linear in n: %d, %d, %d", one, two, four)
}

// inBytes and inObjects are what is counted of allocations.
func inBytes(m *runtime.MemStats) uint64   { return m.TotalAlloc }
func inObjects(m *runtime.MemStats) uint64 { return m.Mallocs }

// allocated returns what f allocates, the lowest of some tries: others may be at
// work. prepare comes before each.
func allocated(of func(*runtime.MemStats) uint64, prepare func() (f func())) int {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	least := math.MaxInt
	for range 3 {
		f := prepare()
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		least = min(least, int(of(&after)-of(&before)))
	}
	return least
}

// topicsOf is a Metadata of n topics of so many channels.
func topicsOf(n, channels int) (m lookuploop.Metadata) {
	m.Topics = make([]lookuploop.TopicMetadata, n)
	for i := range m.Topics {
		m.Topics[i].Name = fmt.Sprintf("topic-%08d", i)
		for j := range channels {
			m.Topics[i].Channels = append(m.Topics[i].Channels, lookuploop.ChannelMetadata{Name: fmt.Sprintf("channel-%08d", j)})
		}
	}
	return m
}

// eventsOf makes n topics, or channels of topic-00000000.
func eventsOf(n int, of func(name string) lookuploop.Event) []lookuploop.Event {
	events := make([]lookuploop.Event, n)
	for i := range events {
		events[i] = of(fmt.Sprintf("new-%08d", i))
	}
	return events
}

func channelOfFirst(name string) lookuploop.Event {
	return lookuploop.ChannelCreated("topic-00000000", name)
}

// addressesOf are n addresses.
func addressesOf(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("10.0.%d.%d:4160", i/256, i%256)
	}
	return all
}

// loopOf is a Loop with so many topics, channels of each, and lookupds. It isn't run.
func loopOf(t *testing.T, topics, channels, lookupds int) *lookuploop.Loop {
	loop := newLoop(t, func(o *lookuploop.Options) { o.LookupdTCPAddresses = addressesOf(lookupds) })
	require.NoError(t, loop.SetMetadata(topicsOf(topics, channels)))
	return loop
}

// calls are those that wait for nothing.
var calls = map[string]struct {
	promised growth
	n        int
	prepare  func(t *testing.T, n int) (call func())
}{
	"New, by addresses": {linear, 200, func(t *testing.T, n int) func() {
		return func() { loopOf(t, 1, 1, n) }
	}},
	"Notify, by new topics in a call": {linear, 500, func(t *testing.T, n int) func() {
		loop, events := loopOf(t, 0, 0, 2), eventsOf(n, lookuploop.TopicCreated)
		return func() { require.NoError(t, loop.Notify(events...)) }
	}},
	"Notify, by new channels in a call": {linear, 500, func(t *testing.T, n int) func() {
		loop, events := loopOf(t, 1, 0, 2), eventsOf(n, channelOfFirst)
		return func() { require.NoError(t, loop.Notify(events...)) }
	}},
	"Notify, by new topics, one a call": {linear, 500, func(t *testing.T, n int) func() {
		loop, events := loopOf(t, 0, 0, 2), eventsOf(n, lookuploop.TopicCreated)
		return func() {
			for _, event := range events {
				require.NoError(t, loop.Notify(event))
			}
		}
	}},
	"Notify, by topics that are there":   {constant, 500, func(t *testing.T, n int) func() { return comeAndGo(t, loopOf(t, n, 1, 2)) }},
	"Notify, by channels that are there": {constant, 500, func(t *testing.T, n int) func() { return comeAndGo(t, loopOf(t, 1, n, 2)) }},
	"Notify, by lookupds":                {constant, 50, func(t *testing.T, n int) func() { return comeAndGo(t, loopOf(t, 1, 1, n)) }},
	"Notify, by channels of a deleted topic": {constant, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, n, 2)
		return func() { require.NoError(t, loop.Notify(lookuploop.TopicDeleted("topic-00000000"))) }
	}},
	"SetMetadata, by new topics":   {linear, 500, declares(0, 1)},
	"SetMetadata, by same topics":  {linear, 500, declares(1, 1)},
	"SetMetadata, by gone topics":  {linear, 600, declares(1, 0)},
	"SetMetadata, by other topics": {linear, 500, declares(1, 2)},
	"Metadata, by topics": {linear, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, n, 1, 0)
		return func() { require.Len(t, loop.Metadata().Topics, n) }
	}},
	"Metadata, by channels": {linear, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, n, 0)
		return func() { require.Len(t, loop.Metadata().Topics[0].Channels, n) }
	}},
	"TopicMetadata, by other topics": {constant, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, n, 1, 0)
		return func() { loop.TopicMetadata("topic-00000000") }
	}},
	"TopicMetadata, by channels": {linear, 512, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, n, 0)
		return func() { loop.TopicMetadata("topic-00000000") }
	}},
	"Status, by topics": {constant, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, n, 1, 2)
		return func() { require.Equal(t, n, loop.Status().Topics) }
	}},
	"Status, by lookupds": {linear, 64, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, 1, n)
		return func() { require.Len(t, loop.Status().Lookupds, n) }
	}},
	"Registered, by topics": {constant, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, n, 1, 2)
		return func() { require.Error(t, loop.Registered(0)) }
	}},
	"Registered, by lookupds": {linear, 64, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, 1, n)
		return func() { require.Error(t, loop.Registered(0)) }
	}},
	"WaitRegistered, by lookupds": {linear, 64, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, 1, n)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		return func() { require.Error(t, loop.WaitRegistered(ended, 0)) }
	}},
	"SetLookupdTCPAddresses, by new ones": {linear, 200, func(t *testing.T, n int) func() {
		loop, addresses := loopOf(t, 1, 1, 0), addressesOf(n)
		return func() { require.NoError(t, loop.SetLookupdTCPAddresses(addresses)) }
	}},
	"SetLookupdTCPAddresses, by the same": {linear, 200, func(t *testing.T, n int) func() {
		loop, addresses := loopOf(t, 1, 1, n), addressesOf(n)
		return func() { require.NoError(t, loop.SetLookupdTCPAddresses(addresses)) }
	}},
	"Drain, by lookupds": {linear, 200, func(t *testing.T, n int) func() {
		loop := loopOf(t, 1, 1, n)
		return func() { require.NoError(t, loop.Drain(t.Context())) }
	}},
	"LoadMetadata, by topics": {linear, 500, func(t *testing.T, n int) func() {
		loop := newLoop(t, withFile(t, topicsOf(n, 1)))
		t.Cleanup(func() { loop.Close() })
		return func() {
			_, err := loop.LoadMetadata()
			require.NoError(t, err)
		}
	}},
	"PersistMetadata, by topics": {linear, 500, func(t *testing.T, n int) func() {
		loop := newLoop(t, withFile(t, topicsOf(n, 1)))
		t.Cleanup(func() { loop.Close() })
		_, err := loop.LoadMetadata()
		require.NoError(t, err)
		return func() {
			require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders")))
			require.NoError(t, loop.PersistMetadata(t.Context()))
		}
	}},
	"Close, by topics": {constant, 500, func(t *testing.T, n int) func() {
		loop := loopOf(t, n, 1, 2)
		return func() { require.NoError(t, loop.Close()) }
	}},
}

// declares replaces n topics from the first by n others; 0: none.
func declares(from, to int) func(*testing.T, int) func() {
	return func(t *testing.T, n int) func() {
		loop := loopOf(t, n*min(from, 1), 1, 2)
		m := topicsOf(n*min(to, 1), 1)
		for i := range m.Topics {
			m.Topics[i].Name = strings.Replace(m.Topics[i].Name, "topic", []string{"", "topic", "other"}[to], 1)
		}
		if from == 0 {
			require.NoError(t, loop.SetMetadata(lookuploop.Metadata{}))
		}
		return func() { require.NoError(t, loop.SetMetadata(m)) }
	}
}

// comeAndGo is a call in which a topic and a channel of the first topic come and
// go a hundred times.
func comeAndGo(t *testing.T, loop *lookuploop.Loop) func() {
	return func() {
		for range 100 {
			require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders"), channelOfFirst("mail"), lookuploop.TopicPaused("orders")))
			require.NoError(t, loop.Notify(lookuploop.TopicDeleted("orders"), lookuploop.ChannelDeleted("topic-00000000", "mail")))
		}
	}
}

func TestGrowthOfCalls(t *testing.T) {
	for name, tt := range calls {
		t.Run(name, func(t *testing.T) {
			requireGrowth(t, tt.promised, tt.n, func(t *testing.T, n int) int {
				return allocated(inBytes, func() func() { return tt.prepare(t, n) })
			})
		})
	}
}
