// Package lookupprom exports the status of a Loop to Prometheus. It has metrics of
// the broker, of each nsqlookupd, of the names that are looked up, of verifications
// and of nsqd.dat.
//
//	prometheus.MustRegister(lookupprom.NewCollector(loop))
//
// It is a module of its own, so that the library doesn't depend on the Prometheus
// client. To use it from a clone, your go.mod needs a replace for both modules,
// github.com/lookuploop/lookuploop and github.com/lookuploop/lookuploop/lookupprom,
// because Go ignores the replace in the go.mod of a dependency. To read this
// documentation in a clone: cd lookupprom && go doc -all .
//
// # Metrics
//
// Of the broker:
//
//	lookuploop_broker_info  gauge  always 1; labels broadcast_address, tcp_port, http_port, hostname, version, zone, region
//	lookuploop_topics       gauge  number of topics
//	lookuploop_channels     gauge  number of channels of all topics
//
// Of each nsqlookupd, with the label lookupd, which is LookupdStatus.Address:
//
//	lookuploop_lookupd_state                             gauge    1 for the current state, 0 for the others; label state: disconnected, connecting or connected
//	lookuploop_lookupd_state_since_timestamp_seconds     gauge    when it entered that state
//	lookuploop_lookupd_missing_since_timestamp_seconds   gauge    since when it doesn't know everything; 0 if it does
//	lookuploop_lookupd_pending_changes                   gauge    changes that it has not acknowledged; all topics and channels while it is not connected
//	lookuploop_lookupd_refused_names                     gauge    topics and channels that it refused
//	lookuploop_lookupd_last_heartbeat_timestamp_seconds  gauge    time of its last answer to PING or IDENTIFY; 0 if there is none
//	lookuploop_lookupd_round_trip_seconds                gauge    round-trip time of that answer; missing before the first
//	lookuploop_lookupd_connects_total                    counter  connections that became connected
//	lookuploop_lookupd_failures_total                    counter  connections and attempts that ended with an error
//	lookuploop_lookupd_commands_total                    counter  commands sent, including IDENTIFY and PING
//
// Of each name that is looked up, with the label name, which is the configured
// address:
//
//	lookuploop_name_addresses                      gauge  addresses of nsqlookupds that it leads to
//	lookuploop_name_lookup_failed                  gauge  1 if the last look-up failed or partly failed
//	lookuploop_name_last_lookup_timestamp_seconds  gauge  when the last look-up ended; 0 before the first
//	lookuploop_name_next_lookup_timestamp_seconds  gauge  when the next look-up starts; 0 during a look-up
//
// Of verifications, if there is a VerifyInterval:
//
//	lookuploop_verification_last_timestamp_seconds   gauge    when the last verification ended; 0 before the first
//	lookuploop_verification_failed                   gauge    1 if the last verification could ask no nsqlookupd
//	lookuploop_verification_findings                 gauge    findings of the last verification that had an nsqlookupd to ask; label kind: each FindingKind
//	lookuploop_verification_announced_topics_total   counter  topics announced again because an nsqlookupd had lost them, counted for each nsqlookupd
//
// Of nsqd.dat, if there is a DataPath:
//
//	lookuploop_metadata_dirty                         gauge    1 while there are changes that aren't on disk yet
//	lookuploop_metadata_last_write_timestamp_seconds  gauge    time of the last successful write; 0 if there was none since the start
//	lookuploop_metadata_writes_total                  counter  successful writes
//	lookuploop_metadata_write_failures_total          counter  failed writes
//
// To have the name of the broker in an alert, join lookuploop_broker_info with the
// other metrics.
//
// Data from the network appears only in values, never in labels. An nsqlookupd whose
// address was removed is missing from the next scrape. If it is added again, its
// counters start at 0.
//
// # Alerts and dashboard
//
// The directory of this package also has rules.yml, with alerts for Prometheus, and
// dashboard.json, a dashboard to import into Grafana. There are alerts for:
//
//   - a broker that is connected to no nsqlookupd
//   - an nsqlookupd that is not connected, or doesn't know everything, for minutes
//   - refused names
//   - a name that leads to no nsqlookupd
//   - findings of verifications
//   - an nsqd.dat that can't be written
package lookupprom
