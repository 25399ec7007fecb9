// Package resolve finds the IP addresses of the configured names.
//
// It looks up host names, and SRV names with their targets, again and again until it
// is told to stop, and keeps the result. Its rules:
//
//   - A slow name doesn't delay others, and a slow target of a SRV name doesn't delay
//     other targets. An address is used as soon as it is known.
//   - A failed look-up removes nothing. If an answer comes with an error, its
//     addresses are used, and addresses that it lacks stay.
//   - DNS servers rotate and shorten their answers. So an address without a
//     connection is dropped when one good answer lacks it, and an address with a
//     connection when three good answers in a row lack it.
//   - A name is looked up again after the interval, or sooner if that could help.
//     See the constants in name.go.
//   - A name leads to at most 64 addresses, and a SRV name to at most 64 targets.
//     Known ones come first, so a long answer in changing order changes nothing.
//
// # Concurrency
//
// Run starts a goroutine for each name (name.go). Only that goroutine looks up the
// name. It starts one more for each target and waits for them. Run returns when all
// goroutines have ended. Set only asks the goroutine of a name to end. A Resolver that
// continues after its context has ended delays only its own name and Run.
//
// The mutex of Names guards the known addresses. It is never held during a look-up or
// a log call. All methods may be called from any goroutine.
//
// # What it does not know
//
// It doesn't know lookupds or their connections. The caller reports with Connected and
// Disconnected which addresses have a connection. A receive from Changed means that
// the result of Known has changed.
package resolve
