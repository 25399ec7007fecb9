// Package lookuploop registers a message broker with NSQ's discovery, as nsqd
// does. It is for programs that take nsqd's place: brokers, proxies, gateways,
// simulators. The broker tells the library which topics and channels it has. The
// library keeps every nsqlookupd up to date, so that NSQ consumers find the broker.
//
// # Usage
//
//	loop, err := lookuploop.New(lookuploop.Options{
//		LookupdTCPAddresses: []string{"lookupd.example.com:4160"},
//		BroadcastAddress:    "broker.example.com",
//		BroadcastTCPPort:    4150,
//		BroadcastHTTPPort:   4151,
//	})
//	if err != nil {
//		return err
//	}
//	go loop.Run(context.Background())
//	err = loop.Notify(lookuploop.TopicCreated("orders"))
//	…
//	err = loop.Drain(ctx) // consumers don't find the broker any more
//	err = loop.Close()    // ends Run and returns its error
//
// To announce what the broker has:
//
//   - [Loop.Notify] takes changes. Call it under the lock that guards the change.
//   - [Loop.SetMetadata] takes the complete set and applies the difference.
//   - [Loop.LoadMetadata] restores what was there before a restart. With a DataPath
//     it must be the first call.
//   - [Loop.PersistMetadata] waits until everything is on disk.
//
// To see the result:
//
//   - [Loop.WaitRegistered] waits until the nsqlookupds know everything.
//   - [Loop.Registered] returns at once, for readiness probes.
//   - [Loop.Status] describes the broker, each nsqlookupd and nsqd.dat.
//   - [Loop.Metadata] and [Loop.TopicMetadata] return what the broker has.
//   - [Loop.Verify] compares it with what the nsqlookupds list. They can differ, as
//     administrators delete and tombstone topics. With a VerifyInterval the Loop
//     does so regularly, and announces again what an nsqlookupd lost.
//   - Package statuspage serves the status as a page and as JSON, and package
//     lookupprom exports it to Prometheus.
//
// To work with the nsqlookupds:
//
//   - [Loop.TopicChannels] returns the channels that a topic has at other brokers.
//     Create them before the first message of a new topic.
//   - [Loop.SetLookupdTCPAddresses] replaces the addresses.
//   - [ConfiguredAddress] returns, in Dial, the configured address.
//
// To stop:
//
//   - [Loop.Drain] leaves discovery: new consumers don't find the broker any more.
//     Meanwhile it serves its clients.
//   - [Loop.Close], or the end of the context of [Loop.Run], ends everything.
//
// # Options
//
// Only the ports are required, and only if there is a lookupd address. The fields
// of [Options] by purpose:
//
//   - Which nsqlookupds: LookupdTCPAddresses. To look up names again:
//     ResolveInterval, ResolveNetwork, Resolver.
//   - What they are told of the broker: BroadcastAddress, BroadcastTCPPort,
//     BroadcastHTTPPort, Hostname, Version, TopologyZone, TopologyRegion.
//   - Where nsqd.dat is: DataPath.
//   - When to connect, and when to give up: DialTimeout, ResponseTimeout,
//     MinBackoff, MaxBackoff, HeartbeatInterval.
//   - When to announce everything again: ResyncInterval. When to verify:
//     VerifyInterval.
//   - How to connect, for example with TLS: Dial. For HTTP: HTTPClient.
//   - How long an answer may be: MaxResponseSize.
//   - What to report: Logger, OnStateChange.
//
// # Guarantees
//
// Once faults stop, every configured nsqlookupd lists the broker as a producer
// of exactly the topics and channels that it has. This takes at most one pause of
// MaxBackoff, one round trip, and the time that the nsqlookupd needs. Only a name
// that was refused takes longer: the Loop tries it again after MaxBackoff. The pause
// doubles each time, up to 1 h. While the nsqlookupd refuses all topics, it doubles
// up to 1 min.
//
//   - The latest state of a name wins. The Loop sends a change only if it is still
//     true when the command is prepared. A name that changes often needs no more memory
//     than any other, and its old states are not sent later.
//   - An nsqlookupd that is slow, stuck, down or hostile doesn't delay the others
//     or the broker. Notify waits for neither network nor disk.
//   - An nsqlookupd that carries out at least 100 commands per ResponseTimeout gets
//     a PING every HeartbeatInterval, at most ResponseTimeout late, even during a
//     sync over a slow line.
//   - A lost connection is noticed at once. The next attempt follows after a random
//     pause, below 100 ms at first and 5 s later. A change at the broker ends the
//     pause, at most once a second.
//   - What Notify accepted is on disk when Run or PersistMetadata returns nil.
//     A crash leaves the old nsqd.dat or the new one.
//   - A name that an nsqlookupd refuses is set aside for that nsqlookupd, shown in
//     Status, and tried again later. So is a name at which it closes the connection,
//     gives an unexpected answer or doesn't answer within ResponseTimeout. All other
//     names are registered.
//
// nsqlookupd closes the connection when it refuses a name. So names in doubt are
// sent over a second connection, the probe. When an nsqlookupd refuses a name, all
// names that it has not acknowledged yet are in doubt. If two connections in a row
// end while the same commands are unanswered, the names of these commands are in
// doubt, too. The probe asks about many names at once, and about half as many each
// time it ends without an answer. Names that are acknowledged there are then sent on
// the main connection. A good name in doubt waits three round trips for each refused
// name in doubt: 12 s for 100 of them at 40 ms.
//
// TestSimulation checks all of this with random histories of changes, faults of
// nsqlookupds, networks and disks, new addresses and restarts. TestEveryShortHistory
// plays all short histories of a small registry. The README names a test for each
// point.
//
// # What is not guaranteed
//
// Some things depend on nsqlookupd:
//
//   - It keeps the names of topics and channels that no broker has any more, in
//     /topics, /channels and the channels of /lookup, until someone deletes them
//     there. It drops ephemeral ones when they are unregistered; versions before
//     1.2.0 keep ephemeral topics.
//   - It lists a connection that broke silently until its TCP notices. Until then
//     the broker is listed twice. After 300 s without a PING the old entry is hidden.
//   - It tells producers apart by their remote address, so Dial must not fix the
//     local port.
//   - Names in doubt need a second connection. If something in between allows
//     only one, they wait, and Status says why.
//   - A topic that an administrator tombstoned stays hidden for 45 s. It is listed
//     at once if the broker deletes it, and creates it again after nsqlookupd
//     acknowledged that. A topic that was deleted at nsqlookupd
//     while the broker has it stays unknown until the next connection, the next
//     resync if ResyncInterval is set, or the verification that finds it if
//     VerifyInterval is set.
//
// The tests that play a broker were run against nsqlookupd 1.0.0-compat, 1.1.0,
// 1.2.0, 1.2.1, 1.3.0 and its master of January 2025. NSQLOOKUPD names the binary
// for TestConformanceNSQLookupd.
//
// A change reaches nsqd.dat after about 100 ms, or after four times the duration
// of a write if that is longer. A crash before that loses the change, unless
// PersistMetadata has returned.
//
// # Concurrency
//
// All methods of [Loop] may be called from any goroutine. The order of the Notify
// calls is the order of the changes, so the caller's lock determines it.
//
// There is no limit to the number of topics and channels. Each takes about 160
// bytes, independent of the number of nsqlookupds.
//
// Run does no I/O. It starts these goroutines and returns when all have ended:
//
//   - One for each nsqlookupd, which connects and writes. It has one for each
//     connection, which reads, and another one while there is a probe.
//   - With a ResolveInterval, one for each name, which looks it up.
//   - With a VerifyInterval, one that verifies.
//   - With a DataPath, one that writes nsqd.dat.
//   - At the beginning, one that logs what keeps consumers from the broker, if anything.
//
// OnStateChange is called from the goroutine of its nsqlookupd, with no lock held.
// If it blocks, it delays only that nsqlookupd, and the end of Run. The same is true
// for Dial and Logger. Resolver delays only the look-ups of one name, HTTPClient only
// the call that waits for it, or a verification. A panic in one of them ends the
// program.
//
// With a nil context, Run and TopicChannels return an error, and other methods panic,
// as in the standard library. With a context that has already ended, methods that
// wait return nil if there is nothing to wait for.
//
// # Errors
//
// Every error begins with "lookuploop: " and says what to fix. Use errors.Is with
// [ErrClosed], [ErrInvalidName], [ErrUnknown], [ErrNotRegistered],
// [ErrNotConnected], [ErrDataPathLocked], [ErrCorruptMetadata] and
// [ErrResponseTooLarge], and errors.As with a *[ResponseError], which is an error
// answer of an nsqlookupd. Network faults are not errors of a call: the Loop
// retries, and reports them in Status and in the log.
//
// # Testing
//
// Package lookupdtest is an nsqlookupd in memory that can be told to misbehave. It
// works over TCP, and over a network in memory in the virtual time of
// testing/synctest.
package lookuploop
