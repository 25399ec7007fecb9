package lookuploop

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// fakeResolver answers as tests tell it. The zero value knows no name.
type fakeResolver struct {
	mu    sync.Mutex
	hosts map[string]func(context.Context) ([]string, error)
	srv   map[string][]*net.SRV
	asked int
}

var errNoSuchHost = errors.New("no such host")

func (r *fakeResolver) LookupNetIP(ctx context.Context, network, host string) (ips []netip.Addr, err error) {
	r.mu.Lock()
	r.asked++
	lookUp := r.hosts[host]
	r.mu.Unlock()
	if lookUp == nil {
		return nil, errNoSuchHost
	}
	found, err := lookUp(ctx)
	for _, ip := range found {
		ips = append(ips, netip.MustParseAddr(ip))
	}
	return ips, err
}

func (r *fakeResolver) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.srv[name] == nil {
		return "", nil, errNoSuchHost
	}
	return name, r.srv[name], nil
}

// knows makes a host name lead to these IP addresses.
func (r *fakeResolver) knows(host string, ips ...string) {
	r.does(host, func(context.Context) ([]string, error) { return ips, nil })
}

func (r *fakeResolver) does(host string, lookUp func(context.Context) ([]string, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts == nil {
		r.hosts = make(map[string]func(context.Context) ([]string, error))
	}
	r.hosts[host] = lookUp
}

// forgets makes a host name unknown.
func (r *fakeResolver) forgets(host string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.hosts, host)
}

// hangs is a look-up that is never answered.
func hangs(ctx context.Context) ([]string, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// after is a look-up that takes a while.
func after(d time.Duration, ips ...string) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		select {
		case <-time.After(d):
			return ips, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// resolveWorld is a scene with a DNS, and lookupds at 10.0.0.1 to 10.0.0.4. The broker has one topic, orders.
type resolveWorld struct {
	*scene
	*testing.T
	dns *fakeResolver
}

const resolveInterval = 5 * time.Minute

// inResolveWorld runs test in virtual time, with a Loop that runs and has these addresses.
func inResolveWorld(t *testing.T, prepare func(*fakeResolver), test func(w *resolveWorld), addresses ...string) {
	inBubble(t, func(t *testing.T) {
		dns := new(fakeResolver)
		prepare(dns)
		s := newScene(t, 0, func(o *Options) {
			o.LookupdTCPAddresses = addresses
			o.ResolveInterval = resolveInterval
			o.Resolver = dns
		})
		for i := range 4 {
			lookupd := s.network.NewServer(fmt.Sprintf("10.0.0.%d:4160", i+1))
			t.Cleanup(lookupd.Close)
			s.lookupds = append(s.lookupds, lookupd)
		}
		s.notify(TopicCreated("orders"))
		s.run()
		synctest.Wait()
		test(&resolveWorld{s, t, dns})
	})
}

func (w *resolveWorld) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// lists tells whether lookupd number i lists the broker.
func (w *resolveWorld) lists(i int) bool { return len(w.lookupds[i-1].Producers("orders", "")) == 1 }

// requireKnownAt checks which lookupds know the broker, and that it has had one
// connection to each and knows of no other.
func (w *resolveWorld) requireKnownAt(lookupds ...int) {
	w.Helper()
	var known []int
	for i := range w.lookupds {
		if w.lists(i + 1) {
			known = append(known, i+1)
		}
	}
	require.Equal(w, lookupds, known)
	var addresses []string
	for _, i := range lookupds {
		addresses = append(addresses, w.lookupds[i-1].TCPAddress)
	}
	require.ElementsMatch(w, addresses, addressesOf(w.loop))
	for _, s := range w.loop.Status().Lookupds {
		require.EqualValues(w, 1, s.Connects, s.Address)
	}
}

func (w *resolveWorld) set(addresses ...string) {
	w.Helper()
	require.NoError(w, w.loop.SetLookupdTCPAddresses(addresses))
	synctest.Wait()
}

func TestDNSIsLateAtTheStart(t *testing.T) {
	inResolveWorld(t, func(*fakeResolver) {}, func(w *resolveWorld) {
		w.pass(2 * time.Second)
		require.False(w, w.lists(1))
		w.dns.knows("lookupd.test", "10.0.0.1")
		w.pass(2 * time.Second)
		w.requireKnownAt(1)
	}, "lookupd.test:4160")
}

func TestALookupdThatMovesIsFound(t *testing.T) {
	for _, dnsIsLate := range []time.Duration{0, 3 * time.Second, time.Hour} {
		inResolveWorld(t, func(r *fakeResolver) { r.knows("lookupd.test", "10.0.0.1") }, func(w *resolveWorld) {
			w.pass(time.Hour)
			w.lookupds[0].Close()
			w.pass(dnsIsLate)
			w.dns.knows("lookupd.test", "10.0.0.2")
			w.pass(2 * time.Second)
			w.requireKnownAt(2)
		}, "lookupd.test:4160")
	}
}

func TestTargetsOfASRVNameThatDNSKnowsAreUsed(t *testing.T) {
	const name = "_lookupd._tcp.example.com"
	inResolveWorld(t, func(r *fakeResolver) {
		r.srv = map[string][]*net.SRV{name: {nil, {Target: "a.test.", Port: 4160}, {Target: "gone.test.", Port: 4160}, {Target: "b.test.", Port: 4160}}}
		r.knows("a.test.", "10.0.0.1")
		r.does("b.test.", func(context.Context) ([]string, error) { return []string{"10.0.0.3"}, errors.New("half of it") })
	}, func(w *resolveWorld) {
		w.requireKnownAt(1, 3)
		for _, what := range []string{`"gone.test.": no such host`, "half of it", "a SRV record has no target"} {
			require.ErrorContains(w, w.loop.Status().Lookupds[0].ResolveError, what)
		}
		w.dns.forgets("a.test.")
		w.pass(time.Hour)
		w.requireKnownAt(1, 3)
	}, name)
}

func TestNobodyWaitsForASlowName(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) {
		r.does("slow.test", hangs)
		r.knows("good.test", "10.0.0.2")
	}, func(w *resolveWorld) {
		require.True(w, w.lists(2), "at once")
		began := time.Now()
		require.NoError(w, w.end())
		require.Less(w, time.Since(began), 2*time.Second)
	}, "slow.test:4160", "good.test:4160")
}

func TestAnotherNameOfALookupdKeepsItsConnection(t *testing.T) {
	for _, from := range []string{"old.test:4160", "10.0.0.1:4160"} {
		for _, dnsTakes := range []time.Duration{0, 300 * time.Millisecond, 3 * time.Second} {
			inResolveWorld(t, func(r *fakeResolver) {
				r.knows("old.test", "10.0.0.1")
				r.does("new.test", after(dnsTakes, "10.0.0.1"))
			}, func(w *resolveWorld) {
				w.set("new.test:4160")
				for range 40 {
					require.True(w, w.lists(1))
					w.pass(100 * time.Millisecond)
				}
				w.requireKnownAt(1)
				require.Equal(w, []string{"new.test:4160"}, w.loop.Status().Lookupds[0].Names)
			}, from)
		}
	}
}

func TestAnAddressIsLeftOnceTheNewNamesWereTried(t *testing.T) {
	for what, tt := range map[string]struct {
		lookUp func(context.Context) ([]string, error)
		stays  time.Duration
		at     []int
	}{
		"leads elsewhere": {after(2*time.Second, "10.0.0.2"), 2 * time.Second, []int{2}},
		"is not in DNS":   {nil, 0, nil},
		"hangs":           {hangs, 5 * time.Second, nil},
	} {
		inResolveWorld(t, func(r *fakeResolver) { r.does("new.test", tt.lookUp) }, func(w *resolveWorld) {
			w.set("new.test:4160")
			if tt.stays > 0 {
				w.pass(tt.stays - 1)
				require.True(w, w.lists(1), what)
				w.pass(1)
			}
			require.False(w, w.lists(1), what)
			require.Len(w, w.loop.Status().Lookupds, 1, what)
			if tt.at != nil {
				w.requireKnownAt(tt.at...)
			}
		}, "10.0.0.1:4160")
	}
}

func TestWhoLeavesDiscoveryWaitsForNoName(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) { r.does("slow.test", hangs) }, func(w *resolveWorld) {
		w.set("slow.test:4160")
		w.set()
		w.requireKnownAt()
	}, "10.0.0.1:4160")
}

func TestEachIPAddressOfANameIsALookupd(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) { r.knows("lookupd.test", "10.0.0.2", "10.0.0.1") }, func(w *resolveWorld) {
		w.requireKnownAt(1, 2)
		w.dns.knows("lookupd.test", "10.0.0.2", "10.0.0.3")
		w.pass(resolveInterval)
		w.requireKnownAt(1, 2, 3)
		w.pass(2 * resolveInterval)
		w.requireKnownAt(2, 3)
	}, "lookupd.test:4160")
}

// Some DNS servers give a part of the addresses at a time.
func TestLookupdsStayWhenAnswersRotate(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) {
		answers := [][]string{{"10.0.0.1", "10.0.0.2"}, {"10.0.0.3", "10.0.0.4"}}
		r.does("lookupd.test", func(context.Context) ([]string, error) { return answers[r.asked%2], nil })
	}, func(w *resolveWorld) {
		w.pass(resolveInterval)
		for range 20 {
			w.requireKnownAt(1, 2, 3, 4)
			w.pass(resolveInterval)
		}
	}, "lookupd.test:4160")
}

func TestWhatWasKnownStaysWhenALookupFails(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) { r.knows("lookupd.test", "10.0.0.1") }, func(w *resolveWorld) {
		for _, lookUp := range []func(context.Context) ([]string, error){
			nil, hangs, func(context.Context) ([]string, error) { return nil, nil },
		} {
			w.dns.does("lookupd.test", lookUp)
			w.pass(time.Hour)
			w.requireKnownAt(1)
			require.ErrorContains(w, w.loop.Status().Lookupds[0].ResolveError, "lookuploop: lookupd.test:4160: resolve: ")
		}
		w.dns.knows("lookupd.test", "10.0.0.1", "10.0.0.2")
		w.pass(5*time.Second + 2*time.Second) // the one that is going on, and a pause
		w.requireKnownAt(1, 2)
		require.NoError(w, w.loop.Status().Lookupds[0].ResolveError)
	}, "lookupd.test:4160")
}

func TestANameThatWasNeverResolvedCountsAsMissing(t *testing.T) {
	inResolveWorld(t, func(*fakeResolver) {}, func(w *resolveWorld) {
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		err := w.loop.WaitRegistered(ctx, 0)
		require.ErrorIs(w, err, context.DeadlineExceeded)
		require.ErrorContains(w, err, "lookupd.test:4160 is disconnected (resolve: no such host)")
		require.Equal(w, Disconnected, w.loop.Status().Lookupds[0].State)

		w.dns.knows("lookupd.test", "10.0.0.3")
		w.registered()
		w.requireKnownAt(3)
	}, "lookupd.test:4160")
}

func TestErrorsAndLogHaveTheNameBesideTheAddress(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		dns := new(fakeResolver)
		dns.knows("lookupd.test", "10.0.0.9")
		s := newScene(t, 0, log.infoOf, addresses("lookupd.test:4160", "10.0.0.8:4160"), func(o *Options) {
			o.ResolveInterval, o.Resolver = resolveInterval, dns
			o.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
				return nil, x509.HostnameError{Certificate: &x509.Certificate{}, Host: netip.MustParseAddrPort(address).Addr().String()}
			}
		})
		s.run()
		synctest.Wait()
		require.Regexp(t, `^lookuploop: not registered: lookupd.test:4160 \(10.0.0.9:4160\) is \w+ `+
			`\(dial: [^()]* \(set ServerName of the tls.Config to the host of ConfiguredAddress\)\), `+
			`10.0.0.8:4160 is \w+ \(dial: [^()]*\)$`, s.loop.Registered(0).Error())
		require.Len(t, log.lines(`msg="lookupd is not connected" address=10.0.0.9:4160 name=lookupd.test:4160 error=`), 1)
		require.Len(t, log.lines(`msg="lookupd is not connected" address=10.0.0.8:4160 error=`), 1)
	})
}

func TestStatusShowsTheNames(t *testing.T) {
	inResolveWorld(t, func(r *fakeResolver) { r.knows("good.test", "10.0.0.2", "10.0.0.1") }, func(w *resolveWorld) {
		start := time.Now()
		names := w.loop.Status().Names
		require.Len(w, names, 2, "an IP address is no name")
		require.Equal(w, NameStatus{Name: "good.test:4160", Addresses: []string{"10.0.0.1:4160", "10.0.0.2:4160"}, LookedUp: start, NextLookup: start.Add(resolveInterval)}, names[0])
		require.ErrorIs(w, names[1].Error, errNoSuchHost)
		require.Equal(w, start, names[1].LookedUp)
		require.WithinDuration(w, start, names[1].NextLookup, 2*time.Second)

		w.dns.does("bad.test", hangs)
		w.pass(2 * time.Second)
		require.Zero(w, w.loop.Status().Names[1].NextLookup, "it is going on")
		w.set("10.0.0.3:4160")
		require.Empty(w, w.loop.Status().Names)
	}, "good.test:4160", "10.0.0.3:4160", "bad.test:4160")
}

func TestLocalhostIsResolvedForReal(t *testing.T) {
	lookupd := lookupdtest.NewServer() // at 127.0.0.1
	defer lookupd.Close()
	_, port, err := net.SplitHostPort(lookupd.TCPAddress)
	require.NoError(t, err)
	loop := newLoop(t, func(o *Options) {
		o.LookupdTCPAddresses = []string{"localhost:" + port}
		o.ResolveInterval = time.Hour
		o.ResolveNetwork = "ip4"
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(t.Context(), 1))
	require.NoError(t, loop.WaitRegistered(t.Context(), 0))
	require.Equal(t, []string{lookupd.TCPAddress}, addressesOf(loop))
	cancel()
	require.NoError(t, <-ended)
}

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
