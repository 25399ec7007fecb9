package resolve

import (
	"context"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const lookupd = "lookupd.test:4160"

func TestDNSIsBackAfterAWhile(t *testing.T) {
	for _, outage := range []time.Duration{0, time.Second, 2 * time.Second, time.Hour} {
		inWorld(t, func(w *world) {
			w.set(lookupd)
			w.pass(outage)
			w.dns.host("lookupd.test", ips(1))
			w.pass(maxPause)
			require.Equal(w, []int{1}, w.numbers(lookupd), "after %v", outage)
			require.NoError(w, w.known(lookupd).Err)
		})
	}
}

// gaps are the times between one look-up and the next.
func (w *world) gaps(host string) (gaps []time.Duration) {
	asked := w.dns.when(host)
	for i := range asked[1:] {
		gaps = append(gaps, asked[i+1].Sub(asked[i]))
	}
	return gaps
}

func TestPausesAfterFailuresAreDrawnBelowALimitThatDoubles(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(lookupd)
		w.pass(time.Hour)
		var sum time.Duration
		gaps := w.gaps("lookupd.test")
		for i, gap := range gaps {
			require.LessOrEqual(w, gap, min(minPause<<min(i, 10), maxPause), "pause %d", i)
			sum += gap
		}
		require.InDelta(w, maxPause/2, sum/time.Duration(len(gaps)), float64(maxPause/10), "full jitter")

		w.dns.host("lookupd.test", ips(1))
		w.pass(maxPause)
		w.connect(1)
		w.dns.host("lookupd.test", fails())
		w.pass(time.Until(w.known(lookupd).Next))
		require.Error(w, w.known(lookupd).Err)
		require.LessOrEqual(w, time.Until(w.known(lookupd).Next), minPause, "it starts over")
	})
}

func TestALostConnectionAsksForLookups(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.host("lookupd.test", ips(1, 2))
		w.set(lookupd)
		w.connect(1, 2)
		require.Equal(w, time.Now().Add(interval), w.known(lookupd).Next)
		w.pass(interval / 2)
		require.Len(w, w.dns.when("lookupd.test"), 1, "all is well")

		lost := time.Now()
		w.disconnect(2)
		w.pass(100 * time.Second)
		asked := w.dns.when("lookupd.test")[1:]
		require.LessOrEqual(w, asked[0].Sub(lost), askedPause/2)
		for _, gap := range w.gaps("lookupd.test")[1:] {
			require.GreaterOrEqual(w, gap, askedPause, "at most one a second")
			require.LessOrEqual(w, gap, askedPause*3/2)
		}

		w.connect(2)
		require.Equal(w, asked[len(asked)-1].Add(interval), w.known(lookupd).Next)
		for range 10 { // a connection that flaps
			w.disconnect(2)
			w.connect(2)
		}
		w.pass(askedPause * 2)
		require.Equal(w, asked, w.dns.when("lookupd.test")[1:])
	})
}

func TestNobodyWaitsForASlowName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.host("slow.test", hangs)
		w.dns.host("lookupd.test", ips(1))
		w.set("slow.test:4160", lookupd)
		require.Equal(w, []int{1}, w.numbers(lookupd))
		require.Zero(w, w.known("slow.test:4160").LookedUp)
		w.pass(Timeout)
		require.Equal(w, time.Now(), w.known("slow.test:4160").LookedUp)
		require.ErrorIs(w, w.known("slow.test:4160").Err, context.DeadlineExceeded)
	})
}

// Servers rotate and shorten their answers.
func TestAddressesThatAreMissingNowAndThenStay(t *testing.T) {
	inWorld(t, func(w *world) {
		answers := [][]int{{1, 2}, {3, 4}, {2, 1}, {4, 1}, {2, 3}}
		for i := range 50 {
			w.dns.host("lookupd.test", ips(answers[i%len(answers)]...))
			w.set(lookupd)
			w.pass(interval)
			switch i {
			case 0:
				w.connect(1, 2)
			case 1:
				w.connect(3, 4)
			default:
				require.Equal(w, []int{1, 2, 3, 4}, w.numbers(lookupd), i)
			}
		}
	})
}

func TestWhenAnAddressIsDropped(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.host("lookupd.test", ips(1, 2, 3))
		w.set(lookupd)
		w.connect(1, 3)
		w.dns.host("lookupd.test", ips(3))
		w.pass(askedPause * 3 / 2)
		require.Equal(w, []int{1, 3}, w.numbers(lookupd), "without a connection at once")
		w.pass(interval)
		require.Equal(w, []int{1, 3}, w.numbers(lookupd))
		w.pass(interval)
		require.Equal(w, []int{3}, w.numbers(lookupd), "with a connection after three look-ups")

		w.dns.host("lookupd.test", ips(4))
		w.disconnect(3)
		w.pass(askedPause * 3 / 2)
		require.Equal(w, []int{4}, w.numbers(lookupd), "the lookupd has moved")
	})
}

func TestAFailureTakesNothingAway(t *testing.T) {
	for what, answer := range map[string]func(context.Context) ([]netip.Addr, error){
		"failure": fails(), "timeout": hangs, "no such host": nil, "no addresses": ips(),
	} {
		inWorld(t, func(w *world) {
			w.dns.host("lookupd.test", ips(1, 2))
			w.set(lookupd)
			w.connect(1)
			w.dns.host("lookupd.test", answer)
			w.pass(time.Hour)
			require.Equal(w, []int{1, 2}, w.numbers(lookupd), what)
			require.ErrorContains(w, w.known(lookupd).Err, "lookuploop: lookupd.test:4160: resolve: ", what)

			w.dns.host("lookupd.test", ips(1))
			w.pass(Timeout + maxPause)
			require.Equal(w, []int{1}, w.numbers(lookupd), what)
			require.NoError(w, w.known(lookupd).Err)
		})
	}
}

func TestWhatComesWithAnErrorIsUsed(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.host("lookupd.test", fails(1))
		w.set(lookupd)
		w.connect(1)
		require.Equal(w, []int{1}, w.numbers(lookupd))
		require.ErrorIs(w, w.known(lookupd).Err, errDNS)
		w.pass(time.Hour)
		require.Less(w, len(w.dns.when("lookupd.test")), 200, "for what is missing nobody hurries: twice as often as the interval")

		w.dns.host("lookupd.test", fails(2))
		w.pass(maxMissing * interval)
		require.Equal(w, []int{2}, w.numbers(lookupd), "it is an answer like any other")
	})
}

func TestSetKeepsWhatStaysAndForgetsTheRest(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.host("lookupd.test", ips(1))
		w.dns.host("other.test", ips(1, 2))
		w.set(lookupd, "other.test:4160", "10.0.0.3:4160")
		require.Len(w, w.dns.when("lookupd.test"), 1)
		require.Zero(w, w.known("10.0.0.3:4160"))

		w.set("LOOKUPD.test:04160")
		require.Equal(w, []int{1}, w.numbers(lookupd))
		require.Len(w, w.dns.when("LOOKUPD.test"), 0, "it is known")
		require.Zero(w, w.known("other.test:4160"))
		w.set()
		w.pass(time.Hour)
		require.Len(w, w.dns.when("lookupd.test"), 1)
		require.Empty(w, w.names.places)
	})
}

func TestANameThatIsRemovedWhileItIsLookedUpLearnsNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		answer := make(chan struct{})
		w.dns.host("lookupd.test", func(context.Context) ([]netip.Addr, error) { // which doesn't heed its context
			<-answer
			return addrs(1), nil
		})
		w.set(lookupd)
		w.set("10.0.0.3:4160")
		close(answer)
		synctest.Wait()
		require.Empty(w, w.names.places)
	})
}

// A connection that is being left may end after its successor has begun.
func TestConnectionsAreCounted(t *testing.T) {
	inWorld(t, func(w *world) {
		w.connect(1)
		w.connect(1)
		w.disconnect(1)
		w.dns.host("lookupd.test", ips(1))
		w.set(lookupd)
		require.Equal(w, time.Now().Add(interval), w.known(lookupd).Next)
		w.disconnect(1)
		w.names.Disconnected("host.test:4160") // is no IP address
		w.set()
		require.Empty(w, w.names.places)
	})
}

func TestRunEndsWhenItsContextDoes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.host("slow.test", hangs)
		names := New(w.names.Config)
		names.Set([]Address{w.parse("slow.test:4160"), w.parse(lookupd)})
		ctx, cancel := context.WithCancel(w.Context())
		ended := make(chan struct{})
		go func() {
			names.Run(ctx)
			close(ended)
		}()
		w.pass(time.Second)
		cancel()
		synctest.Wait()
		<-ended
		require.Zero(w, names.Known(w.parse("slow.test:4160")).LookedUp)
		names.Set([]Address{w.parse("late.test:4160")})
		synctest.Wait()
		require.Empty(w, w.dns.when("late.test"), "nobody is there to wait for it")
	})
}

// TestManyUseNamesAtOnce is for the race detector. It runs in real time, as a
// bubble would have one thread.
func TestManyUseNamesAtOnce(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Interval = time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	var all, run sync.WaitGroup
	run.Go(func() { w.names.Run(ctx) })
	defer run.Wait()
	defer cancel()
	both := []Address{w.parse(lookupd), w.parse("other.test:4160")}
	for _, use := range []func(){
		func() { w.names.Set(both) },
		func() { w.names.Set(both[:1]) },
		func() { w.names.Known(both[0]) },
		func() { w.names.Known(both[1]) },
		func() { w.names.Connected("10.0.0.1:4160"); w.names.Disconnected("10.0.0.1:4160") },
		func() { w.dns.host("lookupd.test", ips(1, 2)) },
		func() { w.dns.host("lookupd.test", ips(2, 3)) },
		func() { w.dns.host("other.test", fails(1)) },
	} {
		all.Go(func() {
			for len(w.dns.when("lookupd.test")) < 100 {
				for range 50 {
					use()
				}
				runtime.Gosched()
			}
		})
	}
	all.Wait()
	w.dns.host("lookupd.test", ips(4))
	w.names.Set(both)
	require.Eventually(t, func() bool { return slices.Equal(w.numbers(lookupd), []int{4}) }, time.Minute, time.Millisecond)
}

// TestSetWhileRunEnds is for the race detector, too.
func TestSetWhileRunEnds(t *testing.T) {
	inWorld(t, func(w *world) {
		both := []Address{w.parse(lookupd), w.parse("other.test:4160")}
		for range 100 {
			names := New(w.names.Config)
			ctx, cancel := context.WithCancel(w.Context())
			var all sync.WaitGroup
			all.Go(func() { names.Run(ctx) })
			all.Go(func() {
				for range 20 {
					names.Set(both)
					names.Set(nil)
					runtime.Gosched()
				}
			})
			runtime.Gosched()
			cancel()
			all.Wait()
		}
	})
}
