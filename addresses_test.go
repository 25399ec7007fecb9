package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNamesThatShareAnAddressAreOneLookupd(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) {
		r.knows("a.test", "10.0.0.1")
		r.knows("b.test", "::ffff:10.0.0.1", "10.0.0.2")
	}, func(w *resolveWorld) {
		w.requireKnownAt(1, 2)
		lookupds := w.loop.Status().Lookupds
		require.Equal(w, []string{"a.test:4160", "b.test:4160"}, lookupds[0].Names)
		require.Equal(w, []string{"b.test:4160", "10.0.0.2:4160"}, lookupds[1].Names)
	}, "a.test:4160", "b.test:4160", "10.0.0.2:4160")
}

func TestNewNamesAreLookedUpAtOnce(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) { r.knows("lookupd.test", "10.0.0.1") }, func(w *resolveWorld) {
		w.requireKnownAt()
		w.set("lookupd.test:4160")
		w.requireKnownAt(1)

		asked := w.dns.asked
		w.set("10.0.0.1:4160", "LOOKUPD.test:04160", "lookupd.test:4160")
		w.set("10.0.0.1:4160")
		w.pass(time.Hour)
		w.requireKnownAt(1)
		require.Equal(w, asked, w.dns.asked, "what is known, and IP addresses, need no look-up")
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

// Dial takes what net.Dial takes, and gets it as it was configured.
func TestDialGetsAddressesAsConfigured(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		given := []string{":4160", "lookupd.test:http", "LookupD:04160"}
		dialed := make(chan string, 100)
		s := newScene(t, 0, addresses(given...), func(o *Options) {
			o.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
				require.Equal(t, address, ConfiguredAddress(ctx))
				dialed <- address
				return nil, errors.New("nobody there")
			}
		})
		s.run()
		synctest.Wait()
		require.ElementsMatch(t, given, []string{<-dialed, <-dialed, <-dialed})
		require.Empty(t, ConfiguredAddress(t.Context()))
	})
}

func TestConfiguredAddressIsTheFirstThatLedThere(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dns := new(fakeResolver)
		dns.knows("a.test", "10.0.0.1")
		dns.does("b.test", after(time.Second, "10.0.0.1", "10.0.0.2"))
		dns.knows("target.test.", "10.0.0.3")
		dns.srv = map[string][]*net.SRV{"_lookupd._tcp.test": {{Target: "target.test.", Port: 1}}}
		configured := make(chan string, 100)
		s := newScene(t, 0, addresses("a.test:1", "b.test:1", "_lookupd._tcp.test", "10.0.0.4:1"), func(o *Options) {
			o.ResolveInterval, o.Resolver = time.Hour, dns
			o.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
				configured <- address + " " + ConfiguredAddress(ctx)
				return nil, errors.New("nobody there")
			}
		})
		s.run()
		time.Sleep(time.Second)
		synctest.Wait()
		led := make(map[string]bool)
		for len(configured) > 0 {
			led[<-configured] = true
		}
		require.Equal(t, map[string]bool{"10.0.0.1:1 a.test:1": true, "10.0.0.2:1 b.test:1": true, "10.0.0.3:1 _lookupd._tcp.test": true, "10.0.0.4:1 10.0.0.4:1": true}, led)
	})
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
