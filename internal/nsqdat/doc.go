// Package nsqdat reads and writes nsqd.dat, the file that holds the topics and
// channels of a broker across restarts. nsqd v1 can read and write it, too.
//
// [Open] locks a directory and returns its [File]. The file is loaded once, and each
// write replaces it as a whole. A [Writer] keeps the file up to date with a [Source].
//
// # Rules
//
//   - After a crash, the file is the old or the new one. Once a write has returned
//     nil, it is the new one.
//   - A file that can't be parsed is left unchanged.
//   - The directory has one user at a time. It is locked as nsqd locks it. The
//     package reads and writes only in the directory that it locked, even if that is
//     renamed or the working directory changes.
//   - A burst of changes causes a few writes, and a caller that changes something
//     never waits for the disk. Writing takes at most a quarter of the time, unless
//     a caller waits for it.
//   - Items are streamed to disk. A file that a Writer or nsqd wrote is parsed by
//     this package; encoding/json parses any other.
//
// # Goroutines
//
// The package starts none. A File is used by one goroutine at a time: first by the
// one that opens and loads it, then by a Writer. The Writer writes in the goroutine
// of [Writer.Run], and before Run in the one that calls [Writer.Persist]. All other
// methods of a Writer may be called from any goroutine.
//
// # What it does not know
//
// Where the topics come from, why they change, and that there are lookupds. [Disk]
// stands for the file system, so that tests can make each step fail: package
// nsqdattest has a Disk in memory.
package nsqdat
