// Package statuspage shows over HTTP what a Loop knows of its nsqlookupds and
// of nsqd.dat: as a page for people, and as JSON for programs.
//
//	mux.Handle("/debug/lookuploop", statuspage.Handler(loop))
//
// It shows addresses, names and error texts to whoever may ask, so mount it
// where the broker's other debugging pages are.
//
// [Ready] is a handler for readiness probes, of Kubernetes for example.
//
// # Requests
//
// GET and HEAD are answered, on any path. The answer is JSON, unless the
// request's Accept names text/html and doesn't prefer application/json, as
// browsers do, or unless the address has ?format=json. Nothing may be cached, and
// a new snapshot is taken each time.
//
// ?topic=orders asks why consumers don't find the broker by that topic. The
// answer says whether the broker has the topic and with which channels, and
// for each nsqlookupd whether it lists the topic; refused names are those of
// the topic only. If the broker has no such topic, those of its topics that are
// called similarly are named, unless it has more than 100,000 topics and channels.
//
// ?topic=orders&verify=1 asks the nsqlookupds themselves by HTTP what they show of
// the topic, with Loop.Verify. That takes some seconds if something is wrong, and
// 10 s at most; one such request is carried out at a time.
//
// The page shows nsqlookupds in trouble first. It loads itself again every 10 s,
// until ?refresh=off, and not with ?verify=1. It needs neither scripts nor other
// files. Its links lead to itself, and to what each nsqlookupd lists by HTTP.
//
// # JSON
//
// Fields may be added; those that are there keep name and meaning. All are
// always present, but for those that answer to ?topic= and ?verify=1, and for names, which
// are there with a ResolveInterval if there are any. Times are RFC 3339
// in UTC, durations are in seconds, errors are texts, and null stands for what
// has not happened, or is over. Texts of nsqlookupds are cut after 1024 characters.
//
//	{
//	  "time": "2000-01-01T00:00:05Z",              when the snapshot was taken
//	  "broker": {                                  what the nsqlookupds are told of it
//	    "broadcast_address": "broker.example.com",
//	    "tcp_port": 4150,
//	    "http_port": 4151,
//	    "hostname": "broker-1",
//	    "version": "1.3.0",
//	    "topology_zone": "",
//	    "topology_region": "",
//	    "started": "2000-01-01T00:00:00Z"          null before Run
//	  },
//	  "totals": {
//	    "topics": 1,                               that the broker has
//	    "channels": 2,
//	    "lookupds": 1,
//	    "connected": 1,
//	    "complete": 0                              connected, nothing pending, nothing refused
//	  },
//	  "topic": {                                   with ?topic= only
//	    "name": "orders",
//	    "known": true,                             the broker has it
//	    "paused": false,
//	    "channels": [{"name": "mail", "paused": false}, {"name": "ship", "paused": false}],
//	    "similar": [],                             without such a topic: names that are like it, the nearest first
//	    "verification": {                          with ?verify=1 only; as "verification" below
//	      "ended": "2000-01-01T00:00:05Z",
//	      "error": null,
//	      "found": {"topics": 1, "sampled": false, "lookupds": [], "findings": []}
//	    }
//	  },
//	  "lookupds": [{                               in the order of the configured addresses
//	    "address": "10.0.0.7:4160",
//	    "names": ["lookupd.example.com:4160"],     the configured addresses that led there
//	    "state": "connected",                      or "connecting", "disconnected"
//	    "since": "2000-01-01T00:00:00Z",           when it entered the state
//	    "complete": false,
//	    "missing_since": "2000-01-01T00:00:00Z",   since when it isn't complete
//	    "topic_state": "registered",               with ?topic= only, of a topic that is known; see below
//	    "pending": 0,                              changes it has not acknowledged
//	    "refused": [{                              names that it refused, oldest first
//	      "topic": "orders",
//	      "channel": "ship",                       empty when the topic itself is refused
//	      "command": "REGISTER",
//	      "code": "E_BAD_CHANNEL",
//	      "message": "REGISTER channel name 'ship' is not valid"
//	    }],
//	    "last_error": null,                        why the last connection failed or ended
//	    "resolve_error": null,                     why its name could not be looked up again
//	    "next_attempt": null,                      when it will be connected to, not before
//	    "last_heartbeat": "2000-01-01T00:00:00Z",  when it last answered a PING or IDENTIFY
//	    "round_trip_seconds": 0.0012,              how long that took
//	    "connects": 1,                             connections that came as far as connected
//	    "failures": 0,                             connections and attempts that failed
//	    "commands": 4,                             commands sent
//	    "peer": {                                  what it says of itself
//	      "tcp_port": 4160,
//	      "http_port": 4161,
//	      "version": "1.3.0",
//	      "hostname": "a",
//	      "broadcast_address": "lookupd.example.com"
//	    }
//	  }],
//	  "names": [{                                  that are looked up, in the order of the configured addresses
//	    "name": "lookupd.example.com:4160",
//	    "addresses": ["10.0.0.7:4160"],            lookupds that it leads to
//	    "error": null,                             why the last look-up failed, wholly or in part
//	    "looked_up": "2000-01-01T00:00:00Z",       when the last look-up ended
//	    "next_lookup": "2000-01-01T00:05:00Z"      null while one is going on
//	  }],
//	  "metadata": {                                null without a DataPath
//	    "path": "/var/lib/broker/nsqd.dat",
//	    "dirty": false,                            something isn't on disk yet
//	    "last_write": "2000-01-01T00:00:00Z",      that succeeded
//	    "last_error": null,                        of the last write
//	    "writes": 1,                               that succeeded
//	    "failures": 0
//	  },
//	  "verification": {                            null without a VerifyInterval
//	    "ended": "2000-01-01T00:00:00Z",           when the last one did
//	    "error": null,                             why nobody could be asked in it
//	    "announced": 0,                            topics announced again to lookupds that had lost them
//	    "found": {                                 by the last one that didn't fail; null if none has ended
//	      "topics": 1,                             that the lookupds were asked about
//	      "sampled": false,                        the broker has more
//	      "lookupds": [{
//	        "address": "10.0.0.7:4160",
//	        "http_address": "lookupd.example.com:4161",
//	        "pending": 0                           if there are changes pending, topics weren't compared; there is an "error" if it couldn't be asked
//	      }],
//	      "findings": [{                           with "channel" and "detail" if there are such
//	        "kind": "tombstoned",
//	        "lookupd": "10.0.0.7:4160",            missing when it is about the broadcast address
//	        "topic": "orders",                     missing when it is about all topics
//	        "advice": "wait"
//	      }]
//	    }
//	  }
//	}
//
// topic_state is "refused" (the topic itself), "not connected", "pending" (it
// has not acknowledged all changes, so it may or may not list the topic yet)
// or "registered".
package statuspage
