// Package wire is one TCP connection to one nsqlookupd. It frames commands and
// answers, keeps many commands in flight, bounds what waits and how long, and
// hands on the answers in the order of the commands.
//
// # Rules
//
//   - Answers come in the order of the commands. A tag travels with each
//     REGISTER and UNREGISTER and comes back with its answer; PING has none.
//   - The oldest command in flight must be answered, whole, within the timeout,
//     which begins when it is sent or when the answer before it was read. A write
//     may take no longer, though no answer is due. Time that we take ourselves
//     never counts: while handle runs the clock stands, and a reader that comes
//     late looks whether the answer has arrived.
//   - No answer is longer than the limit. A length that a server only claims
//     costs no memory.
//   - The window of commands in flight grows while answers come in time and
//     shrinks when one is late, so that a PING never waits for long.
//   - The connection that was dialed must support deadlines, and is the one that is
//     closed, once. Of a tls.Conn the connection inside is closed.
//   - An answer that isn't OK ends the connection. Good answers before it count.
//
// # Goroutines
//
// One goroutine, the writer, calls [Conn.Identify] first and [Conn.Send] from
// then on. It starts one more for [Conn.ReadAnswers], the reader, and waits for
// [Conn.Done]. The reader waits for nothing but the network and its handle
// function, so a lookupd that must get rid of its answers before it reads on
// always can. The reader closes the connection when it ends; [Conn.Close] may be
// called by anyone.
//
// # What it does not know
//
// What a command is about beyond its text, what an answer to IDENTIFY means, when
// to connect, to send a PING or to give up. It has no registry and no options.
package wire
