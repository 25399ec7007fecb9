package lookuploop_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// fakeResolver answers from a table that tests change.
type fakeResolver struct {
	mu    sync.Mutex
	hosts map[string][]string
	srv   map[string][]*net.SRV
	err   error
	asked int
}

func (r *fakeResolver) LookupHost(_ context.Context, host string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return r.hosts[host], r.err
}

func (r *fakeResolver) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return name, r.srv[name], r.err
}

func (r *fakeResolver) set(host string, ips ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts[host] = ips
}

func (r *fakeResolver) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// resolveWorld is a Loop over a network in memory with lookupds at 10.0.0.1 to 3.
type resolveWorld struct {
	*testing.T
	resolver *fakeResolver
	network  *lookupdtest.Network
	lookupds map[string]*lookupdtest.Server
	loop     *lookuploop.Loop
}

const resolveInterval = time.Minute

// inResolveWorld runs test in a bubble of virtual time, with a Loop that has these addresses.
func inResolveWorld(t *testing.T, addresses []string, prepare func(*fakeResolver), test func(w *resolveWorld)) {
	synctest.Test(t, func(t *testing.T) {
		w := &resolveWorld{
			T:        t,
			resolver: &fakeResolver{hosts: make(map[string][]string), srv: make(map[string][]*net.SRV)},
			network:  lookupdtest.NewNetwork(),
			lookupds: make(map[string]*lookupdtest.Server),
		}
		for _, ip := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
			w.lookupds[ip] = w.network.NewServer(ip + ":4160")
			defer w.lookupds[ip].Close()
		}
		prepare(w.resolver)
		var err error
		w.loop, err = lookuploop.New(lookuploop.Options{
			LookupdTCPAddresses: addresses,
			BroadcastAddress:    "broker.test",
			BroadcastTCPPort:    4150,
			BroadcastHTTPPort:   4151,
			ResolveInterval:     resolveInterval,
			Resolver:            w.resolver,
			Dial:                w.network.Dial,
			Logger:              slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		require.NoError(t, w.loop.Notify(lookuploop.TopicCreated("orders")))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.loop.Run(ctx) }()
		synctest.Wait()
		test(w)
		cancel()
		require.NoError(t, <-ended)
	})
}

func (w *resolveWorld) tick() {
	time.Sleep(resolveInterval)
	synctest.Wait()
}

// requireKnownAt checks which lookupds know the broker, and that no other does.
func (w *resolveWorld) requireKnownAt(ips ...string) {
	w.Helper()
	var known []string
	for _, ip := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		if len(w.lookupds[ip].Producers("orders", "")) == 1 {
			known = append(known, ip)
		}
	}
	require.Equal(w, ips, known)
	var addresses []string
	for _, s := range w.loop.Status().Lookupds {
		require.EqualValues(w, 1, s.Connects, "an address that stays keeps its connection")
		host, _, _ := net.SplitHostPort(s.Address)
		addresses = append(addresses, host)
	}
	require.Equal(w, ips, addresses)
}

func TestEachIPAddressOfANameIsALookupd(t *testing.T) {
	inResolveWorld(t, []string{"lookupd.test:4160"}, func(r *fakeResolver) { r.set("lookupd.test", "10.0.0.2", "10.0.0.1") },
		func(w *resolveWorld) {
			w.requireKnownAt("10.0.0.1", "10.0.0.2")
			w.resolver.set("lookupd.test", "10.0.0.2", "10.0.0.3")
			w.requireKnownAt("10.0.0.1", "10.0.0.2")
			w.tick()
			w.requireKnownAt("10.0.0.2", "10.0.0.3")
			require.Equal(t, []string{"lookupd.test:4160"}, w.loop.Status().Lookupds[0].Names)
		})
}

func TestWhatWasKnownStaysWhenTheResolverFails(t *testing.T) {
	inResolveWorld(t, []string{"lookupd.test:4160"}, func(r *fakeResolver) { r.set("lookupd.test", "10.0.0.1") },
		func(w *resolveWorld) {
			broken := errors.New("resolver is down")
			w.resolver.fail(broken)
			w.tick()
			w.requireKnownAt("10.0.0.1")
			require.ErrorIs(t, w.loop.Status().Lookupds[0].ResolveError, broken)

			w.resolver.fail(nil)
			w.resolver.set("lookupd.test") // no addresses is a failure too
			w.tick()
			w.requireKnownAt("10.0.0.1")
			require.ErrorContains(t, w.loop.Status().Lookupds[0].ResolveError, "lookupd.test:4160: resolve: the name has no addresses")

			w.resolver.set("lookupd.test", "10.0.0.1", "10.0.0.2")
			w.tick()
			w.requireKnownAt("10.0.0.1", "10.0.0.2")
			require.NoError(t, w.loop.Status().Lookupds[0].ResolveError)
		})
}

func TestNamesThatShareAnAddressAreOneLookupd(t *testing.T) {
	inResolveWorld(t, []string{"a.test:4160", "b.test:4160", "10.0.0.2:4160"}, func(r *fakeResolver) {
		r.set("a.test", "10.0.0.1")
		r.set("b.test", "10.0.0.1", "10.0.0.2")
	}, func(w *resolveWorld) {
		w.requireKnownAt("10.0.0.1", "10.0.0.2")
		lookupds := w.loop.Status().Lookupds
		require.Equal(t, []string{"a.test:4160", "b.test:4160"}, lookupds[0].Names)
		require.Equal(t, []string{"b.test:4160", "10.0.0.2:4160"}, lookupds[1].Names)
	})
}

func TestSRVNamesGiveHostAndPort(t *testing.T) {
	const name = "_lookupd._tcp.example.com"
	inResolveWorld(t, []string{name}, func(r *fakeResolver) {
		r.srv[name] = []*net.SRV{{Target: "one.test.", Port: 4160}, {Target: "two.test.", Port: 4160}}
		r.set("one.test.", "10.0.0.1")
		r.set("two.test.", "10.0.0.3")
	}, func(w *resolveWorld) { w.requireKnownAt("10.0.0.1", "10.0.0.3") })

	_, err := lookuploop.New(lookuploop.Options{LookupdTCPAddresses: []string{name}, BroadcastTCPPort: 1, BroadcastHTTPPort: 1})
	require.ErrorContains(t, err, name, "without ResolveInterval nobody resolves it")
}

func TestANameThatWasNeverResolvedCountsAsMissing(t *testing.T) {
	inResolveWorld(t, []string{"lookupd.test:4160"}, func(r *fakeResolver) { r.fail(errors.New("no such host")) },
		func(w *resolveWorld) {
			ctx, cancel := context.WithTimeout(w.Context(), time.Second)
			defer cancel()
			err := w.loop.WaitRegistered(ctx, 0)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "lookupd.test:4160: resolve: no such host")
			require.Equal(t, lookuploop.Disconnected, w.loop.Status().Lookupds[0].State)

			w.resolver.fail(nil)
			w.resolver.set("lookupd.test", "10.0.0.3")
			require.NoError(t, w.loop.WaitRegistered(w.Context(), 0), "with the next look-up it is there")
			w.requireKnownAt("10.0.0.3")
		})
}

func TestNewNamesAreResolvedAtOnce(t *testing.T) {
	inResolveWorld(t, nil, func(r *fakeResolver) { r.set("lookupd.test", "10.0.0.1") }, func(w *resolveWorld) {
		w.requireKnownAt()
		require.NoError(t, w.loop.SetLookupdTCPAddresses([]string{"lookupd.test:4160"}))
		synctest.Wait()
		w.requireKnownAt("10.0.0.1")

		asked := w.resolver.asked
		require.NoError(t, w.loop.SetLookupdTCPAddresses([]string{"10.0.0.1:4160"}))
		w.tick()
		w.requireKnownAt("10.0.0.1")
		require.Equal(t, asked, w.resolver.asked, "an IP address needs no look-up")
	})
}

func TestLocalhostIsResolvedForReal(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	_, port, err := net.SplitHostPort(lookupd.TCPAddress)
	require.NoError(t, err)
	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: []string{"localhost:" + port},
		BroadcastTCPPort:    4150,
		BroadcastHTTPPort:   4151,
		ResolveInterval:     time.Hour,
		Logger:              slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(t.Context(), 1))
	require.NotContains(t, loop.Status().Lookupds[0].Address, "localhost")
	cancel()
	require.NoError(t, <-ended)
}
