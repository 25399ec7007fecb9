// Package listing asks nsqlookupds what they list, as consumers and nsqadmin do,
// and compares it with what a broker has.
//
// # What it is for
//
// A broker knows what its lookupds acknowledged. What a consumer finds can
// differ from it: an administrator deleted or tombstoned a topic, an old
// connection is still listed, another broker announces the same address. The
// only way to know is to ask.
//
// # Rules
//
//   - A Client only reads. It changes nothing at a lookupd or a broker.
//   - An answer is bounded in bytes, and its texts are clipped and free of
//     control characters before anyone sees them. How long an answer may take
//     is up to the http.Client and the context.
//   - Compare and Differences are pure functions of what was asked before.
//   - One look can't tell a fault from a change that is under way. Look twice,
//     some time apart, and keep what Confirm returns.
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
// Where the broker's topics come from (nsqd's /stats or a registry), who the
// lookupds are, TCP connections to them, and when to look.
package listing
