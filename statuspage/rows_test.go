package statuspage

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

func TestTroubleComesFirst(t *testing.T) {
	failed := errors.New("refused")
	page := get(t, fakeLoop{status: lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{
		{Address: "good-1", State: lookuploop.Connected},
		{Address: "behind", State: lookuploop.Connected, Pending: 1},
		{Address: "down-1", LastError: failed},
		{Address: "good-2", State: lookuploop.Connected},
		{Address: "down-2", LastError: failed},
	}}}, browser, "/").Body.String()
	last := 0
	for _, address := range []string{"down-1", "down-2", "behind", "good-1", "good-2"} {
		at := strings.Index(page, address)
		require.Greater(t, at, last, address)
		last = at
	}
}

// TestColourStaysBetweenAttempts: what a lookupd looks like doesn't depend on
// whether an attempt to connect is going on.
func TestColourStaysBetweenAttempts(t *testing.T) {
	failed := errors.New("refused")
	for _, tt := range []struct {
		status lookuploop.LookupdStatus
		level  level
		words  string
	}{
		{lookuploop.LookupdStatus{State: lookuploop.Connected}, complete, "connected"},
		{lookuploop.LookupdStatus{State: lookuploop.Connected, Pending: 1}, busy, "incomplete"},
		{lookuploop.LookupdStatus{State: lookuploop.Connected, Pending: 1, LastError: failed}, down, "incomplete"},
		{lookuploop.LookupdStatus{State: lookuploop.Connecting}, busy, "not connected"},
		{lookuploop.LookupdStatus{State: lookuploop.Connecting, LastError: failed}, down, "not connected"},
		{lookuploop.LookupdStatus{State: lookuploop.Disconnected, LastError: failed}, down, "not connected"},
	} {
		l := newLookupdReport(tt.status)
		require.Equal(t, tt.level, l.Level(), tt.status)
		require.Equal(t, tt.words, l.Words(), tt.status)
	}
}

func TestSummary(t *testing.T) {
	now := time.Now()
	var (
		good    = lookuploop.LookupdStatus{State: lookuploop.Connected}
		down    = lookuploop.LookupdStatus{MissingSince: now.Add(-time.Hour), Pending: 1}
		refuses = lookuploop.LookupdStatus{State: lookuploop.Connected, Refused: []*lookuploop.ResponseError{{Topic: "t"}}}
		behind  = lookuploop.LookupdStatus{State: lookuploop.Connected, Pending: 1, MissingSince: now.Add(-time.Millisecond)}
	)
	for want, lookupds := range map[string][]lookuploop.LookupdStatus{
		"":                       {good, good},
		"1 has changes pending.": {good, behind},
		"1 is not connected, 1 refuses names, 1 has changes pending, the longest for 1 h 0 min.":  {good, behind, refuses, down},
		"2 are not connected, 2 refuse names, 2 have changes pending, the longest for 1 h 0 min.": {behind, down, refuses, down, refuses, behind},
	} {
		require.Equal(t, want, newReport(now, lookuploop.Status{Lookupds: lookupds}, nil).Summary())
	}
	require.Empty(t, newReport(now, lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{down}}, nil).Summary(), "its row says it")
	require.Empty(t, newReport(now, lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{good, down}}, newTopicReport("t", false, lookuploop.TopicMetadata{})).Summary())
}

func TestLinkToWhatTheLookupdLists(t *testing.T) {
	for _, tt := range []struct {
		address string
		info    lookuploop.PeerInfo
		topic   string
		want    string
	}{
		{"a:4160", lookuploop.PeerInfo{HTTPPort: 4161, BroadcastAddress: "a.test"}, "", "http://a.test:4161/nodes"},
		{"a:4160", lookuploop.PeerInfo{HTTPPort: 4161, BroadcastAddress: "a.test"}, "live#ephemeral", "http://a.test:4161/lookup?topic=live%23ephemeral"},
		{"10.0.0.7:4160", lookuploop.PeerInfo{HTTPPort: 4161}, "", "http://10.0.0.7:4161/nodes"},
		{"[::1]:4160", lookuploop.PeerInfo{HTTPPort: 4161, BroadcastAddress: "::1"}, "", "http://[::1]:4161/nodes"},
		{"a:4160", lookuploop.PeerInfo{}, "", ""},
		{"a:4160", lookuploop.PeerInfo{HTTPPort: 65536, BroadcastAddress: "a.test"}, "", ""},
		{"a:4160", lookuploop.PeerInfo{HTTPPort: 4161, BroadcastAddress: "a.test/x?"}, "", ""},
		{"a:4160", lookuploop.PeerInfo{HTTPPort: 4161, BroadcastAddress: "user@a.test"}, "", ""},
		{"a:4160", lookuploop.PeerInfo{HTTPPort: 4161, BroadcastAddress: hostile}, "", ""},
	} {
		url := "/"
		if tt.topic != "" {
			url += query("topic", tt.topic)
		}
		page := get(t, fakeLoop{status: lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{{Address: tt.address, Info: tt.info}}}}, browser, url).Body.String()
		if tt.want == "" {
			require.NotContains(t, page, `href="http`, tt)
		} else {
			require.Contains(t, page, `<a href="`+tt.want+`">`, tt)
		}
	}
}

func TestPageShowsSomeOfManyChannels(t *testing.T) {
	topic := lookuploop.TopicMetadata{Name: "orders"}
	for i := range 1234 {
		topic.Channels = append(topic.Channels, lookuploop.ChannelMetadata{Name: fmt.Sprintf("c%04d", i)})
	}
	loop := fakeLoop{metadata: lookuploop.Metadata{Topics: []lookuploop.TopicMetadata{topic}}}
	page := words(get(t, loop, browser, "/?topic=orders").Body.String())
	require.Contains(t, page, "It has 1,234 channels: c0000 ,")
	require.Contains(t, page, "c0049 and 1,184 more; all are in the JSON.")
	require.NotContains(t, page, "c0050")
	require.Contains(t, get(t, loop, "*/*", "/?topic=orders").Body.String(), `"c1233"`)
}

func TestNumber(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 123456: "123,456", 1234567: "1,234,567"} {
		require.Equal(t, want, number(n))
		require.Equal(t, want, number(uint64(n)))
	}
}
