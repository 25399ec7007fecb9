package dnstest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/resolve"
)

// server is a DNS server on loopback. Tests change what it says while it runs.
type server struct {
	address string

	mu      sync.Mutex
	records []string       // in zone file format
	rcodes  map[string]int // by name: what it answers instead
	silent  map[string]bool
}

// newServer starts a server, over UDP and TCP on one port, until the test ends.
func newServer(t *testing.T) *server {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	packets, err := net.ListenPacket("udp", listener.Addr().String())
	require.NoError(t, err)
	s := &server{address: listener.Addr().String(), rcodes: make(map[string]int), silent: make(map[string]bool)}
	for _, d := range []*dns.Server{{Listener: listener}, {PacketConn: packets}} {
		started, ended := make(chan struct{}), make(chan error)
		d.Handler, d.NotifyStartedFunc = s, func() { close(started) }
		go func() { ended <- d.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			require.NoError(t, d.Shutdown())
			<-ended
		})
	}
	return s
}

// ServeDNS answers with all records of the name and type that was asked for.
func (s *server) ServeDNS(w dns.ResponseWriter, request *dns.Msg) {
	s.mu.Lock()
	defer s.mu.Unlock()
	question := request.Question[0]
	name := strings.ToLower(question.Name)
	if s.silent[name] {
		return
	}
	answer := new(dns.Msg)
	answer.SetReply(request)
	isKnown := false
	for _, text := range s.records {
		record, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		if record.Header().Name == name {
			isKnown = true
			if record.Header().Rrtype == question.Qtype {
				answer.Answer = append(answer.Answer, record)
			}
		}
	}
	if !isKnown {
		answer.Rcode = dns.RcodeNameError
	}
	if rcode, isSet := s.rcodes[name]; isSet {
		answer.Rcode, answer.Answer = rcode, nil
	}
	if _, isUDP := w.RemoteAddr().(*net.UDPAddr); isUDP {
		answer.Truncate(dns.MinMsgSize) // upon which the resolver asks again by TCP
	}
	w.WriteMsg(answer)
}

// says replaces the records, and ends all faults.
func (s *server) says(records ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = records
	clear(s.rcodes)
	clear(s.silent)
}

func (s *server) answers(name string, rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcodes[name] = rcode
}

func (s *server) ignores(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent[name] = true
}

// resolver is Go's own resolver, which asks the server alone.
func (s *server) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.address)
	}}
}

const (
	patience = time.Minute // only a red test takes so long
	service  = "_lookupd._tcp.example.com"
)

// start runs Names that ask the server every second.
func start(t *testing.T, s *server, network string, addresses ...string) *resolve.Names {
	names := resolve.New(resolve.Config{
		Resolver: s.resolver(),
		Network:  network,
		Interval: time.Second,
		Logger:   slog.New(slog.DiscardHandler),
	})
	var all []resolve.Address
	for _, text := range addresses {
		all = append(all, parse(t, text))
	}
	names.Set(all)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		names.Run(ctx)
		close(ended)
	}()
	t.Cleanup(func() {
		began := time.Now()
		cancel()
		<-ended
		require.Less(t, time.Since(began), 2*time.Second)
	})
	return names
}

func parse(t *testing.T, text string) resolve.Address {
	a, err := resolve.Parse(text)
	require.NoError(t, err)
	return a
}

// await waits for what is known of a name.
func await(t *testing.T, names *resolve.Names, text string, cond func(resolve.Known) bool) resolve.Known {
	t.Helper()
	a := parse(t, text)
	timeout := time.After(patience)
	for !cond(names.Known(a)) {
		select {
		case <-names.Changed():
		case <-timeout:
			require.Fail(t, "it never was so", "%+v", names.Known(a))
		}
	}
	return names.Known(a)
}

func leadsTo(addresses ...string) func(resolve.Known) bool {
	return func(k resolve.Known) bool { return fmt.Sprint(k.Addresses) == fmt.Sprint(addresses) }
}

func failsWith(text string) func(resolve.Known) bool {
	return func(k resolve.Known) bool { return k.Err != nil && strings.Contains(k.Err.Error(), text) }
}

func TestAServerThatChangesAndFails(t *testing.T) {
	s := newServer(t)
	names := start(t, s, "ip", service)
	await(t, names, service, failsWith("no such host"))

	hosts := []string{"a.test. 60 IN A 127.0.0.1", "b.test. 60 IN A 127.0.0.2"}
	srv := func(host string, port int) string { return fmt.Sprintf("%s. 60 IN SRV 0 0 %d %s", service, port, host) }
	s.says(append(hosts, srv("a.test.", 1), srv("gone.test.", 2), srv("b.test.", 3))...)
	await(t, names, service, leadsTo("127.0.0.1:1", "127.0.0.2:3"))
	names.Connected("127.0.0.1:1")
	names.Connected("127.0.0.2:3")
	await(t, names, service, failsWith(`"gone.test.": lookup gone.test`))

	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeRefused, dns.RcodeSuccess} {
		before := time.Now()
		s.answers(service+".", rcode)
		k := await(t, names, service, func(k resolve.Known) bool {
			return k.LookedUp.After(before) && k.Err != nil && !failsWith("gone.test.")(k)
		})
		require.True(t, leadsTo("127.0.0.1:1", "127.0.0.2:3")(k), dns.RcodeToString[rcode])
	}

	s.says(append(hosts, srv("b.test.", 3), srv("a.test.", 4))...)
	names.Disconnected("127.0.0.1:1")
	k := await(t, names, service, leadsTo("127.0.0.1:4", "127.0.0.2:3"))
	require.NoError(t, k.Err)
}

func TestAServerThatIsSlow(t *testing.T) {
	s := newServer(t)
	srv := service + ". 60 IN SRV 0 0 1 good.test."
	s.says("good.test. 60 IN A 127.0.0.1", srv, service+". 60 IN SRV 0 0 1 slow.test.")
	s.ignores("slow.test.")
	began := time.Now()
	names := start(t, s, "ip4", "slow.test:1", service)
	k := await(t, names, service, leadsTo("127.0.0.1:1"))
	require.Zero(t, k.LookedUp)
	require.Less(t, time.Since(began), resolve.Timeout, "that is when a look-up ends that isn't answered")
	require.Zero(t, names.Known(parse(t, "slow.test:1")).LookedUp)
	await(t, names, "slow.test:1", failsWith("timeout"))
	await(t, names, service, failsWith(`"slow.test.": `))

	s.says("slow.test. 60 IN A 127.0.0.2", "good.test. 60 IN A 127.0.0.1", srv)
	await(t, names, "slow.test:1", leadsTo("127.0.0.2:1"))
}

func TestAnAnswerThatNeedsTCP(t *testing.T) {
	s := newServer(t)
	var records []string
	for i := range 200 {
		records = append(records, fmt.Sprintf("many.test. 60 IN A 127.1.0.%d", i))
	}
	s.says(records...)
	k := await(t, start(t, s, "ip4", "many.test:1"), "many.test:1", failsWith("200 addresses, of which 64 are used"))
	require.Len(t, k.Addresses, 64)
}

func TestANameOfBothFamilies(t *testing.T) {
	s := newServer(t)
	s.says("both.test. 60 IN A 127.0.0.1", "both.test. 60 IN AAAA ::1")
	for network, want := range map[string][]string{
		"ip": {"127.0.0.1:1", "[::1]:1"}, "ip4": {"127.0.0.1:1"}, "ip6": {"[::1]:1"},
	} {
		k := await(t, start(t, s, network, "both.test:1"), "both.test:1", func(k resolve.Known) bool { return !k.LookedUp.IsZero() })
		require.NoError(t, k.Err)
		require.True(t, leadsTo(want...)(k), network)
	}
}
