//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package nsqdat

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// Locks tells whether this system locks directories.
const Locks = true

// lock takes the lock that nsqd takes: an exclusive flock on the directory
// itself. The kernel releases it when dir is closed or the process ends, however
// it ends. If somebody holds it, the error is [ErrLocked].
func lock(dir *os.File) error {
	err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return os.NewSyscallError("flock", err)
}

func inode(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }
