package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const service = "_lookupd._tcp.example.com"

func record(target string) *net.SRV { return &net.SRV{Target: target, Port: 4160} }

func TestTargetsOfASRVName(t *testing.T) {
	inWorld(t, func(w *world) {
		w.dns.service(service, nil, record("a.test."), record("gone.test."), record("slow.test."), record("b.test."))
		w.dns.host("a.test.", ips(1))
		w.dns.host("b.test.", ips(2, 3))
		w.dns.host("slow.test.", hangs)
		w.set(service)
		require.Equal(w, []int{1, 2, 3}, w.numbers(service), "no target waits for another")
		w.connect(1, 2, 3)
		w.pass(Timeout)
		err := w.known(service).Err
		require.EqualError(w, err, `lookuploop: _lookupd._tcp.example.com: resolve: "gone.test.": lookup gone.test.: no such host; "slow.test.": context deadline exceeded`)
		require.ErrorIs(w, err, context.DeadlineExceeded)
		var notFound *net.DNSError
		require.ErrorAs(w, err, &notFound)

		w.dns.host("slow.test.", ips(4))
		w.dns.host("b.test.", fails())
		w.pass(interval)
		require.Equal(w, []int{1, 2, 3, 4}, w.numbers(service), "what was known of a target stays")

		w.connect(4)
		w.dns.service(service, nil, record("b.test."), record("slow.test."))
		w.pass(maxMissing * interval)
		require.Equal(w, []int{2, 3, 4}, w.numbers(service), "a target that is no more doesn't")

		w.dns.service(service, errDNS, record("b.test."), record("slow.test."))
		w.dns.host("b.test.", ips(2, 3))
		w.pass(maxMissing * interval)
		require.Equal(w, []int{2, 3, 4}, w.numbers(service), "good records that come with an error are used")
		require.ErrorIs(w, w.known(service).Err, errDNS)
	})
}

func TestAnEmptyAnswerForASRVNameTakesNothingAway(t *testing.T) {
	for what, records := range map[string][]*net.SRV{
		"none": {}, "nil": {nil}, "no target": {record("")}, "not offered": {record(".")}, "no port": {{Target: "a.test."}},
	} {
		inWorld(t, func(w *world) {
			w.dns.service(service, nil, record("a.test."))
			w.dns.host("a.test.", ips(1))
			w.set(service)
			w.dns.service(service, nil, records...)
			w.pass(time.Hour)
			require.Equal(w, []int{1}, w.numbers(service), what)
			require.ErrorContains(w, w.known(service).Err, "SRV record", what)
		})
	}
}

func TestAddressesThatCanNotBeUsed(t *testing.T) {
	answer := []netip.Addr{
		{}, netip.IPv4Unspecified(), netip.IPv6Unspecified(), netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1"),
		netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1%eth0"),
	}
	for network, want := range map[string]string{
		"ip":  "[10.0.0.1:4160 [2001:db8::1]:4160 [fe80::1%eth0]:4160]",
		"ip4": "[10.0.0.1:4160]",
		"ip6": "[[2001:db8::1]:4160 [fe80::1%eth0]:4160]",
	} {
		inWorld(t, func(w *world) {
			w.dns.host("lookupd.test", func(context.Context) ([]netip.Addr, error) { return answer, nil })
			w.set(lookupd)
			require.Equal(w, want, fmt.Sprint(w.known(lookupd).Addresses))
			require.ErrorContains(w, w.known(lookupd).Err, "of 9 addresses can't be used (network "+`"`+network+`")`)
		}, func(c *Config) { c.Network = network })
	}
}

func TestANameLeadsToAtMost64Addresses(t *testing.T) {
	inWorld(t, func(w *world) {
		var many []netip.Addr
		for i := range 10_000 {
			many = append(many, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
		}
		w.dns.host("lookupd.test", func(context.Context) ([]netip.Addr, error) { return many, nil })
		w.set(lookupd)
		first := w.known(lookupd).Addresses
		require.Len(w, first, 64)
		require.ErrorContains(w, w.known(lookupd).Err, "the name leads to 10000 addresses, of which 64 are used")

		more := slices.Concat(addrs(1, 2, 3), many) // which come before all others
		slices.Reverse(more)
		w.dns.host("lookupd.test", func(context.Context) ([]netip.Addr, error) { return more, nil })
		w.pass(interval)
		require.Equal(w, first, w.known(lookupd).Addresses, "what is known comes first")
	})
}

func TestASRVNameHasAtMost64Targets(t *testing.T) {
	inWorld(t, func(w *world) {
		var records []*net.SRV
		for i := range 100_000 {
			records = append(records, record(fmt.Sprintf("t%05d.test.", i)))
		}
		w.dns.service(service, nil, records...)
		w.dns.host("t00063.test.", ips(1))
		w.set(service)
		require.Equal(w, []int{1}, w.numbers(service))
		require.Empty(w, w.dns.when("t00064.test."))
		require.ErrorContains(w, w.known(service).Err, "100000 SRV records, of which 64 are used")
		require.ErrorContains(w, w.known(service).Err, "and 60 more")

		reversed := slices.Clone(records)
		slices.Reverse(reversed)
		w.dns.service(service, nil, reversed...)
		w.connect(1)
		w.pass(interval)
		require.Equal(w, []int{1}, w.numbers(service), "in whatever order they come")
		require.Empty(w, w.dns.when("t99999.test."))
	})
}

func TestErrorsAreBounded(t *testing.T) {
	inWorld(t, func(w *world) {
		long := strings.Repeat("x", 1<<20)
		var records []*net.SRV
		for i := range 9 {
			target := fmt.Sprint(i, "\x1b\n", long)
			records = append(records, record(target))
			w.dns.host(target, func(context.Context) ([]netip.Addr, error) { return nil, errors.New(long) })
		}
		w.dns.service(service, nil, records...)
		w.set(service)
		text := w.known(service).Err.Error()
		require.Less(w, len(text), 2048)
		require.NotContains(w, text, "\x1b")
		require.NotContains(w, text, "\n")
		require.Contains(w, text, "; and 5 more")
	})
}
