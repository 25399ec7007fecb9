package lookupdtest

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// resolver is what users of a [net.Resolver] ask for.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

var _, _ resolver = (*Network)(nil), (*net.Resolver)(nil)

func TestLookupNetIP(t *testing.T) {
	n := NewNetwork()
	for _, address := range []string{"a.test:4160", "b.test:4160", "a.test:4170", "10.0.0.7:4160", "[2001:db8::7]:4160"} {
		n.NewUnstartedServer(address)
	}
	n.SetHosts("all.test", "b.test", "a.test", "10.0.0.7", "2001:db8::7", "192.0.2.1")
	n.SetHosts("gone.test", "a.test")
	n.SetHosts("gone.test")
	n.SetHosts("b.test", "a.test")
	for _, tt := range []struct {
		network, host string
		want          []string // nil: there is no such host
	}{
		{"ip", "a.test", []string{"198.18.0.1"}},
		{"ip4", "a.test.", []string{"198.18.0.1"}},
		{"ip6", "a.test", nil},
		{"ip", "b.test", []string{"198.18.0.1"}},
		{"ip", "10.0.0.7", []string{"10.0.0.7"}},
		{"ip", "all.test", []string{"198.18.0.2", "198.18.0.1", "10.0.0.7", "2001:db8::7", "192.0.2.1"}},
		{"ip4", "all.test", []string{"198.18.0.2", "198.18.0.1", "10.0.0.7", "192.0.2.1"}},
		{"ip6", "all.test", []string{"2001:db8::7"}},
		{"ip", "gone.test", nil},
		{"ip", "nobody.test", nil},
	} {
		ips, err := n.LookupNetIP(t.Context(), tt.network, tt.host)
		if tt.want == nil {
			require.True(t, isNotFound(err), "%v: %v", tt, err)
			continue
		}
		require.NoError(t, err)
		var got []string
		for _, ip := range ips {
			got = append(got, ip.String())
		}
		require.Equal(t, tt.want, got, tt)
	}
	hosts, err := n.LookupHost(t.Context(), "a.test")
	require.NoError(t, err)
	require.Equal(t, []string{"198.18.0.1"}, hosts)
	_, err = n.LookupHost(t.Context(), "nobody.test")
	require.True(t, isNotFound(err))
	_, err = n.LookupNetIP(t.Context(), "tcp", "a.test")
	require.ErrorAs(t, err, new(net.UnknownNetworkError))
}

func isNotFound(err error) bool {
	dnsError, ok := err.(*net.DNSError)
	return ok && dnsError.IsNotFound
}

// More hosts than one byte of an address counts have addresses of their own.
func TestManyHosts(t *testing.T) {
	n := NewNetwork()
	seen := make(map[netip.Addr]bool)
	for i := range 1 << 17 {
		n.hosts = append(n.hosts, "host.test")
		if i%251 == 0 || i > 1<<17-300 {
			require.False(t, seen[n.ip(i)])
			seen[n.ip(i)] = true
		}
	}
	require.True(t, netip.MustParsePrefix("198.18.0.0/15").Contains(n.ip(1<<17-2)))
}

func TestLookupSRV(t *testing.T) {
	n := NewNetwork()
	n.SetSRV("_lookupd._tcp.test", "b.test:4160", "a.test:4162")
	for _, ask := range []func() (string, []*net.SRV, error){
		func() (string, []*net.SRV, error) { return n.LookupSRV(t.Context(), "lookupd", "tcp", "test") },
		func() (string, []*net.SRV, error) { return n.LookupSRV(t.Context(), "", "", "_lookupd._tcp.test.") },
	} {
		cname, records, err := ask()
		require.NoError(t, err)
		require.Equal(t, "_lookupd._tcp.test.", cname)
		require.Equal(t, []*net.SRV{{Target: "b.test.", Port: 4160}, {Target: "a.test.", Port: 4162}}, records)
	}
	n.SetSRV("_lookupd._tcp.test")
	_, _, err := n.LookupSRV(t.Context(), "lookupd", "tcp", "test")
	require.True(t, isNotFound(err))
}

func TestLookupsEndWithTheirContext(t *testing.T) {
	n := NewNetwork()
	n.NewUnstartedServer("a.test:4160")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.LookupNetIP(ctx, "ip", "a.test")
	require.ErrorIs(t, err, context.Canceled)
	_, _, err = n.LookupSRV(ctx, "", "", "a.test")
	require.ErrorIs(t, err, context.Canceled)
}

// What a name leads to is what Dial reaches, under the name and under its IP addresses.
func TestDialGoesWhereNamesLead(t *testing.T) {
	n := NewNetwork()
	servers := make(map[string]*Server)
	for _, host := range []string{"a.test", "b.test", "10.0.0.7", "2001:db8::7"} {
		servers[host] = n.NewServer(net.JoinHostPort(host, "4160"))
		defer servers[host].Close()
	}
	reached := func(host string) string {
		t.Helper()
		c := dialWith(t, n.Dial, net.JoinHostPort(host, "4160"))
		c.identify()
		defer c.Close()
		for host, s := range servers {
			if s.Connections() > 0 {
				c.Close()
				eventually(t, s, func() bool { return s.Connections() == 0 })
				return host
			}
		}
		return ""
	}
	n.SetHosts("one.test", "b.test")
	n.SetHosts("several.test", "a.test", "10.0.0.7")
	for host, want := range map[string]string{
		"a.test": "a.test", "a.test.": "a.test", "198.18.0.1": "a.test", "198.18.0.2": "b.test",
		"10.0.0.7": "10.0.0.7", "2001:db8::7": "2001:db8::7", "one.test": "b.test", "several.test": "a.test",
	} {
		require.Equal(t, want, reached(host), host)
	}
	servers["a.test"].Stop()
	require.Equal(t, "10.0.0.7", reached("several.test"), "the second where the first refuses")
	n.SetHosts("b.test", "10.0.0.7")
	require.Equal(t, "10.0.0.7", reached("b.test"))

	n.SetHosts("b.test")
	_, err := n.Dial(t.Context(), "tcp", "b.test:4160")
	require.EqualError(t, err, "dial tcp b.test:4160: lookup b.test: no such host")
}

// A partition holds for a server, by whatever name it is dialled.
func TestPartitionOfAnIPAddress(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := newClient(t, dialWith(t, n.Dial, "198.18.0.1:4160").Conn)
		c.identify()
		defer n.Partition("lookupd.test")()
		c.send("PING\n")
		c.mute(patience / 2)
	})
}

func TestNamesThatMakeNoSense(t *testing.T) {
	n := NewNetwork()
	for range 20 {
		n.NewUnstartedServer("a.test:4160")
	}
	n.Partition("a.test", "a.test:4161")() // never started, but there
	for text, f := range map[string]func(){
		`lookupdtest: Partition(… "b.test" …): the network has no server there; it has a.test`:              func() { n.Partition("a.test", "b.test") },
		`lookupdtest: Partition(… "a.test:1" …): the network has no server there; it has a.test`:            func() { n.Partition("a.test:1") },
		`lookupdtest: Reset(… "b.test" …): the network has no server there; it has a.test`:                  func() { n.Reset("b.test") },
		`lookupdtest: SetHosts(… "b.test" …): the network has no server there; it has a.test`:               func() { n.SetHosts("x.test", "b.test") },
		`lookupdtest: SetSRV("_x._tcp.test", … "a.test" …): an address is host:port, the port a number`:     func() { n.SetSRV("_x._tcp.test", "a.test") },
		`lookupdtest: SetSRV("_x._tcp.test", … "a.test:nsq" …): an address is host:port, the port a number`: func() { n.SetSRV("_x._tcp.test", "a.test:nsq") },
		`lookupdtest: a Network literal: make it with NewNetwork`:                                           func() { new(Network).NewServer("a.test:4160") },
	} {
		require.PanicsWithValue(t, text, f)
		n.Client() // no lock is left behind
		n.Partition()()
	}
	require.Panics(t, func() { new(Network).SetHosts("a.test") })
	require.Panics(t, func() { new(Network).SetSRV("a.test") })
}
