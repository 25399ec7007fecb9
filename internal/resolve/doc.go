// Package resolve looks up the names that stand for nsqlookupds: host:port, or
// an SRV name such as _lookupd._tcp.example.com.
//
// # Rules
//
//   - Each address of a name is a lookupd of its own. [Lookup] returns IP address
//     and port of each, sorted and each once.
//   - A name without addresses is an error. So is one host behind an SRV name that
//     can't be resolved: half of an answer would cost the other half its
//     connection.
//   - One name gets 5 s, the hosts behind it included.
//
// # Goroutines
//
// The package starts none and keeps nothing. Everything may be called from any
// goroutine. Lookup ends no sooner than its [Resolver].
//
// # What it does not know
//
// When to look up, what was known before, and what is done with the addresses.
package resolve
