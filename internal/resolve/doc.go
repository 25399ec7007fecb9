// Package resolve knows to which IP addresses the configured names lead.
//
// It looks up host names, and SRV names with their targets, until it is told
// to stop, and keeps what it learned. Its rules:
//
//   - Nobody waits for a slow name, nor a target of a SRV name for another one:
//     an address counts from the moment it is learned.
//   - A failure takes nothing away. Of an answer that comes with an error, the
//     good part is used, and what is not in it stays.
//   - DNS servers rotate and shorten their answers. So an address without a
//     connection is dropped by the first good answer that lacks it, and one with
//     a connection by the third in a row.
//   - A name is looked up again after the interval; sooner while that could
//     help. See the constants in name.go.
//   - A name leads to at most 64 addresses, and a SRV name to as many targets.
//     Those that are known come first, so that a long answer in changing order
//     changes nothing.
//
// # Concurrency
//
// Run starts a goroutine for each name (name.go). It alone looks the name up,
// with one more goroutine for each target, and waits for these. Run returns
// when all have ended; Set only asks the goroutine of a name to end. A Resolver
// that goes on after its context has ended holds up its own name and Run, and
// nobody else.
//
// The mutex of Names guards what is known. It is never held during a look-up or
// a log call, and all methods may be called from any goroutine.
//
// # What it does not know
//
// It doesn't know lookupds or their connections. Connected and Disconnected tell
// it which addresses have one, and a receive from Changed says that Known has news.
package resolve
