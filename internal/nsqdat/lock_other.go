//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package nsqdat

import "io"

// Locks tells whether this system locks directories.
const Locks = false

// lockDirectory locks nothing: Windows, Solaris, AIX and others have no flock.
// nsqd doesn't lock its data directory there either, nor on illumos, so a lock
// of another kind would keep out nobody but us.
func lockDirectory(string) (io.Closer, error) {
	return io.NopCloser(nil), nil
}
