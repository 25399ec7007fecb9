package nsqdat

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// Disk opens directories. [OS] is the machine's.
type Disk interface {
	// Open locks the directory. The error is [ErrLocked] if somebody else has.
	Open(path string) (Directory, error)
}

// Directory is what a [File] needs of the directory in which it lies, so that
// tests can let every single step fail.
type Directory interface {
	List() (names []string, err error) // of the regular files
	Read(name string) ([]byte, error)
	Create(name string) (TempFile, error) // which doesn't exist yet; readable by its owner alone
	Rename(from, to string) error
	Remove(name string) error
	Sync() error  // makes what was renamed and removed durable
	Close() error // releases the lock
}

// TempFile is the part of *os.File that is used.
type TempFile interface {
	io.Writer
	Sync() error
	Close() error
}

// OS is the file system of the machine.
type OS struct{}

func (OS) Open(path string) (Directory, error) {
	lock, err := lockDirectory(path)
	if err != nil {
		return nil, err
	}
	return directory{path, lock}, nil
}

// directory is one of the machine's.
type directory struct {
	path string
	lock io.Closer
}

func (d directory) in(name string) string            { return filepath.Join(d.path, name) }
func (d directory) Read(name string) ([]byte, error) { return os.ReadFile(d.in(name)) }
func (d directory) Rename(from, to string) error     { return os.Rename(d.in(from), d.in(to)) }
func (d directory) Remove(name string) error         { return os.Remove(d.in(name)) }
func (d directory) Close() error                     { return d.lock.Close() }

func (d directory) Create(name string) (TempFile, error) {
	return os.OpenFile(d.in(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d directory) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	var names []string
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

var syncFile = (*os.File).Sync // tests watch it and let it fail

// Sync forgives a file system that can't sync a directory. Windows can't, and
// others answer EINVAL or ENOTSUP: there is no more to do.
func (d directory) Sync() error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = syncFile(f)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
