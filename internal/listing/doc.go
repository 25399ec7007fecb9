// Package listing asks nsqlookupds what they list, as consumers and nsqadmin do,
// and compares it with what a broker has.
//
// # What it is for
//
// A broker knows what its lookupds acknowledged. What a consumer finds can
// differ from it: an administrator deleted or tombstoned a topic, an old
// connection is still listed, another broker announces the same address. The
// only way to find out is to ask.
//
// # Rules
//
//   - A Client only reads. It changes nothing at a lookupd or a broker.
//   - An answer is bounded in bytes. Its texts are truncated, and control characters
//     are removed, before they are returned. The http.Client and the context bound
//     the time.
//   - Compare, CompareSteady and Differences are pure functions of the answers.
//   - One look can't tell a fault from a change in progress. Look twice, some time
//     apart, and keep what Confirm returns.
//
// # Formats
//
// The formats are those of nsqlookupd and nsqd 1.0.0-compat to 1.3.0. Versions
// down to 0.3 use them too when the Accept header asks for them, which it does.
//
// # Goroutines
//
// A Client has none of its own. Parallel starts some and returns when all have
// ended; Lookups uses it.
//
// # What it does not know
//
// Where the topics of the broker come from (/stats of nsqd, or a registry), which
// lookupds there are, their TCP connections, and when to look.
package listing
