// Package lookupprom exports to Prometheus what a Loop knows of its
// nsqlookupds and of nsqd.dat. It is a module of its own, so that the library
// doesn't depend on Prometheus' client.
//
//	prometheus.MustRegister(lookupprom.NewCollector(loop))
//
// # Metrics
//
// Of the broker:
//
//	lookuploop_broker_info  gauge  1; labels broadcast_address, tcp_port, http_port, hostname, version, zone, region
//	lookuploop_topics       gauge  topics that the broker has
//	lookuploop_channels     gauge  channels that it has, in all topics together
//
// Of each nsqlookupd, with the label lookupd, which is LookupdStatus.Address:
//
//	lookuploop_lookupd_state                             gauge    1 for the state that it is in, 0 for the others; label state: disconnected, connecting or connected
//	lookuploop_lookupd_state_since_timestamp_seconds     gauge    when it entered that state
//	lookuploop_lookupd_missing_since_timestamp_seconds   gauge    since when it doesn't know everything; 0: it does
//	lookuploop_lookupd_pending_changes                   gauge    changes that it has not acknowledged; all topics and channels while it is not connected
//	lookuploop_lookupd_refused_names                     gauge    topics and channels that it refuses
//	lookuploop_lookupd_last_heartbeat_timestamp_seconds  gauge    when it last answered a PING or IDENTIFY; 0: never
//	lookuploop_lookupd_round_trip_seconds                gauge    how long that answer took; missing before the first
//	lookuploop_lookupd_connects_total                    counter  connections that came as far as connected
//	lookuploop_lookupd_failures_total                    counter  connections and attempts that ended with an error
//	lookuploop_lookupd_commands_total                    counter  commands sent, IDENTIFY and PING included
//
// Of each name that is looked up, with the label name, as it was configured:
//
//	lookuploop_name_addresses                      gauge  addresses of nsqlookupds that it leads to
//	lookuploop_name_lookup_failed                  gauge  1 if the last look-up failed, wholly or in part
//	lookuploop_name_last_lookup_timestamp_seconds  gauge  when the last look-up ended; 0: none has
//	lookuploop_name_next_lookup_timestamp_seconds  gauge  when it is looked up next; 0: a look-up is going on
//
// Of what consumers are shown, if there is a VerifyInterval:
//
//	lookuploop_verification_last_timestamp_seconds   gauge    when the last verification ended; 0: none has
//	lookuploop_verification_failed                   gauge    1 if no nsqlookupd could be asked in it
//	lookuploop_verification_findings                 gauge    what it found, or the last one that didn't fail; label kind: each FindingKind
//	lookuploop_verification_announced_topics_total   counter  topics announced again to an nsqlookupd that had lost them
//
// Of nsqd.dat, if there is a DataPath:
//
//	lookuploop_metadata_dirty                         gauge    1 while something isn't on disk yet
//	lookuploop_metadata_last_write_timestamp_seconds  gauge    when it was last written; 0: not since the start
//	lookuploop_metadata_writes_total                  counter  writes that succeeded
//	lookuploop_metadata_write_failures_total          counter  writes that failed
//
// Join lookuploop_broker_info to the others to have the broker's name in an alert.
//
// What comes from the network is in values only, never in a label. An
// nsqlookupd that is configured no more is gone from the next scrape;
// its counters start at 0 if it comes back.
//
// # Alerts and a dashboard
//
// Beside this file, rules.yml has alerts for Prometheus: a broker that no
// nsqlookupd knows, an nsqlookupd that isn't connected or has lacked something for
// minutes, refused names, a name that leads nowhere, consumers that are shown
// something else than the broker has, and an nsqd.dat that isn't written. dashboard.json is a dashboard for Grafana; import it there.
package lookupprom
