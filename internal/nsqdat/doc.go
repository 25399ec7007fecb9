// Package nsqdat keeps nsqd.dat, the file in which a broker finds its topics
// and channels again after a restart. nsqd v1 can read and write it too.
//
// [Open] locks a directory and gives its [File], which is loaded once and
// replaced as a whole with each write. A [Writer] keeps the file up to date
// with a [Source].
//
// # Rules
//
//   - Whenever the machine stops, the file is the old or the new one. Once a
//     write has returned nil, it is the new one.
//   - A file that can't be parsed is left as it is.
//   - The directory has one user at a time: it is locked as nsqd locks it. What
//     is locked is what is read and written, whatever happens to its name or to
//     the working directory.
//   - A burst of changes costs a few writes, and nobody who changes something
//     waits for the disk. Writing takes at most a quarter of the time, unless
//     somebody waits for it.
//   - What goes to disk is streamed, item by item. A file that a Writer or nsqd
//     wrote is read without encoding/json, which reads any other.
//
// # Goroutines
//
// The package starts none. A File is used by one goroutine at a time: by the
// one that opens and loads it, then by a Writer. That writes in the goroutine
// of [Writer.Run], and before it in one that calls [Writer.Persist]. All other
// methods of a Writer may be called from any goroutine.
//
// # What it does not know
//
// Who has the topics, why they change, and that there are lookupds. The
// machine's file system is behind [Disk], so that tests can let every single
// step of it fail: package nsqdattest has one in memory that does.
package nsqdat
