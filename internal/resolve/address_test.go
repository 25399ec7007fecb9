package resolve

import (
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
		"_odd._tcp.example.com:1":   {"_odd._tcp.example.com:1"}, // a host, as it has a port
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
		"_odd._tcp.example.com:1":   {true, false},
		":4160":                     {false, false},
		"10.0.0.1:4160":             {false, false},
		"[fe80::1%eth0]:4160":       {false, false},
		"10.0.0.256:4160":           {true, false}, // DNS says that there is no such host
	} {
		a, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want.isName, a.IsName(), text)
		require.Equal(t, want.isSRV, a.IsSRV(), text)
	}
}

func TestWhatIsNoAddress(t *testing.T) {
	for _, text := range []string{"", ":", "lookupd", "lookupd:", "lookupd:0", "lookupd:65536", "lookupd:-1", "lookupd:no-such-service", "::1:4160", "[::1]", "_tcp.example.com", "_lookupd._tcp."} {
		_, err := Parse(text)
		require.ErrorContains(t, err, "write host:port", text)
	}
}
