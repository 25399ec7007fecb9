//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package nsqdat

import (
	"io/fs"
	"os"
)

// Locks tells whether this system locks directories.
const Locks = false

// lock locks nothing: Windows, Solaris, AIX and others have no flock. nsqd
// doesn't lock its data directory there either, nor on illumos, so a lock of
// another kind would keep out nobody but us.
func lock(*os.File) error { return nil }

func inode(fs.FileInfo) uint64 { return 0 }
