package lookupprom

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeLoop says what it is told to.
type fakeLoop struct{ status lookuploop.Status }

func (f *fakeLoop) Status() lookuploop.Status { return f.status }

func at(seconds float64) time.Time { return time.Unix(0, int64(seconds*1e9)) }

// some is a status with a value of its own in each field that is exported.
func some() lookuploop.Status {
	return lookuploop.Status{
		Broker: lookuploop.BrokerInfo{BroadcastAddress: "broker.test", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151,
			Hostname: "h\xff", Version: "1.3.0", TopologyZone: "z1", TopologyRegion: "r1", Started: at(900)},
		Topics: 2, Channels: 3,
		Lookupds: []lookuploop.LookupdStatus{
			{
				Address: "a.test:4160", State: lookuploop.Connected, Since: at(1000.5), MissingSince: at(1500.5), Pending: 4,
				Refused:       []*lookuploop.ResponseError{{Topic: "orders", Message: "\"} 1\nevil 2"}, {Topic: "returns"}},
				LastHeartbeat: at(2000.25), RTT: 1500 * time.Microsecond, Connects: 5, Failures: 6, Commands: 7,
				Info: lookuploop.PeerInfo{Version: "\"} 1\nevil 2"}, LastError: errors.New("evil"),
			},
			{Address: "b\xff.test:4160", Since: at(3000), Pending: 5, Failures: 8, NextAttempt: at(4000)},
		},
		Names: []lookuploop.NameStatus{
			{Name: "a.test:4160", Addresses: []string{"10.0.0.1:4160", "10.0.0.2:4160"}, LookedUp: at(6000.5), NextLookup: at(6300)},
			{Name: "b\xff.test:4160", Error: errors.New("evil")},
		},
		Verification: lookuploop.VerificationStatus{Interval: time.Minute, Ended: at(7000), Error: errors.New("evil"), Announced: 11, Found: lookuploop.Verification{
			Findings: []lookuploop.Finding{{Kind: lookuploop.Stale, Topic: "\"} 1\nevil 2"}, {Kind: lookuploop.NotReachable}, {Kind: lookuploop.Stale}},
		}},
		Metadata: lookuploop.MetadataStatus{Path: "/data/nsqd.dat", Dirty: true, LastWrite: at(5000), Writes: 9, Failures: 10},
	}
}

const someScrape = `
# HELP lookuploop_broker_info Always 1. The labels are what the nsqlookupds are told about the broker.
# TYPE lookuploop_broker_info gauge
lookuploop_broker_info{broadcast_address="broker.test",hostname="h�",http_port="4151",region="r1",tcp_port="4150",version="1.3.0",zone="z1"} 1
# HELP lookuploop_channels Number of channels of all topics of the broker.
# TYPE lookuploop_channels gauge
lookuploop_channels 3
# HELP lookuploop_lookupd_commands_total Commands sent to the nsqlookupd, including IDENTIFY and PING.
# TYPE lookuploop_lookupd_commands_total counter
lookuploop_lookupd_commands_total{lookupd="a.test:4160"} 7
lookuploop_lookupd_commands_total{lookupd="b�.test:4160"} 0
# HELP lookuploop_lookupd_connects_total Connections to the nsqlookupd that became connected.
# TYPE lookuploop_lookupd_connects_total counter
lookuploop_lookupd_connects_total{lookupd="a.test:4160"} 5
lookuploop_lookupd_connects_total{lookupd="b�.test:4160"} 0
# HELP lookuploop_lookupd_failures_total Connections and attempts to connect to the nsqlookupd that ended with an error.
# TYPE lookuploop_lookupd_failures_total counter
lookuploop_lookupd_failures_total{lookupd="a.test:4160"} 6
lookuploop_lookupd_failures_total{lookupd="b�.test:4160"} 8
# HELP lookuploop_lookupd_last_heartbeat_timestamp_seconds When the nsqlookupd last answered a PING or IDENTIFY; 0 means never.
# TYPE lookuploop_lookupd_last_heartbeat_timestamp_seconds gauge
lookuploop_lookupd_last_heartbeat_timestamp_seconds{lookupd="a.test:4160"} 2000.25
lookuploop_lookupd_last_heartbeat_timestamp_seconds{lookupd="b�.test:4160"} 0
# HELP lookuploop_lookupd_missing_since_timestamp_seconds Since when the nsqlookupd doesn't know everything that the broker has; 0 means that it does.
# TYPE lookuploop_lookupd_missing_since_timestamp_seconds gauge
lookuploop_lookupd_missing_since_timestamp_seconds{lookupd="a.test:4160"} 1500.5
lookuploop_lookupd_missing_since_timestamp_seconds{lookupd="b�.test:4160"} 0
# HELP lookuploop_lookupd_pending_changes Changes that the nsqlookupd has not acknowledged; all topics and channels while it is not connected.
# TYPE lookuploop_lookupd_pending_changes gauge
lookuploop_lookupd_pending_changes{lookupd="a.test:4160"} 4
lookuploop_lookupd_pending_changes{lookupd="b�.test:4160"} 5
# HELP lookuploop_lookupd_refused_names Topics and channels that the nsqlookupd refused.
# TYPE lookuploop_lookupd_refused_names gauge
lookuploop_lookupd_refused_names{lookupd="a.test:4160"} 2
lookuploop_lookupd_refused_names{lookupd="b�.test:4160"} 0
# HELP lookuploop_lookupd_round_trip_seconds Round-trip time of the last answer to PING or IDENTIFY.
# TYPE lookuploop_lookupd_round_trip_seconds gauge
lookuploop_lookupd_round_trip_seconds{lookupd="a.test:4160"} 0.0015
# HELP lookuploop_lookupd_state 1 for the current state of the connection to the nsqlookupd, 0 for the other states.
# TYPE lookuploop_lookupd_state gauge
lookuploop_lookupd_state{lookupd="a.test:4160",state="connected"} 1
lookuploop_lookupd_state{lookupd="a.test:4160",state="connecting"} 0
lookuploop_lookupd_state{lookupd="a.test:4160",state="disconnected"} 0
lookuploop_lookupd_state{lookupd="b�.test:4160",state="connected"} 0
lookuploop_lookupd_state{lookupd="b�.test:4160",state="connecting"} 0
lookuploop_lookupd_state{lookupd="b�.test:4160",state="disconnected"} 1
# HELP lookuploop_lookupd_state_since_timestamp_seconds When the connection to the nsqlookupd entered its state.
# TYPE lookuploop_lookupd_state_since_timestamp_seconds gauge
lookuploop_lookupd_state_since_timestamp_seconds{lookupd="a.test:4160"} 1000.5
lookuploop_lookupd_state_since_timestamp_seconds{lookupd="b�.test:4160"} 3000
# HELP lookuploop_metadata_dirty 1 while there are changes that aren't in nsqd.dat yet.
# TYPE lookuploop_metadata_dirty gauge
lookuploop_metadata_dirty 1
# HELP lookuploop_metadata_last_write_timestamp_seconds When nsqd.dat was last written successfully; 0 means not since the start.
# TYPE lookuploop_metadata_last_write_timestamp_seconds gauge
lookuploop_metadata_last_write_timestamp_seconds 5000
# HELP lookuploop_metadata_write_failures_total Failed writes of nsqd.dat.
# TYPE lookuploop_metadata_write_failures_total counter
lookuploop_metadata_write_failures_total 10
# HELP lookuploop_metadata_writes_total Successful writes of nsqd.dat.
# TYPE lookuploop_metadata_writes_total counter
lookuploop_metadata_writes_total 9
# HELP lookuploop_name_addresses Addresses of nsqlookupds that the name leads to.
# TYPE lookuploop_name_addresses gauge
lookuploop_name_addresses{name="a.test:4160"} 2
lookuploop_name_addresses{name="b�.test:4160"} 0
# HELP lookuploop_name_last_lookup_timestamp_seconds When the last look-up of the name ended; 0 means never.
# TYPE lookuploop_name_last_lookup_timestamp_seconds gauge
lookuploop_name_last_lookup_timestamp_seconds{name="a.test:4160"} 6000.5
lookuploop_name_last_lookup_timestamp_seconds{name="b�.test:4160"} 0
# HELP lookuploop_name_lookup_failed 1 if the last look-up of the name failed or partly failed.
# TYPE lookuploop_name_lookup_failed gauge
lookuploop_name_lookup_failed{name="a.test:4160"} 0
lookuploop_name_lookup_failed{name="b�.test:4160"} 1
# HELP lookuploop_name_next_lookup_timestamp_seconds When the next look-up of the name starts; 0 during a look-up.
# TYPE lookuploop_name_next_lookup_timestamp_seconds gauge
lookuploop_name_next_lookup_timestamp_seconds{name="a.test:4160"} 6300
lookuploop_name_next_lookup_timestamp_seconds{name="b�.test:4160"} 0
# HELP lookuploop_topics Number of topics of the broker.
# TYPE lookuploop_topics gauge
lookuploop_topics 2
# HELP lookuploop_verification_announced_topics_total Topics announced again because an nsqlookupd had lost them, counted for each nsqlookupd.
# TYPE lookuploop_verification_announced_topics_total counter
lookuploop_verification_announced_topics_total 11
# HELP lookuploop_verification_failed 1 if the last verification could ask no nsqlookupd.
# TYPE lookuploop_verification_failed gauge
lookuploop_verification_failed 1
# HELP lookuploop_verification_findings Findings of the last verification that had an nsqlookupd to ask, by kind.
# TYPE lookuploop_verification_findings gauge
lookuploop_verification_findings{kind="address shared"} 0
lookuploop_verification_findings{kind="channel missing"} 0
lookuploop_verification_findings{kind="listed elsewhere"} 0
lookuploop_verification_findings{kind="listed twice"} 0
lookuploop_verification_findings{kind="not listed"} 0
lookuploop_verification_findings{kind="not reachable"} 1
lookuploop_verification_findings{kind="not resolvable"} 0
lookuploop_verification_findings{kind="other version"} 0
lookuploop_verification_findings{kind="stale"} 2
lookuploop_verification_findings{kind="tombstoned"} 0
# HELP lookuploop_verification_last_timestamp_seconds When the last verification ended; 0 means never.
# TYPE lookuploop_verification_last_timestamp_seconds gauge
lookuploop_verification_last_timestamp_seconds 7000
`

// newRegistry checks what it gathers against Describe, too.
func newRegistry(t *testing.T, loop Loop) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, registry.Register(NewCollector(loop)))
	return registry
}

func TestWholeScrape(t *testing.T) {
	registry := newRegistry(t, &fakeLoop{some()})
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(someScrape)))
}

func TestNamesFollowConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(newRegistry(t, &fakeLoop{some()}))
	require.NoError(t, err)
	require.Empty(t, problems)
}

// TestScrapesFollowTheLoop shows that nothing of an nsqlookupd stays when it
// is configured no more, and nothing of nsqd.dat is there without a DataPath.
func TestScrapesFollowTheLoop(t *testing.T) {
	loop := &fakeLoop{some()}
	registry := newRegistry(t, loop)
	count := func() int {
		n, err := testutil.GatherAndCount(registry)
		require.NoError(t, err)
		return n
	}
	require.Equal(t, 3+12+11+2*4+13+4, count())
	loop.status.Lookupds = loop.status.Lookupds[1:]
	require.Equal(t, 3+11+2*4+13+4, count())
	loop.status = lookuploop.Status{}
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP lookuploop_broker_info Always 1. The labels are what the nsqlookupds are told about the broker.
# TYPE lookuploop_broker_info gauge
lookuploop_broker_info{broadcast_address="",hostname="",http_port="0",region="",tcp_port="0",version="",zone=""} 1
# HELP lookuploop_channels Number of channels of all topics of the broker.
# TYPE lookuploop_channels gauge
lookuploop_channels 0
# HELP lookuploop_topics Number of topics of the broker.
# TYPE lookuploop_topics gauge
lookuploop_topics 0
`)))
}

func TestNeverIsZero(t *testing.T) {
	loop := &fakeLoop{lookuploop.Status{Metadata: lookuploop.MetadataStatus{Path: "p"}}}
	require.NoError(t, testutil.CollectAndCompare(NewCollector(loop), strings.NewReader(`
# HELP lookuploop_metadata_last_write_timestamp_seconds When nsqd.dat was last written successfully; 0 means not since the start.
# TYPE lookuploop_metadata_last_write_timestamp_seconds gauge
lookuploop_metadata_last_write_timestamp_seconds 0
`), "lookuploop_metadata_last_write_timestamp_seconds"))
}

// TestDocumentedMetricsAreTheExported holds the list in doc.go against a scrape.
func TestDocumentedMetricsAreTheExported(t *testing.T) {
	source, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	var documented []string
	for _, m := range regexp.MustCompile(`(?m)^//\t(lookuploop_\w+) +(gauge|counter) `).FindAllStringSubmatch(string(source), -1) {
		documented = append(documented, m[1]+" "+m[2])
	}
	families, err := newRegistry(t, &fakeLoop{some()}).Gather()
	require.NoError(t, err)
	var exported []string
	for _, f := range families {
		exported = append(exported, fmt.Sprint(f.GetName(), " ", strings.ToLower(f.GetType().String())))
	}
	slices.Sort(documented)
	require.Equal(t, exported, documented)
	for _, name := range regexp.MustCompile(`lookuploop_\w+`).FindAllString(string(source), -1) {
		require.True(t, slices.ContainsFunc(exported, func(e string) bool { return strings.HasPrefix(e, name+" ") }), name)
	}
}

func TestSeveralLoopsAreToldApartByALabel(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, broker := range []string{"a", "b"} {
		labelled := prometheus.WrapRegistererWith(prometheus.Labels{"broker": broker}, registry)
		require.NoError(t, labelled.Register(NewCollector(&fakeLoop{some()})))
		require.Error(t, labelled.Register(NewCollector(&fakeLoop{})))
	}
	n, err := testutil.GatherAndCount(registry, "lookuploop_topics")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}
