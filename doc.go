// Package lookuploop is the nsqd side of NSQ's discovery for programs that
// aren't nsqd: brokers, proxies, gateways, simulators. A broker tells the
// library what it has; the library keeps every nsqlookupd knowing exactly
// that, so that any NSQ consumer finds the broker.
//
// # Usage
//
// Make a Loop with New, call LoadMetadata if there is a DataPath, and Run it
// in a goroutine. Call Notify where a topic or channel comes or goes, under
// the lock that guards the change. A broker that would rather reconcile than
// notify declares all it has with SetMetadata, as often as it likes.
//
// WaitRegistered returns once the lookupds know everything; Registered tells at
// once whether they do, for readiness probes. TopicChannels asks them which
// channels a new topic has elsewhere, to create them before the first message.
// SetLookupdTCPAddresses swaps addresses while the Loop runs, and Status tells how
// things stand. Verify asks the lookupds what they show consumers, which can
// differ: administrators delete and tombstone topics, for example.
//
// To leave in good order, call Drain, let the clients finish, and end Run's
// context or call Close, which a Loop that was never Run needs to unlock DataPath.
//
// # Options
//
// Only the ports are required, and these only once there is a lookupd address.
// LookupdTCPAddresses says whom to inform, and with ResolveInterval,
// ResolveNetwork and Resolver names among them are looked up again and again.
// BroadcastAddress, BroadcastTCPPort, BroadcastHTTPPort, Hostname,
// Version, TopologyZone and TopologyRegion are what the nsqlookupds, and from
// them consumers and nsqadmin, learn of the broker. DataPath is where nsqd.dat
// lies. HeartbeatInterval, DialTimeout, ResponseTimeout, MinBackoff,
// MaxBackoff and ResyncInterval are the times of the conversation with an
// nsqlookupd, and MaxResponseSize bounds what it may answer. Dial is the place
// for TLS, HTTPClient that for TopicChannels and Verify. Logger and
// OnStateChange tell what happens.
//
// # Guarantees
//
// Once faults stop, every configured nsqlookupd lists the broker as a producer
// of exactly what it has, within one backoff and one round trip (and what the
// lookupd itself needs). Only a name that was refused takes longer: it is tried
// again after MaxBackoff, doubling to 1 h. On the way there:
//
//   - What is sent to an nsqlookupd was true when it was taken from what the
//     broker has, the latest state of a name wins, and a name that flaps costs
//     no more than one that doesn't.
//   - One nsqlookupd that is slow, stuck, gone or hostile costs the others
//     nothing, and the broker neither: Notify waits for neither network nor disk.
//   - An nsqlookupd that answers gets its PING no later than ResponseTimeout
//     after HeartbeatInterval, also amid a sync over a slow line, provided that
//     it carries out 100 commands in that time.
//   - A lost connection is seen at once. The next attempt comes after a pause
//     with full jitter, below 100 ms at first and 5 s at last. A change of the
//     broker cuts it short, once a second at most.
//   - What Notify accepted is on disk when Run or PersistMetadata returns nil.
//     A crash leaves the old nsqd.dat or the new one, never neither.
//   - A name that an nsqlookupd refuses, or at which it closes without a word, is
//     set aside for that nsqlookupd, shown in Status, and tried again later.
//     Everything else goes on: a refusal ends the connection, so names in doubt go
//     over a second one, the probe. In doubt is what lookupd had not acknowledged
//     when it refused something, and what was unanswered when two connections in a
//     row broke amid the same commands. The probe asks about many names at once,
//     and about half as many each time it breaks without an answer. What is
//     acknowledged there goes to the main connection, by itself. A good name that
//     is in doubt waits a few round trips for each refused one that is, too.
//
// TestSimulation shows all of it: it plays random histories of changes, faults
// of lookupds, networks and disks, swaps and restarts, and holds each lookupd
// and nsqd.dat against what they should be. The README names a test for each point.
//
// # What is not guaranteed
//
// All of this is about producers, and about what nsqlookupd makes of it:
//
//   - nsqlookupd keeps the names of topics and channels that nobody has any
//     more, in /topics, /channels and the channels of /lookup, until someone
//     deletes them there. Ephemeral ones it drops when they are unregistered.
//   - A connection that broke without a word stays in nsqlookupd's view until
//     its TCP notices; until then the broker is listed twice. After 300 s
//     without a PING the old entry is hidden.
//   - nsqlookupd tells producers apart by their remote address, so
//     Options.Dial must not fix the local port.
//   - Names in doubt need a second connection. Where something between allows
//     only one, they wait, and Status says why.
//   - A topic that an administrator tombstoned stays hidden for 45 s, unless
//     the broker deletes and creates it. One that was deleted at nsqlookupd
//     while the broker has it stays unknown until the next connection, or the
//     next resync if Options.ResyncInterval is set.
//   - Between a change and its place in nsqd.dat lie about 100 ms, or four
//     times what it takes to write the file if that is more; a crash within
//     loses it unless PersistMetadata had returned.
//
// # Concurrency
//
// All methods of Loop may be called from any goroutine. The order of changes
// is the order of the Notify calls, so a caller's own lock decides it.
//
// There is no limit to the number of topics and channels. Each takes some 160
// bytes, whatever the number of nsqlookupds.
//
// Run does no I/O. It has one goroutine for each nsqlookupd, which connects
// and writes; that has one for each connection, which reads, and a third while
// there is a probe; with a ResolveInterval there is one for each name, which looks
// it up; and with a
// DataPath there is one that writes nsqd.dat. Run returns when all of them
// have. Options.OnStateChange is called from the goroutine of the nsqlookupd
// it is about, with no lock held; it delays that one only, as do a Dial or a
// Logger that block. If one of them panics, the program ends, as with any
// goroutine. A nil context is an error of Run and TopicChannels, and a panic in
// what waits, as in the standard library. With a context that has ended already,
// what waits still returns nil if there is nothing to wait for.
//
// # Errors
//
// Every error begins with "lookuploop: " and says what to mend. ErrClosed,
// ErrInvalidName, ErrUnknown, ErrNotRegistered, ErrNotConnected,
// ErrDataPathLocked, ErrCorruptMetadata and ErrResponseTooLarge are for errors.Is.
// A *ResponseError, for errors.As, is what an nsqlookupd answered. Faults of the
// network are no errors of any call: they are in Status and in the log, and the
// Loop deals with them.
//
// # Testing
//
// Package lookupdtest has an nsqlookupd in memory that can be told to
// misbehave in every way that a real one and its network might, over TCP or
// over a network in memory that works in the virtual time of testing/synctest.
package lookuploop
