package resolve

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// table is a Resolver that knows some hosts and one SRV name; other hosts fail.
type table struct {
	hosts   map[string][]string
	srv     string
	records []*net.SRV
}

var errNoSuchHost = errors.New("no such host")

func (r table) LookupHost(_ context.Context, host string) ([]string, error) {
	ips, known := r.hosts[host]
	if !known {
		return nil, errNoSuchHost
	}
	return ips, nil
}

func (r table) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if service+proto != "" || name != r.srv {
		return "", nil, errNoSuchHost
	}
	return name, r.records, nil
}

func TestLookup(t *testing.T) {
	const srv = "_lookupd._tcp.example.com"
	resolver := table{
		hosts: map[string][]string{
			"two.test":  {"10.0.0.2", "10.0.0.1", "10.0.0.2"},
			"six.test":  {"fe80::1"},
			"none.test": {},
		},
		srv:     srv,
		records: []*net.SRV{{Target: "two.test", Port: 4160}, {Target: "six.test", Port: 5160}},
	}
	for name, want := range map[string][]string{
		"two.test:4160": {"10.0.0.1:4160", "10.0.0.2:4160"},
		"six.test:4160": {"[fe80::1]:4160"},
		srv:             {"10.0.0.1:4160", "10.0.0.2:4160", "[fe80::1]:5160"},
	} {
		addresses, err := Lookup(t.Context(), resolver, name)
		require.NoError(t, err, name)
		require.Equal(t, want, addresses, name)
	}

	_, err := Lookup(t.Context(), resolver, "none.test:4160")
	require.EqualError(t, err, "lookuploop: none.test:4160: resolve: the name has no addresses")
	_, err = Lookup(t.Context(), resolver, "other.test:4160")
	require.EqualError(t, err, "lookuploop: other.test:4160: resolve: no such host")
	require.ErrorIs(t, err, errNoSuchHost)
	_, err = Lookup(t.Context(), resolver, "_other._tcp.example.com")
	require.EqualError(t, err, "lookuploop: _other._tcp.example.com: resolve: no such host")

	resolver.records = append(resolver.records, &net.SRV{Target: "other.test", Port: 4160})
	addresses, err := Lookup(t.Context(), resolver, srv)
	require.ErrorIs(t, err, errNoSuchHost, "one host of several")
	require.Empty(t, addresses)
}

// clock is a Resolver that notes by when its answers are wanted.
type clock struct{ deadlines []time.Time }

func (c *clock) LookupHost(ctx context.Context, _ string) ([]string, error) {
	c.note(ctx)
	return []string{"10.0.0.1"}, nil
}

func (c *clock) LookupSRV(ctx context.Context, _, _, name string) (string, []*net.SRV, error) {
	c.note(ctx)
	return name, []*net.SRV{{Target: "host.test", Port: 4160}}, nil
}

func (c *clock) note(ctx context.Context) {
	deadline, _ := ctx.Deadline()
	c.deadlines = append(c.deadlines, deadline)
}

func TestAllOfALookupHas5s(t *testing.T) {
	var c clock
	before := time.Now()
	_, err := Lookup(t.Context(), &c, "_lookupd._tcp.example.com")
	require.NoError(t, err)
	require.Len(t, c.deadlines, 2)
	require.Equal(t, c.deadlines[0], c.deadlines[1], "the name and its host share it")
	require.False(t, c.deadlines[0].Before(before.Add(5*time.Second)))
	require.False(t, c.deadlines[0].After(time.Now().Add(5*time.Second)))
}

func TestWhichAddressesAreWhat(t *testing.T) {
	for address, want := range map[string]struct{ isLiteral, isSRV bool }{
		"10.0.0.1:4160":             {isLiteral: true},
		"[::1]:4160":                {isLiteral: true},
		"[fe80::1%eth0]:4160":       {isLiteral: true},
		"lookupd.test:4160":         {},
		"10.0.0.1":                  {}, // no port
		"_lookupd._tcp.example.com": {isSRV: true},
		"_lookupd._udp.example.com": {},
		"lookupd._tcp.example.com":  {},
	} {
		require.Equal(t, want.isLiteral, IsLiteral(address), address)
		require.Equal(t, want.isSRV, IsSRV(address), address)
	}
}
