// Package statuspage serves the status of a Loop over HTTP: as a page for people,
// and as JSON for programs. It shows each nsqlookupd, the names that are looked up,
// nsqd.dat, and the findings of verifications.
//
//	mux.Handle("/debug/lookuploop", statuspage.Handler(loop))
//	mux.Handle("/ready", statuspage.Ready(loop, 1))
//
// [Handler] shows addresses, names and error texts to everyone who can reach it.
// Serve it where the other debugging pages of the broker are, not to the public.
// [Ready] is for readiness probes, for example those of Kubernetes.
//
// # Requests
//
// Handler answers GET and HEAD on any path. Each answer is a new snapshot and must
// not be cached. The answer is JSON, unless the Accept header names text/html and
// doesn't prefer application/json, as browsers do. It is always JSON with
// ?format=json.
//
// ?topic=orders is about one topic. Use it if consumers don't find the broker for
// that topic. The answer says whether the broker has the topic, which channels it
// has, and for each nsqlookupd whether the topic is registered there. Refused names
// of other topics are left out. If the broker doesn't have the topic, the answer
// contains similar names, unless the broker has more than 100,000 topics and
// channels.
//
// ?topic=orders&verify=1 also calls Loop.Verify, which asks the nsqlookupds over
// HTTP what they list for the topic. This takes a few seconds if there are findings,
// and at most 10 s. Only one such request runs at a time; others wait.
//
// The page lists nsqlookupds with problems first. It reloads every 10 s, but not
// with ?refresh=off or ?verify=1. It needs no scripts and no other files. Its links
// lead to the page itself and to the HTTP API of each nsqlookupd.
//
// # JSON
//
// New fields may be added. Existing fields keep their name and meaning. Every field
// is always present, with these exceptions: fields for ?topic= and ?verify=1 are
// present only with that parameter, and names only if names are looked up. Times are
// RFC 3339 in UTC. Durations are in seconds. Errors are strings. null means that
// something has not happened yet or no longer applies. Texts from an nsqlookupd are
// truncated to 1024 characters.
//
//	{
//	  "time": "2000-01-01T00:00:05Z",              when the snapshot was taken
//	  "broker": {                                  what the nsqlookupds are told about the broker
//	    "broadcast_address": "broker.example.com",
//	    "tcp_port": 4150,
//	    "http_port": 4151,
//	    "hostname": "broker-1",
//	    "version": "1.3.0",
//	    "topology_zone": "",
//	    "topology_region": "",
//	    "started": "2000-01-01T00:00:00Z"          when Run was called; null before
//	  },
//	  "totals": {
//	    "topics": 1,                               number of topics of the broker
//	    "channels": 2,
//	    "lookupds": 1,
//	    "connected": 1,
//	    "complete": 0                              those that are connected, with nothing pending or refused
//	  },
//	  "topic": {                                   with ?topic= only
//	    "name": "orders",
//	    "known": true,                             whether the broker has it
//	    "paused": false,
//	    "channels": [{"name": "mail", "paused": false}, {"name": "ship", "paused": false}],
//	    "similar": [],                             similar names if the topic is unknown, the nearest first
//	    "verification": {                          with ?verify=1 only; see "verification" below
//	      "ended": "2000-01-01T00:00:05Z",
//	      "error": null,
//	      "found": {"topics": 1, "sampled": false, "lookupds": [], "findings": []}
//	    }
//	  },
//	  "lookupds": [{                               in the order of the configured addresses
//	    "address": "10.0.0.7:4160",
//	    "names": ["lookupd.example.com:4160"],     the configured addresses that lead to it
//	    "state": "connected",                      or "connecting", "disconnected"
//	    "since": "2000-01-01T00:00:00Z",           when it entered the state
//	    "complete": false,
//	    "missing_since": "2000-01-01T00:00:00Z",   since when it isn't complete; null if it is
//	    "topic_state": "registered",               with ?topic= only, if the broker has the topic; see below
//	    "pending": 0,                              changes it has not acknowledged
//	    "refused": [{                              the refused names, oldest first
//	      "topic": "orders",
//	      "channel": "ship",                       empty if the topic itself is refused
//	      "command": "REGISTER",
//	      "code": "E_BAD_CHANNEL",
//	      "message": "REGISTER channel name 'ship' is not valid"
//	    }],
//	    "last_error": null,                        why the last connection failed or ended
//	    "resolve_error": null,                     why the last look-up of its name failed
//	    "next_attempt": null,                      earliest time of the next attempt to connect; null unless disconnected
//	    "last_heartbeat": "2000-01-01T00:00:00Z",  time of its last answer to PING or IDENTIFY
//	    "round_trip_seconds": 0.0012,              round-trip time of that answer
//	    "connects": 1,                             number of times that it became connected
//	    "failures": 0,                             number of connections and attempts that failed
//	    "commands": 4,                             number of commands sent
//	    "peer": {                                  what it answered to IDENTIFY
//	      "tcp_port": 4160,
//	      "http_port": 4161,
//	      "version": "1.3.0",
//	      "hostname": "a",
//	      "broadcast_address": "lookupd.example.com"
//	    }
//	  }],
//	  "names": [{                                  the names that are looked up, in the configured order
//	    "name": "lookupd.example.com:4160",
//	    "addresses": ["10.0.0.7:4160"],            the nsqlookupds that it leads to
//	    "error": null,                             why the last look-up failed or partly failed
//	    "looked_up": "2000-01-01T00:00:00Z",       when the last look-up ended
//	    "next_lookup": "2000-01-01T00:05:00Z"      start of the next look-up; null during one
//	  }],
//	  "metadata": {                                null without a DataPath
//	    "path": "/var/lib/broker/nsqd.dat",
//	    "dirty": false,                            whether there are changes that aren't on disk yet
//	    "last_write": "2000-01-01T00:00:00Z",      time of the last successful write
//	    "last_error": null,                        error of the last write
//	    "writes": 1,                               number of successful writes
//	    "failures": 0                              number of failed writes
//	  },
//	  "verification": {                            null without a VerifyInterval
//	    "ended": "2000-01-01T00:00:00Z",           when the last verification ended
//	    "error": null,                             why it failed
//	    "announced": 0,                            number of topics announced again, counted for each nsqlookupd
//	    "found": {                                 result of the last one that didn't fail; null before the first
//	      "topics": 1,                             number of topics that were checked
//	      "sampled": false,                        whether they are a random sample
//	      "lookupds": [{
//	        "address": "10.0.0.7:4160",
//	        "http_address": "lookupd.example.com:4161",
//	        "pending": 0                           if it is above 0, topics weren't compared; also "error" if it couldn't be asked
//	      }],
//	      "findings": [{                           also "channel" and "detail" if they apply
//	        "kind": "tombstoned",
//	        "lookupd": "10.0.0.7:4160",            missing if it is about the broadcast address
//	        "topic": "orders",                     missing if it is about all topics
//	        "advice": "wait"
//	      }]
//	    }
//	  }
//	}
//
// topic_state is one of:
//
//   - "registered": the nsqlookupd acknowledged the topic.
//   - "pending": it has not acknowledged all changes, so the topic may be missing.
//   - "refused": it refused the topic itself.
//   - "not connected": there is no connection to it.
package statuspage
