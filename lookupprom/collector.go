package lookupprom

import (
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lookuploop/lookuploop"
)

// Loop is what the collector reads. *lookuploop.Loop implements it; tests may use a
// fake.
type Loop interface {
	Status() lookuploop.Status
}

// NewCollector returns a collector for the metrics of loop. The package
// documentation lists them. Each scrape takes one snapshot. Scrapes may be
// concurrent, and may happen before, during and after the Run of the Loop.
//
// If there are several Loops in one process, add a label to tell them apart. All of
// them need it:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"broker": "a"}, registry).MustRegister(lookupprom.NewCollector(loop))
func NewCollector(loop Loop) prometheus.Collector { return collector{loop} }

type collector struct{ loop Loop }

// metric is one of the documented names.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

var (
	broker   = gauge("lookuploop_broker_info", "Always 1. The labels are what the nsqlookupds are told about the broker.", "broadcast_address", "tcp_port", "http_port", "hostname", "version", "zone", "region")
	topics   = gauge("lookuploop_topics", "Number of topics of the broker.")
	channels = gauge("lookuploop_channels", "Number of channels of all topics of the broker.")

	state         = gauge("lookuploop_lookupd_state", "1 for the current state of the connection to the nsqlookupd, 0 for the other states.", "lookupd", "state")
	stateSince    = gauge("lookuploop_lookupd_state_since_timestamp_seconds", "When the connection to the nsqlookupd entered its state.", "lookupd")
	missingSince  = gauge("lookuploop_lookupd_missing_since_timestamp_seconds", "Since when the nsqlookupd doesn't know everything that the broker has; 0 means that it does.", "lookupd")
	pending       = gauge("lookuploop_lookupd_pending_changes", "Changes that the nsqlookupd has not acknowledged; all topics and channels while it is not connected.", "lookupd")
	refused       = gauge("lookuploop_lookupd_refused_names", "Topics and channels that the nsqlookupd refused.", "lookupd")
	lastHeartbeat = gauge("lookuploop_lookupd_last_heartbeat_timestamp_seconds", "When the nsqlookupd last answered a PING or IDENTIFY; 0 means never.", "lookupd")
	roundTrip     = gauge("lookuploop_lookupd_round_trip_seconds", "Round-trip time of the last answer to PING or IDENTIFY.", "lookupd")
	connects      = counter("lookuploop_lookupd_connects_total", "Connections to the nsqlookupd that became connected.", "lookupd")
	failures      = counter("lookuploop_lookupd_failures_total", "Connections and attempts to connect to the nsqlookupd that ended with an error.", "lookupd")
	commands      = counter("lookuploop_lookupd_commands_total", "Commands sent to the nsqlookupd, including IDENTIFY and PING.", "lookupd")

	nameAddresses = gauge("lookuploop_name_addresses", "Addresses of nsqlookupds that the name leads to.", "name")
	nameFailed    = gauge("lookuploop_name_lookup_failed", "1 if the last look-up of the name failed or partly failed.", "name")
	nameLookedUp  = gauge("lookuploop_name_last_lookup_timestamp_seconds", "When the last look-up of the name ended; 0 means never.", "name")
	nameNext      = gauge("lookuploop_name_next_lookup_timestamp_seconds", "When the next look-up of the name starts; 0 during a look-up.", "name")

	verified        = gauge("lookuploop_verification_last_timestamp_seconds", "When the last verification ended; 0 means never.")
	verifyFailed    = gauge("lookuploop_verification_failed", "1 if the last verification could ask no nsqlookupd.")
	findings        = gauge("lookuploop_verification_findings", "Findings of the last verification that had an nsqlookupd to ask, by kind.", "kind")
	announcedTopics = counter("lookuploop_verification_announced_topics_total", "Topics announced again because an nsqlookupd had lost them, counted for each nsqlookupd.")

	dirty         = gauge("lookuploop_metadata_dirty", "1 while there are changes that aren't in nsqd.dat yet.")
	lastWrite     = gauge("lookuploop_metadata_last_write_timestamp_seconds", "When nsqd.dat was last written successfully; 0 means not since the start.")
	writes        = counter("lookuploop_metadata_writes_total", "Successful writes of nsqd.dat.")
	writeFailures = counter("lookuploop_metadata_write_failures_total", "Failed writes of nsqd.dat.")
)

var all = []metric{
	broker, topics, channels,
	state, stateSince, missingSince, pending, refused, lastHeartbeat, roundTrip, connects, failures, commands,
	nameAddresses, nameFailed, nameLookedUp, nameNext,
	verified, verifyFailed, findings, announcedTopics,
	dirty, lastWrite, writes, writeFailures,
}

var findingKinds = []lookuploop.FindingKind{
	lookuploop.NotListed, lookuploop.Tombstoned, lookuploop.ListedTwice, lookuploop.ListedElsewhere, lookuploop.OtherVersion,
	lookuploop.AddressShared, lookuploop.ChannelMissing, lookuploop.Stale, lookuploop.NotResolvable, lookuploop.NotReachable,
}

var states = []lookuploop.State{lookuploop.Disconnected, lookuploop.Connecting, lookuploop.Connected}

// Describe names the metrics, whether or not a scrape has each of them.
func (collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range all {
		descs <- m.desc
	}
}

// Collect takes a snapshot.
func (c collector) Collect(out chan<- prometheus.Metric) {
	send := func(m metric, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
	}
	status := c.loop.Status()
	b := status.Broker
	send(broker, 1, label(b.BroadcastAddress), strconv.Itoa(b.BroadcastTCPPort), strconv.Itoa(b.BroadcastHTTPPort),
		label(b.Hostname), label(b.Version), label(b.TopologyZone), label(b.TopologyRegion))
	send(topics, float64(status.Topics))
	send(channels, float64(status.Channels))
	for _, l := range status.Lookupds {
		lookupd := label(l.Address)
		for _, s := range states {
			send(state, truth(l.State == s), lookupd, s.String())
		}
		send(stateSince, timestamp(l.Since), lookupd)
		send(missingSince, timestamp(l.MissingSince), lookupd)
		send(pending, float64(l.Pending), lookupd)
		send(refused, float64(len(l.Refused)), lookupd)
		send(lastHeartbeat, timestamp(l.LastHeartbeat), lookupd)
		if !l.LastHeartbeat.IsZero() {
			send(roundTrip, l.RTT.Seconds(), lookupd)
		}
		send(connects, float64(l.Connects), lookupd)
		send(failures, float64(l.Failures), lookupd)
		send(commands, float64(l.Commands), lookupd)
	}
	for _, n := range status.Names {
		name := label(n.Name)
		send(nameAddresses, float64(len(n.Addresses)), name)
		send(nameFailed, truth(n.Error != nil), name)
		send(nameLookedUp, timestamp(n.LookedUp), name)
		send(nameNext, timestamp(n.NextLookup), name)
	}
	if v := status.Verification; v.Interval > 0 {
		send(verified, timestamp(v.Ended))
		send(verifyFailed, truth(v.Error != nil))
		found := make(map[lookuploop.FindingKind]int)
		for _, f := range v.Found.Findings {
			found[f.Kind]++
		}
		for _, kind := range findingKinds {
			send(findings, float64(found[kind]), string(kind))
		}
		send(announcedTopics, float64(v.Announced))
	}
	if m := status.Metadata; m.Path != "" {
		send(dirty, truth(m.Dirty))
		send(lastWrite, timestamp(m.LastWrite))
		send(writes, float64(m.Writes))
		send(writeFailures, float64(m.Failures))
	}
}

// label is s as a label may have it.
func label(s string) string { return strings.ToValidUTF8(s, "�") }

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// timestamp is t as Prometheus wants it; 0 for never.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}
