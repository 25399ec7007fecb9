//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package nsqdat

import (
	"errors"
	"io"
	"os"
	"syscall"
)

// Locks tells whether this system locks directories.
const Locks = true

// lockDirectory takes the lock that nsqd takes: an exclusive flock on the
// directory itself. The kernel releases it when the process ends, however it
// ends. If somebody holds it, the error is ErrLocked.
func lockDirectory(dir string) (io.Closer, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return d, nil
	}
	d.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrLocked
	}
	return nil, os.NewSyscallError("flock", err)
}
