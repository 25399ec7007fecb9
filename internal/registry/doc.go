// Package registry holds what a broker has, and how far each nsqlookupd has
// come in hearing of it.
//
// What the broker has is a compacted log. Each topic and each channel has one
// entry in it, at the place of its last creation or deletion. A lookupd is a
// [Cursor] into the log: a full sync, a single change and a resync are all "say
// what lies behind the cursor".
//
// # Rules
//
//   - A chunk of the log is read under one lock and becomes [Command] values,
//     which nothing changes any more. They are written outside of the lock. No
//     lock is held across I/O.
//
//   - REGISTER topic channel announces the topic too. If a live channel of a live
//     topic follows in the same chunk, it goes at the topic's place and nothing at
//     its own.
//
//   - A deleted topic's channels move before the topic, so that UNREGISTER topic
//     never takes a channel along.
//
//   - To connect is one critical section, before the first REGISTER: the cursor
//     goes to the beginning, deletions up to the log's end mean nothing to this
//     connection, and later ones are kept until it has passed them, provided that
//     it has read of the name before. So what is kept for a lookupd, however far
//     it lags, is never more than what the broker had at one time.
//
//   - What sends nothing is acknowledged with the command before it, or at once if
//     none is in flight. A chunk that says nothing is progress: the next one may
//     say something. A lookupd that waits with nothing in flight is at the log's
//     end.
//
//   - What a lookupd lost although it had acknowledged it, to an administrator
//     say, the main connection says again when it is asked to. That changes nothing
//     of what is acknowledged, and it is said only as long as it is so.
//
//   - An ephemeral name that was deleted while a lookupd was away is unregistered
//     when it is back, because it would keep the name for ever otherwise. A name
//     that it may refuse by now is unregistered on the probe, where a refusal
//     costs nothing.
//
//   - No hold of the lock grows with the registry. A snapshot walks over the log in
//     pieces, and what it has not reached is kept as it was before it changes. A
//     declaration compares in pieces, comes into force at one instant, and is
//     carried out in pieces; whoever comes to a name in between carries it out for
//     that name first.
//
// # Names in doubt
//
// A refusal ends the connection, and with it all registrations. So the main
// connection carries only names that the lookupd is not known to dislike. When it
// refused one, all that it hadn't acknowledged on that connection is in doubt.
// When two connections in a row broke without a word amid the same commands, these
// are, and what comes behind them. Names in doubt are set aside when the main
// connection comes to their place, and asked about on a second connection, the
// probe, as are some of the refused ones from time to time. What is acknowledged
// there goes to the main connection, by itself. A channel is never ahead of its
// topic in this: REGISTER topic channel would announce both.
//
// # Concurrency
//
// One mutex guards everything, the cursors included; two more keep declarations
// and snapshots apart and are locked before it. They are locked in this
// package only, and never while anything of the caller's runs. All methods may
// be called from any goroutine; the calls about one cursor's connection come
// from the goroutines of its lookupPeer alone, which keeps their order.
//
// # What it does not know
//
// Connections, bytes, files, time-outs. It takes the time as an argument where
// it needs one.
package registry
