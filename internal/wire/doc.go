// Package wire implements one TCP connection to one nsqlookupd. It frames commands and
// answers, keeps many commands in flight, bounds their number and the time for an
// answer, and reports the answers in the order of the commands.
//
// # Rules
//
//   - Answers arrive in the order of the commands. Each REGISTER and UNREGISTER has a
//     tag, which is returned with its answer. PING has none.
//   - The complete answer to the oldest command in flight must arrive within the
//     timeout, which begins when the command is sent or when the previous answer was
//     read. A write may take no longer, even if no answer is due. Time that the
//     library needs itself doesn't count: the clock stops while handle runs, and a
//     late reader first checks whether the answer has arrived.
//   - No answer is longer than the limit. A length that a server only claims uses no
//     memory.
//   - The window of commands in flight grows while answers are in time and shrinks
//     when one is late, so that a PING never waits for long.
//   - The dialed connection must support deadlines. It is closed once. Of a tls.Conn,
//     the inner connection is closed.
//   - An answer other than OK ends the connection. Good answers before it count.
//
// # Goroutines
//
// One goroutine, the writer, calls [Conn.Identify] first and then [Conn.Send]. It
// starts one more for [Conn.ReadAnswers], the reader, and waits for [Conn.Done]. The
// reader waits only for the network and its handle function. So a lookupd that reads
// no commands until its answers are read never blocks. The reader closes the
// connection when it ends. [Conn.Close] may be called from any goroutine.
//
// # What it does not know
//
// What a command means, what an answer to IDENTIFY means, and when to connect, to send
// a PING or to give up. It has no registry and no options.
package wire
