package main_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

var (
	stormLoops = flag.Int("storm.loops", 200, "how many Loops TestReconnectStorm has")
	busyLoops  = flag.Int("busy.loops", 50, "how many Loops TestBusyLookupdIsRestarted has")
	busyTopics = flag.Int("busy.topics", 200, "how many topics each of them has")
)

// TestReconnectStorm lets a lookupd die that many Loops are connected to, and
// come back a minute later: the attempts to connect are spread by the jitter,
// none are synchronised. Time is virtual, so it says the same on any machine.
func TestReconnectStorm(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const window, outage = 100 * time.Millisecond, time.Minute
		const maxBackoff = 5 * time.Second // Options' default
		network := lookupdtest.NewNetwork()
		lookupd := network.NewServer("lookupd.test:4160")
		defer lookupd.Close()

		var mu sync.Mutex
		var attempts []time.Time
		dial := func(ctx context.Context, network_, address string) (net.Conn, error) {
			mu.Lock()
			attempts = append(attempts, time.Now())
			mu.Unlock()
			return network.Dial(ctx, network_, address)
		}
		var loops []*lookuploop.Loop
		for range *stormLoops {
			loop := newLoop(t, func(o *lookuploop.Options) {
				o.LookupdTCPAddresses = []string{lookupd.TCPAddress}
				o.Dial = dial
			})
			require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders")))
			defer run(t, loop)()
			loops = append(loops, loop)
		}
		for _, loop := range loops {
			registered(t, loop, 1)
		}
		attempts = nil

		died := time.Now()
		lookupd.Stop()
		time.Sleep(outage)
		lookupd.Start()
		for _, loop := range loops {
			registered(t, loop, 1)
		}
		recovery := time.Since(died) - outage

		// Before the backoffs have grown there are more attempts: the first of
		// all Loops come within MinBackoff.
		const early = 30 * time.Second
		perWindow := make([]int, (outage+recovery)/window+1)
		var late []int
		sameInstant := make(map[time.Time]int)
		crowd := 0
		for _, at := range attempts {
			perWindow[at.Sub(died)/window]++
			sameInstant[at]++
			crowd = max(crowd, sameInstant[at])
		}
		late = perWindow[early/window : outage/window]
		total := 0
		for _, n := range late {
			total += n
		}
		mean := float64(total) / float64(len(late))
		t.Attr("loops", fmt.Sprint(*stormLoops))
		t.Attr("attempts-per-100ms", strings.Trim(fmt.Sprint(perWindow), "[]"))
		t.Attr("first-100ms", fmt.Sprint(perWindow[0]))
		t.Attr("at-one-instant", fmt.Sprint(crowd))
		t.Attr("late-mean", fmt.Sprintf("%.1f", mean))
		t.Attr("late-most", fmt.Sprint(slices.Max(late)))
		t.Attr("recovery", recovery.String())

		require.LessOrEqual(t, crowd, 3, "attempts at one instant")
		require.LessOrEqual(t, slices.Max(perWindow), 3**stormLoops/2, "attempts within 100 ms")
		require.LessOrEqual(t, float64(slices.Max(late)), 4*mean+6, "attempts within 100 ms, once the backoffs have grown")
		require.LessOrEqual(t, recovery, maxBackoff)
	})
}

// TestBusyLookupdIsRestarted lets a lookupd start anew, empty, under many Loops
// that have many topics each, and be as fast as it takes to hear of all of them in
// busyTime. They share it without giving up on it, and nothing is said twice.
func TestBusyLookupdIsRestarted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const busyTime, outage = 25 * time.Second, 2 * time.Second
		const maxBackoff = 5 * time.Second // Options' default
		names := *busyLoops * *busyTopics
		network := lookupdtest.NewNetwork()
		network.SetLatency(time.Millisecond)
		lookupd := network.NewServer("lookupd.test:4160")
		defer lookupd.Close()
		var commands, givenUp atomic.Int64
		lookupd.Do(lookupdtest.Observe(func(lookupdtest.Command) { commands.Add(1) }))

		var loops []*lookuploop.Loop
		for range *busyLoops {
			loop := newLoop(t, func(o *lookuploop.Options) {
				o.LookupdTCPAddresses = []string{lookupd.TCPAddress}
				o.Dial = network.Dial
				o.OnStateChange = func(status lookuploop.LookupdStatus) {
					if status.State == lookuploop.Disconnected && !errors.Is(status.LastError, syscall.ECONNREFUSED) {
						givenUp.Add(1)
					}
				}
			})
			require.NoError(t, loop.SetMetadata(someMetadata(*busyTopics)))
			defer run(t, loop)()
			loops = append(loops, loop)
		}
		for _, loop := range loops {
			registered(t, loop, 1)
		}

		lookupd.Stop()
		time.Sleep(outage)
		lookupd.Do(lookupdtest.Rate(names / int(busyTime/time.Second)))
		commands.Store(0)
		givenUp.Store(0)
		lookupd.Start()
		back := time.Now()
		for _, loop := range loops {
			registered(t, loop, 1)
		}
		took := time.Since(back)
		t.Attr("names", fmt.Sprint(names))
		t.Attr("recovery", took.String())
		t.Attr("commands", fmt.Sprint(commands.Load()))
		t.Attr("given-up", fmt.Sprint(givenUp.Load()))
		require.LessOrEqual(t, took, busyTime+maxBackoff)
		require.LessOrEqual(t, commands.Load(), int64(names+names/5))
		require.Zero(t, givenUp.Load(), "nobody gives up on a lookupd that is only busy")
	})
}
