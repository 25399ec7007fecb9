package statuspage

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// TestJSONIsAsDocumented compares with the example in doc.go, explanations removed.
func TestJSONIsAsDocumented(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(source), "//\t{\n")
	require.True(t, found)
	explanation := regexp.MustCompile(`(?m)(\S)  +[^"\s].*$`)
	example, _, found = strings.Cut("{\n"+strings.ReplaceAll(example, "//\t", ""), "\n}\n")
	require.True(t, found)
	want := explanation.ReplaceAllString(example+"\n}", "$1")

	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		loop := fakeLoop{
			status: lookuploop.Status{
				Broker: lookuploop.BrokerInfo{BroadcastAddress: "broker.example.com", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151,
					Hostname: "broker-1", Version: "1.3.0", Started: begin},
				Topics: 1, Channels: 2,
				Lookupds: []lookuploop.LookupdStatus{{
					Address: "10.0.0.7:4160", Names: []string{"lookupd.example.com:4160"},
					State: lookuploop.Connected, Since: begin, MissingSince: begin,
					Info:          lookuploop.PeerInfo{TCPPort: 4160, HTTPPort: 4161, Version: "1.3.0", Hostname: "a", BroadcastAddress: "lookupd.example.com"},
					Refused:       []*lookuploop.ResponseError{{Topic: "orders", Channel: "ship", Command: "REGISTER", Code: "E_BAD_CHANNEL", Message: "REGISTER channel name 'ship' is not valid"}},
					LastHeartbeat: begin, RTT: 1200 * time.Microsecond,
					Connects: 1, Commands: 4,
				}},
				Names: []lookuploop.NameStatus{{Name: "lookupd.example.com:4160", Addresses: []string{"10.0.0.7:4160"}, LookedUp: begin, NextLookup: begin.Add(5 * time.Minute)}},
				Verification: lookuploop.VerificationStatus{Interval: time.Minute, Ended: begin, Found: lookuploop.Verification{
					Topics:   1,
					Lookupds: []lookuploop.LookupdVerification{{Address: "10.0.0.7:4160", HTTPAddress: "lookupd.example.com:4161"}},
					Findings: []lookuploop.Finding{{Kind: lookuploop.Tombstoned, Lookupd: "10.0.0.7:4160", Topic: "orders", Advice: "wait"}},
				}},
				Metadata: lookuploop.MetadataStatus{Path: "/var/lib/broker/nsqd.dat", LastWrite: begin, Writes: 1},
			},
			metadata: lookuploop.Metadata{Topics: []lookuploop.TopicMetadata{{Name: "orders", Channels: []lookuploop.ChannelMetadata{{Name: "ship"}, {Name: "mail"}}}}},
		}
		loop.verify = func(context.Context, ...string) (lookuploop.Verification, error) {
			return lookuploop.Verification{Topics: 1, Lookupds: []lookuploop.LookupdVerification{}, Findings: []lookuploop.Finding{}}, nil
		}
		time.Sleep(5 * time.Second)
		require.JSONEq(t, want, get(t, loop, "*/*", "/?topic=orders&verify=1").Body.String())
	})
}

// TestJSONWithNothing shows what takes the place of what there isn't.
func TestJSONWithNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loop := fakeLoop{}
		require.JSONEq(t, `{"time": "2000-01-01T00:00:00Z", "broker": {"broadcast_address": "", "tcp_port": 0, "http_port": 0,
			"hostname": "", "version": "", "topology_zone": "", "topology_region": "", "started": null}, "totals": {"topics": 0, "channels": 0, "lookupds": 0, "connected": 0, "complete": 0}, "lookupds": [], "metadata": null, "verification": null}`,
			get(t, loop, "*/*", "/?topic=").Body.String())

		loop.status.Lookupds = []lookuploop.LookupdStatus{{Address: "a:1"}}
		loop.status.Names = []lookuploop.NameStatus{{Name: "b:1"}}
		loop.status.Metadata = lookuploop.MetadataStatus{Path: "p"}
		loop.status.Verification = lookuploop.VerificationStatus{Interval: 1}
		var answer map[string]any
		require.NoError(t, json.Unmarshal(get(t, loop, "*/*", "/").Body.Bytes(), &answer))
		require.Equal(t, []any{map[string]any{
			"address": "a:1", "names": []any{}, "state": "disconnected", "since": "0001-01-01T00:00:00Z", "complete": false, "missing_since": nil, "pending": 0.0,
			"refused": []any{}, "last_error": nil, "resolve_error": nil, "next_attempt": nil, "last_heartbeat": nil,
			"round_trip_seconds": nil, "connects": 0.0, "failures": 0.0, "commands": 0.0, "peer": nil,
		}}, answer["lookupds"])
		require.Equal(t, []any{map[string]any{"name": "b:1", "addresses": []any{}, "error": nil, "looked_up": nil, "next_lookup": nil}}, answer["names"])
		require.Equal(t, map[string]any{"path": "p", "dirty": false, "last_write": nil, "last_error": nil, "writes": 0.0, "failures": 0.0}, answer["metadata"])
		require.Equal(t, map[string]any{"ended": nil, "error": nil, "announced": 0.0, "found": nil}, answer["verification"])
	})
}

func TestTimesAreUTCAndErrorsTexts(t *testing.T) {
	east := time.Date(2026, 2, 3, 4, 5, 6, 0, time.FixedZone("east", 3600))
	r := newReport(east, lookuploop.Status{
		Lookupds: []lookuploop.LookupdStatus{{
			Since: east, NextAttempt: east, LastHeartbeat: east,
			LastError: errors.New("down"), ResolveError: errors.New("unknown"),
		}},
		Names:    []lookuploop.NameStatus{{Error: errors.New("unknown"), LookedUp: east, NextLookup: east}},
		Metadata: lookuploop.MetadataStatus{Path: "p", Dirty: true, LastWrite: east, LastError: errors.New("full"), Failures: 2},
	}, nil)
	utc := east.UTC()
	require.Equal(t, utc, r.Time)
	require.Equal(t, []time.Time{utc, utc, utc}, []time.Time{r.Lookupds[0].Since, *r.Lookupds[0].NextAttempt, *r.Lookupds[0].LastHeartbeat})
	require.Equal(t, "down", *r.Lookupds[0].LastError)
	require.Equal(t, "unknown", *r.Lookupds[0].ResolveError)
	require.Equal(t, []time.Time{utc, utc}, []time.Time{*r.Names[0].LookedUp, *r.Names[0].NextLookup})
	require.Equal(t, "unknown", *r.Names[0].Error)
	require.Equal(t, metadataReport{Path: "p", Dirty: true, LastWrite: &utc, LastError: new("full"), Failures: 2}, *r.Metadata)
}

func TestComplete(t *testing.T) {
	refused := []*lookuploop.ResponseError{{Topic: "orders"}}
	r := newReport(time.Now(), lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{
		{State: lookuploop.Connected},
		{State: lookuploop.Connected, Pending: 1},
		{State: lookuploop.Connected, Refused: refused},
		{State: lookuploop.Connecting},
		{State: lookuploop.Disconnected},
	}}, nil)
	require.Equal(t, totals{Lookupds: 5, Connected: 3, Complete: 1}, r.Totals)
	require.True(t, r.Lookupds[0].Complete)
}

func TestTopicIsRegisteredWhere(t *testing.T) {
	var (
		itself  = &lookuploop.ResponseError{Topic: "orders", Code: "E_BAD_TOPIC"}
		channel = &lookuploop.ResponseError{Topic: "orders", Channel: "ship"}
		other   = &lookuploop.ResponseError{Topic: "returns"}
	)
	for name, tt := range map[string]struct {
		status  lookuploop.LookupdStatus
		state   topicState
		refused int
	}{
		"in sync":             {lookuploop.LookupdStatus{State: lookuploop.Connected}, registered, 0},
		"another is refused":  {lookuploop.LookupdStatus{State: lookuploop.Connected, Refused: []*lookuploop.ResponseError{other}}, registered, 0},
		"a channel is":        {lookuploop.LookupdStatus{State: lookuploop.Connected, Refused: []*lookuploop.ResponseError{other, channel}}, registered, 1},
		"it is refused":       {lookuploop.LookupdStatus{State: lookuploop.Connected, Pending: 1, Refused: []*lookuploop.ResponseError{itself, channel}}, refused, 2},
		"something is unsaid": {lookuploop.LookupdStatus{State: lookuploop.Connected, Pending: 1}, pending, 0},
		"disconnected":        {lookuploop.LookupdStatus{Pending: 1}, notConnected, 0},
		"connecting":          {lookuploop.LookupdStatus{State: lookuploop.Connecting}, notConnected, 0},
		"refused and gone":    {lookuploop.LookupdStatus{Refused: []*lookuploop.ResponseError{itself}}, refused, 1},
	} {
		topic := newTopicReport("orders", true, lookuploop.TopicMetadata{Name: "orders", Paused: true})
		require.Equal(t, topicReport{Name: "orders", Known: true, Paused: true, Channels: []lookuploop.ChannelMetadata{}, Similar: []string{}}, *topic)
		r := newReport(time.Now(), lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{tt.status}}, topic)
		require.Equal(t, tt.state, r.Lookupds[0].TopicState, name)
		require.Len(t, r.Lookupds[0].Refused, tt.refused, name)
		require.Equal(t, len(tt.status.Refused) == 0 && tt.state == registered, r.Lookupds[0].Complete, name)

		unknown := newTopicReport("orders", false, lookuploop.TopicMetadata{})
		require.False(t, unknown.Known)
		r = newReport(time.Now(), lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{tt.status}}, unknown)
		require.Empty(t, r.Lookupds[0].TopicState, name)
	}
}

func TestNetworksTextsAreCut(t *testing.T) {
	long, cutText := strings.Repeat("ü", 1025), strings.Repeat("ü", 1024)+"…"
	l := newLookupdReport(lookuploop.LookupdStatus{
		Info:      lookuploop.PeerInfo{Version: long, Hostname: long, BroadcastAddress: long},
		Refused:   []*lookuploop.ResponseError{{Code: long, Message: long}},
		LastError: errors.New(long),
	})
	require.Equal(t, peer{Version: cutText, Hostname: cutText, BroadcastAddress: cutText}, *l.Peer)
	require.Equal(t, []refusal{{Code: cutText, Message: cutText}}, l.Refused)
	require.Equal(t, cutText, *l.LastError)
	require.Equal(t, long[:2048], cut(long[:2048]))
}
