package lookuploop

import (
	"context"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestRunNeedsAContext(t *testing.T) {
	loop := newLoop(t)
	var none context.Context
	require.ErrorContains(t, loop.Run(none), "Run needs a context")
	require.NoError(t, loop.Notify(TopicCreated("orders")), "it has neither begun nor ended")
	require.ErrorContains(t, new(Loop).Notify(TopicCreated("orders")), "this Loop was not made by New")
}

func TestRunRunsOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		s.registered()
		require.EqualError(t, s.loop.Run(t.Context()), "lookuploop: Run is running already")
		s.notify(TopicCreated("orders"))
		s.registered()
		require.Equal(t, []string{"orders"}, announced(s.lookupds[0]), "the first is undisturbed")
		require.NoError(t, s.end())
		require.ErrorIs(t, s.loop.Run(t.Context()), ErrClosed)
	})
}

// Of many who call Run at the same time one gets to run.
func TestRunCalledByManyRunsOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		results := make(chan error, 10)
		for range cap(results) {
			go func() { results <- s.loop.Run(ctx) }()
		}
		for range cap(results) - 1 {
			require.ErrorContains(t, <-results, "running already")
		}
		s.registered()
		require.EqualValues(t, 1, s.loop.Status().Lookupds[0].Connects)
		cancel()
		require.NoError(t, <-results)
	})
}

// A broker that is told to end while it starts still has its topics on disk.
func TestRunWithAContextThatHasEndedWritesAndCloses(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1, func(o *Options) { o.DataPath = dir })
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		s.notify(TopicCreated("orders"))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		started := time.Now()
		require.NoError(t, s.loop.Run(ctx))
		require.Zero(t, time.Since(started))
		require.ErrorIs(t, s.loop.Run(t.Context()), ErrClosed)
		synctest.Wait()
		require.Zero(t, s.lookupds[0].Connections())
	})
	require.Equal(t, []string{"orders"}, topicsOnDisk(t, dir))
}

func TestFaultInAnAddressChangesNothing(t *testing.T) {
	loop := newLoop(t, addresses("a:4160"))
	err := loop.SetLookupdTCPAddresses([]string{"b:4160", "c", "d:0", "e:4160"})
	require.ErrorContains(t, err, `lookuploop: lookupd address "c": write host:port`)
	require.ErrorContains(t, err, `lookuploop: lookupd address "d:0": write host:port`)
	require.Len(t, faults(err), 2)
	require.Equal(t, []string{"a:4160"}, addressesOf(loop))
}

func TestAddressesAreCopiedKeptInOrderAndCountOnce(t *testing.T) {
	loop := newLoop(t, addresses("a:4160", "b:4160"))
	for _, addrs := range [][]string{
		{"c:4160", "b:4160", "c:4160", "a:4160", "b:4160"},
		{"a:4160"},
		{"b:4160", "a:4160"},
		{},
		nil,
		{"d:4160"},
	} {
		given := slices.Clone(addrs)
		require.NoError(t, loop.SetLookupdTCPAddresses(given))
		require.Equal(t, addrs, given)
		if len(given) > 0 {
			given[0] = "changed"
		}
		want := []string{}
		for _, addr := range addrs {
			if !slices.Contains(want, addr) {
				want = append(want, addr)
			}
		}
		require.Equal(t, want, addressesOf(loop), "effective at once")
	}
}

func TestAddressThatStaysKeepsItsConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 3)
		s.notify(TopicCreated("orders"), TopicCreated("live#ephemeral"))
		s.run()
		s.registered()
		heard := listen(s.lookupds[0])
		since := s.loop.Status().Lookupds[0].Since
		time.Sleep(time.Second)

		fourth := s.start(4)
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{fourth.TCPAddress, s.lookupds[0].TCPAddress}))
		status := s.loop.Status()
		require.Len(t, status.Lookupds, 2)
		require.Equal(t, Connected, status.Lookupds[1].State)
		s.registered()
		synctest.Wait()

		require.Empty(t, heard(), "it isn't told anything again")
		require.Equal(t, since, s.loop.Status().Lookupds[1].Since)
		require.Equal(t, []string{"live#ephemeral", "orders"}, announced(s.lookupds[0]))
		require.Equal(t, []string{"live#ephemeral", "orders"}, announced(fourth))
		for _, gone := range s.lookupds[1:3] {
			require.Zero(t, gone.Connections())
			require.Empty(t, announced(gone))
			require.Equal(t, []string{"orders"}, gone.Topics(), "what is ephemeral was unregistered, the rest forgotten")
		}

		require.NoError(t, s.loop.SetLookupdTCPAddresses(nil))
		s.registered()
		synctest.Wait()
		require.Zero(t, s.lookupds[0].Connections()+fourth.Connections(), "it has left discovery")
		s.notify(TopicCreated("new"))
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{s.lookupds[1].TCPAddress}))
		s.registered()
		require.Equal(t, []string{"live#ephemeral", "new", "orders"}, announced(s.lookupds[1]), "and come back")
	})
}

// Swaps at any moment, from many goroutines, leave what the last one said.
func TestAddressesSwappedAtAnyMoment(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 4)
		s.notify(TopicCreated("orders"))
		s.run()
		var swapping sync.WaitGroup
		for g := range 4 {
			swapping.Go(func() {
				for i := range 50 {
					var addrs []string
					for bit := range 4 {
						if (i*7+g)>>bit&1 == 1 {
							addrs = append(addrs, s.lookupds[bit].TCPAddress)
						}
					}
					if err := s.loop.SetLookupdTCPAddresses(addrs); err != nil {
						t.Error(err)
					}
					time.Sleep(time.Duration(i*g) * time.Millisecond)
				}
			})
		}
		swapping.Wait()
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{s.lookupds[2].TCPAddress}))
		s.registered()
		time.Sleep(2 * time.Second)
		for i, lookupd := range s.lookupds {
			if i == 2 {
				require.Equal(t, []string{"broker.test:4150"}, lookupd.Producers("orders", ""))
			} else {
				require.Zero(t, lookupd.Connections())
			}
		}
	})
}

func TestOnStateChangeMayCallTheLoop(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var s *scene
		var mu sync.Mutex
		var states []string
		s = newScene(t, 2, func(o *Options) {
			o.LookupdTCPAddresses = o.LookupdTCPAddresses[:1]
			o.OnStateChange = func(changed LookupdStatus) {
				mu.Lock()
				states = append(states, fmt.Sprint(changed.Address, " ", changed.State))
				mu.Unlock()
				if changed.State != Connected || changed.Address != "lookupd1.test:4160" {
					return
				}
				if status := s.loop.Status().Lookupds[0]; status.State != Connected {
					t.Errorf("Status says %v", status.State)
				}
				if err := s.loop.Notify(TopicCreated("made-in-callback")); err != nil {
					t.Error(err)
				}
				if err := s.loop.SetLookupdTCPAddresses([]string{s.lookupds[1].TCPAddress}); err != nil {
					t.Error(err)
				}
				s.loop.Metadata()
			}
		})
		s.run()
		s.eventually(s.lookupds[1], func() bool { return len(s.lookupds[1].Producers("made-in-callback", "")) == 1 })
		require.NoError(t, s.end())
		for i, want := range []string{"connecting", "connected", "disconnected"} {
			for _, lookupd := range s.lookupds {
				require.Equal(t, lookupd.TCPAddress+" "+want, statesOf(states, lookupd.TCPAddress)[i])
			}
		}
		require.Len(t, states, 6)
	})
}

func statesOf(states []string, address string) (found []string) {
	for _, state := range states {
		if strings.HasPrefix(state, address+" ") {
			found = append(found, state)
		}
	}
	return found
}

// An orderly end takes what is ephemeral from the lookupds, and writes what
// isn't to disk.
func TestOrderlyEnd(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2, func(o *Options) { o.DataPath = dir })
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		s.run()
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"), ChannelCreated("orders", "tail#ephemeral"),
			TopicCreated("live#ephemeral"), ChannelCreated("live#ephemeral", "view"))
		s.registered()
		s.notify(TopicCreated("last"))
		started := time.Now()
		require.NoError(t, s.end())
		require.Zero(t, time.Since(started))
		synctest.Wait()
		for _, lookupd := range s.lookupds {
			require.Zero(t, lookupd.Connections())
			require.Empty(t, announced(lookupd))
			require.NotContains(t, lookupd.Topics(), "live#ephemeral")
			require.Equal(t, []string{"mail"}, lookupd.Channels("orders"))
		}
	})
	require.Equal(t, []string{"orders", "last"}, topicsOnDisk(t, dir))
}

// Whatever the lookupds do, Run is back within 2 s, and the one that works has
// heard the farewell.
func TestEndTakesAtMost2sWithLookupdsThatAreStuck(t *testing.T) {
	for _, tt := range []struct{ when, responseTimeout time.Duration }{
		{0, time.Second},
		{30 * time.Millisecond, time.Second},
		{900 * time.Millisecond, time.Second},
		{5 * time.Second, time.Second},
		{time.Minute, time.Second},
		{0, time.Minute},
		{5 * time.Second, time.Minute},
	} {
		t.Run(fmt.Sprintf("%v, answers may take %v", tt.when, tt.responseTimeout), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 6, func(o *Options) { o.ResponseTimeout = tt.responseTimeout })
				s.network.SetBuffer(512)
				m := manyTopics(300)
				m.Topics = append(m.Topics, TopicMetadata{Name: "live#ephemeral"})
				require.NoError(t, s.loop.SetMetadata(m))
				s.run()
				s.registered()
				var lifts []func()
				for i, order := range []lookupdtest.Order{
					lookupdtest.Hang(), lookupdtest.Refuse(), lookupdtest.HalfOpen(), lookupdtest.Blackhole(), lookupdtest.Drip(100 * time.Millisecond),
				} {
					lifts = append(lifts, s.lookupds[i+1].Do(order))
				}
				s.lookupds[1].CloseConnections() // hangs when it is told IDENTIFY
				s.lookupds[2].CloseConnections()
				for i := range 300 {
					s.notify(TopicCreated(fmt.Sprint("more", i)))
				}
				time.Sleep(tt.when)
				started := time.Now()
				require.NoError(t, s.end())
				require.LessOrEqual(t, time.Since(started), 2*time.Second)
				for _, l := range s.loop.Status().Lookupds {
					require.Equal(t, Disconnected, l.State)
				}
				synctest.Wait()
				require.NotContains(t, s.lookupds[0].Topics(), "live#ephemeral")
				for _, lift := range lifts {
					lift() // so that they notice that nobody is there any more
				}
				time.Sleep(time.Minute)
				for _, lookupd := range s.lookupds {
					require.Zero(t, lookupd.Connections(), "no socket was left open")
				}
			})
		})
	}
}

// The same in real time, over real TCP.
func TestEndTakesAtMost2sOverRealTCP(t *testing.T) {
	t.Parallel() // it waits for lookupds that don't answer
	hung, stopped, halfOpen, good := lookupdtest.NewServer(), lookupdtest.NewServer(), lookupdtest.NewServer(), lookupdtest.NewServer()
	var addrs []string
	for _, lookupd := range []*lookupdtest.Server{hung, stopped, halfOpen, good} {
		t.Cleanup(lookupd.Close)
		addrs = append(addrs, lookupd.TCPAddress)
	}
	loop := newLoop(t, addresses(addrs...))
	require.NoError(t, loop.Notify(TopicCreated("orders"), TopicCreated("live#ephemeral")))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(ctx, 0))

	hung.Do(lookupdtest.Hang())
	halfOpen.Do(lookupdtest.HalfOpen())
	stopped.Stop()
	require.NoError(t, loop.Notify(TopicCreated("more")))
	require.NoError(t, good.Wait(ctx, func() bool { return len(good.Producers("more", "")) == 1 }))
	started := time.Now()
	cancel()
	require.NoError(t, <-result)
	require.Less(t, time.Since(started), 2*time.Second)

	waiting, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	require.NoError(t, good.Wait(waiting, func() bool { return good.Connections() == 0 }))
	require.Equal(t, []string{"more", "orders"}, good.Topics())
	require.NoError(t, hung.Wait(waiting, func() bool { return hung.Connections() == 0 }))
}

func TestTroubleIsLoggedOnceAndThenNowAndThen(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		s := newScene(t, 1, log.infoOf)
		s.run()
		s.registered()
		require.Len(t, log.lines(`level=INFO msg="lookupd connected" address=lookupd1.test:4160 version=1.3.0 announced_as=broker.test:4150`), 1)

		began := time.Now()
		lift := s.lookupds[0].Do(lookupdtest.Refuse())
		s.lookupds[0].CloseConnections()
		time.Sleep(9 * time.Minute)
		require.Len(t, log.lines("not connected"), 2, "the end of the connection, and that it can't be dialed")
		require.Regexp(t, `level=WARN msg="lookupd is not connected" address=lookupd1.test:4160 error="?connection lost: .* for=0s failures=1 retry_in=\d+(\.\d+)?(ms|s)\n`, log.lines("not connected")[0])
		require.Regexp(t, `error="dial: [^"]*connection refused" for=\d+ms failures=2 retry_in=`, log.lines("not connected")[1])
		require.NotContains(t, strings.Join(log.lines("not connected"), ""), "lookuploop: lookupd1", "the address once")
		time.Sleep(time.Hour)
		require.Len(t, log.lines("not connected", "dial: "), 7, "every 10 minutes")

		revive := s.lookupds[0].Do(lookupdtest.Hang())
		lift()
		time.Sleep(2 * time.Minute)
		require.Len(t, log.lines("not connected", "no answer within 1s"), 1, "another reason")

		revive()
		s.registered()
		synctest.Wait()
		back := log.lines(`level=INFO msg="lookupd is back" address=lookupd1.test:4160 after=`)
		require.Len(t, back, 1)
		after, err := time.ParseDuration(regexp.MustCompile(`after=(\S+)`).FindStringSubmatch(back[0])[1])
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), began.Add(after), time.Millisecond)
		require.Len(t, log.lines("lookupd connected"), 1)
		require.NoError(t, s.end())
		require.Len(t, log.lines("msg="), 12, "and that there are no more lines: %s", log.String())
	})
}

// The text of a failure names ports and times that are others each time.
func TestAnotherNumberIsNoOtherReason(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		var dials atomic.Uint64
		s := newScene(t, 1, log.infoOf, func(o *Options) {
			o.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, fmt.Errorf("from port %d", dials.Inc())
			}
		})
		s.run()
		time.Sleep(9 * time.Minute)
		require.Len(t, log.lines("not connected"), 1)
	})
}

// With or without a ResolveInterval, spelling makes no second lookupd.
func TestOtherSpellingsOfAnAddressAreOneLookupd(t *testing.T) {
	given := []string{"[0:0::FFFF]:04160", "[::ffff]:4160", "Lookupd.Test:4160", "lookupd.test:4160", "lookupd.test:04160", "[::ffff:1.2.3.4]:1", "1.2.3.4:01", ":4160", "h:http", "h:80"}
	want := []string{"[0:0::FFFF]:04160", "Lookupd.Test:4160", "[::ffff:1.2.3.4]:1", ":4160", "h:http"}
	for _, interval := range []time.Duration{0, time.Hour} {
		loop := newLoop(t, addresses(given...), func(o *Options) { o.ResolveInterval = interval })
		require.Equal(t, want, addressesOf(loop), "as configured first")
		before := loop.lookupPeers()
		require.NoError(t, loop.SetLookupdTCPAddresses([]string{"LOOKUPD.TEST:4160", "[::0:FFFF]:4160"}))
		after := loop.lookupPeers()
		require.Len(t, after, 2)
		require.Same(t, before[1], after[0])
		require.Same(t, before[0], after[1])
	}
}

// Where each address is compared with each, 16,000 take 9 s; otherwise some 40 ms.
func TestASwapTakesLinearTime(t *testing.T) {
	loop := newLoop(t)
	best := time.Duration(math.MaxInt64)
	for i := range 3 {
		var addrs []string
		for j := range 16_000 {
			addrs = append(addrs, fmt.Sprintf("10.%d.%d.%d:4160", i, j/256, j%256))
		}
		start := time.Now()
		require.NoError(t, loop.SetLookupdTCPAddresses(addrs))
		best = min(best, time.Since(start))
	}
	require.Less(t, best, time.Second)
}
