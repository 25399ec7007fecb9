package resolve

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAllSpellingsOfAnAddressHaveOneKey(t *testing.T) {
	for key, spellings := range map[string][]string{
		"lookupd.test:4160":         {"lookupd.test:4160", "LookupD.Test:4160", "lookupd.test:04160", "lookupd.test:+4160"},
		"lookupd.test.:4160":        {"lookupd.test.:4160"}, // without the search domains
		"lookupd:80":                {"lookupd:http", "lookupd:HTTP", "lookupd:80"},
		":4160":                     {":4160", ":04160"},
		"10.0.0.1:4160":             {"10.0.0.1:4160", "[::ffff:10.0.0.1]:4160", "[::ffff:a00:1]:4160"},
		"[2001:db8::1]:4160":        {"[2001:db8::1]:4160", "[2001:0DB8:0:0:0:0:0:1]:04160"},
		"[fe80::1%eth0]:4160":       {"[fe80::1%eth0]:4160", "[fe80:0::1%eth0]:4160"},
		"[fe80::1%ETH0]:4160":       {"[fe80::1%ETH0]:4160"}, // another interface
		"_lookupd._tcp.example.com": {"_lookupd._tcp.example.com", "_Lookupd._TCP.Example.com"},
		"lookupd_1.test:4160":       {"lookupd_1.test:4160"},
	} {
		for _, text := range spellings {
			a, err := Parse(text)
			require.NoError(t, err, text)
			require.Equal(t, key, a.Key, text)
			require.Equal(t, text, a.Text)
		}
	}
}

func TestWhatIsLookedUp(t *testing.T) {
	for text, want := range map[string]struct{ isName, isSRV bool }{
		"lookupd.test:4160":         {true, false},
		"_lookupd._tcp.example.com": {true, true},
		":4160":                     {false, false},
		"10.0.0.1:4160":             {false, false},
		"[fe80::1%eth0]:4160":       {false, false},
	} {
		a, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want.isName, a.IsName(), text)
		require.Equal(t, want.isSRV, a.IsSRV(), text)
	}
}

func TestWhatIsNoAddress(t *testing.T) {
	const generic = "write host:port, with a port of 1..65535"
	const noPort = "write host:port; nsqlookupd's TCP port is 4160 by default"
	const several = "write host:port, and one address in each string"
	const brackets = "write host:port, with an IPv6 address in brackets, as in [::1]:4160"
	const space = "remove the space or control character"
	const host = "write an IP address or a host name (letters, digits, hyphens, underscores, dots), and a port"
	const srv = "write a SRV name without a port, its records have the ports"
	for text, want := range map[string]string{
		"":              "it is empty; without any lookupd, pass an empty list",
		"$LOOKUPD:4160": host, "${LOOKUPD}:4160": host, "me@lookupd:4160": host, "10.0.0.256:4160": host, "lookupd/a:4160": host, "b\u00fccher.test:4160": host,
		"_lookupd._tcp.example.com:4160": srv, "_Lookupd._TCP.example.com:http": srv,
		":": generic, "lookupd:": generic, "lookupd:0": generic, "lookupd:65536": generic, "lookupd:-1": generic,
		"lookupd:no-such-service": generic, "lookupd:4160/": generic, "lookupd:4160:4161": generic, "[::1]4160": generic, "[::1:4160": generic,
		"lookupd": noPort, "10.0.0.1": noPort, "[::1]": noPort, "_tcp.example.com": noPort, "_lookupd._tcp.": noPort,
		"::1:4160": brackets, "2001:db8::1": brackets, "fe80::1%eth0:4160": brackets,
		"a:4160,b:4160": several, "a:4160, b:4160": several, "a:4160;b:4160": several, "a:4160 b:4160": several, "a,b:4160": several, "a:4160,b": several,
		"look upd:4160": space, " lookupd:4160": space, "lookupd:4160\n": space, "look\x7fupd:4160": space, "_lookupd._tcp.example.com ": space,
		"http://lookupd:4161": "write host:port, without http://", "tcp://lookupd:4160": "write host:port, without tcp://", "nsqlookupd://lookupd": "write host:port, without nsqlookupd://",
	} {
		_, err := Parse(text)
		require.EqualError(t, err, want, "%q", text)
	}
}

func TestHostNames(t *testing.T) {
	long := strings.Repeat("x", 63)
	for _, name := range []string{"a", "broker", "broker-1.example.com", "broker_1", "broker.example.com.", "3com.test", "1-2", "BROKER", long + "." + long, "xn--bcher-kva.example"} {
		require.True(t, IsHostName(name), name)
	}
	for _, name := range []string{"", ".", "a..b", ".a", "-a", "a-.b", "4711", "10.0.0", "a/b", "a b", "a:1", "bücher.example", long + "x", strings.Repeat(long+".", 4) + "x"} {
		require.False(t, IsHostName(name), name)
	}
}

func TestLoopback(t *testing.T) {
	for text, want := range map[string]bool{
		":4160": true, "localhost:4160": true, "LocalHost:4160": true, "127.0.0.1:4160": true, "127.1.2.3:4160": true, "[::1]:4160": true, "[::ffff:127.0.0.1]:4160": true,
		"10.0.0.1:4160": false, "lookupd:4160": false, "[2001:db8::1]:4160": false, "_lookupd._tcp.example.com": false,
	} {
		a, err := Parse(text)
		require.NoError(t, err)
		require.Equal(t, want, a.IsLoopback(), text)
	}
}
