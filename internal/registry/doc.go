// Package registry holds the topics and channels of a broker, and how much of them
// each nsqlookupd knows.
//
// The topics and channels are a compacted log. Each has one entry, at the position of
// its last creation or deletion. Each lookupd has a [Cursor] into the log. A full
// sync, a single change and a resync are all the same: send the entries after the
// cursor.
//
// # Rules
//
//   - A chunk of the log is read under the lock and becomes immutable [Command]
//     values. They are sent after the lock is released. No lock is held during I/O.
//
//   - REGISTER topic channel announces the topic, too. If a live channel of a live
//     topic follows in the same chunk, it is sent at the position of the topic, and
//     nothing is sent at its own.
//
//   - The channels of a deleted topic move before the topic, so that UNREGISTER topic
//     never removes a channel as well.
//
//   - A new connection starts in one critical section, before the first REGISTER. The
//     cursor goes to the beginning of the log. Deletions up to the end of the log are
//     skipped for this connection. Later deletions are kept until the cursor has
//     passed them, but only for names that it has read. So the entries kept for a
//     lookupd are never more than what the broker had at one time, even if it is far
//     behind.
//
//   - An entry that sends nothing is acknowledged with the command before it, or at
//     once if none is in flight. A chunk without commands is progress, because the
//     next one may have some. If a lookupd has nothing in flight and nothing to send,
//     its cursor is at the end of the log.
//
//   - A lookupd may lose a name that it had acknowledged, for example because an
//     administrator deleted it. On request, the main connection announces the name
//     again, if the broker still has it. This doesn't change what is acknowledged.
//
//   - An ephemeral name that was deleted while a lookupd was away is unregistered
//     when it is back, because the lookupd would keep it for ever. If it may refuse
//     the name by now, the probe unregisters it, where a refusal does no harm.
//
//   - The time for which the lock is held doesn't grow with the registry. A snapshot
//     reads the log in pieces; an entry that it has not reached yet is copied before
//     it changes. A declaration compares in pieces, takes effect at one instant, and
//     is carried out in pieces. An operation on a name in between first carries it
//     out for that name.
//
// # Names in doubt
//
// A refusal ends the connection, and with it all registrations. So the main
// connection sends no names that are in doubt or refused. When the lookupd refuses a
// name, all names that it had not acknowledged on that connection are in doubt. When
// two connections in a row end without an answer to the same commands, the names in
// these commands and after them are in doubt. When the main connection reaches a name
// in doubt, it sets it aside. A second connection, the probe, asks about these names,
// and from time to time about refused ones. Names that are acknowledged there are
// sent on the main connection, one command each. A channel is never asked about
// before its topic, because REGISTER topic channel would announce both.
//
// # Concurrency
//
// One mutex guards everything, including the cursors. Two more serialize declarations
// and snapshots; they are locked before it. All are locked only in this package, and
// never while code of the caller runs. All methods may be called from any goroutine.
// The methods about the connection of a cursor are called only by the goroutines of
// its lookupPeer, which keeps them in order.
//
// # What it does not know
//
// Connections, bytes, files, time-outs. It takes the time as an argument where
// it needs one.
package registry
