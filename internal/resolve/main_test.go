package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a DNS that a test writes, also while it is being asked.
type script struct {
	mu    sync.Mutex
	hosts map[string]func(context.Context) ([]netip.Addr, error)
	srv   map[string]func() ([]*net.SRV, error)
	asked map[string][]time.Time // when, by host or SRV name
}

func (s *script) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	s.mu.Lock()
	s.asked[host] = append(s.asked[host], time.Now())
	answer := s.hosts[host]
	s.mu.Unlock()
	if answer == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return answer(ctx)
}

func (s *script) LookupSRV(_ context.Context, _, _, name string) (string, []*net.SRV, error) {
	s.mu.Lock()
	s.asked[name] = append(s.asked[name], time.Now())
	answer := s.srv[name]
	s.mu.Unlock()
	if answer == nil {
		return "", nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	records, err := answer()
	return name, records, err
}

func (s *script) host(name string, answer func(context.Context) ([]netip.Addr, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hosts[name] = answer
}

func (s *script) service(name string, err error, records ...*net.SRV) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv[name] = func() ([]*net.SRV, error) { return records, err }
}

// when returns the times at which a name was asked for, since the start.
func (s *script) when(name string) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked[name])
}

var errDNS = errors.New("server misbehaving")

// The answers that there are. Numbers are the last byte of 10.0.0.x.
func ips(numbers ...int) func(context.Context) ([]netip.Addr, error) {
	return func(context.Context) ([]netip.Addr, error) { return addrs(numbers...), nil }
}

func fails(numbers ...int) func(context.Context) ([]netip.Addr, error) {
	return func(context.Context) ([]netip.Addr, error) { return addrs(numbers...), errDNS }
}

func hangs(ctx context.Context) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func addrs(numbers ...int) (all []netip.Addr) {
	for _, n := range numbers {
		all = append(all, netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}))
	}
	return all
}

const interval = time.Minute

// world is a DNS and the Names that ask it.
type world struct {
	*testing.T
	dns   *script
	names *Names
}

func newWorld(t *testing.T, edits ...func(*Config)) *world {
	dns := &script{
		hosts: make(map[string]func(context.Context) ([]netip.Addr, error)),
		srv:   make(map[string]func() ([]*net.SRV, error)),
		asked: make(map[string][]time.Time),
	}
	config := Config{Resolver: dns, Network: "ip", Interval: interval, Logger: slog.New(slog.DiscardHandler)}
	for _, edit := range edits {
		edit(&config)
	}
	return &world{t, dns, New(config)}
}

// inWorld runs a test in a world whose names are looked up, in virtual time.
func inWorld(t *testing.T, test func(w *world), edits ...func(*Config)) {
	inBubble(t, func(t *testing.T) {
		w := newWorld(t, edits...)
		ctx, cancel := context.WithCancel(t.Context())
		var run sync.WaitGroup
		run.Go(func() { w.names.Run(ctx) })
		defer run.Wait()
		defer cancel()
		synctest.Wait()
		test(w)
	})
}

func (w *world) set(texts ...string) {
	w.Helper()
	var all []Address
	for _, text := range texts {
		all = append(all, w.parse(text))
	}
	w.names.Set(all)
	synctest.Wait()
}

func (w *world) parse(text string) Address {
	w.Helper()
	a, err := Parse(text)
	require.NoError(w, err)
	return a
}

func (w *world) known(text string) Known { return w.names.Known(w.parse(text)) }

// numbers are the last bytes of the addresses that the name leads to.
func (w *world) numbers(text string) (numbers []int) {
	for _, a := range w.known(text).Addresses {
		numbers = append(numbers, int(a.Addr().As4()[3]))
	}
	return numbers
}

func (w *world) connect(numbers ...int)    { w.each(numbers, w.names.Connected) }
func (w *world) disconnect(numbers ...int) { w.each(numbers, w.names.Disconnected) }

func (w *world) each(numbers []int, tell func(string)) {
	for _, n := range numbers {
		tell(fmt.Sprintf("10.0.0.%d:4160", n))
	}
	synctest.Wait()
}

func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

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
