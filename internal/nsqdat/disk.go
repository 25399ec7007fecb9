package nsqdat

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// Disk opens directories. [OS] is the machine's.
type Disk interface {
	// Open locks the directory. The error is [ErrLocked] if somebody else has,
	// and fs.ErrNotExist or syscall.ENOTDIR if there is none.
	Open(path string) (Directory, error)
}

// Directory is what a [File] needs of the directory in which it lies, so that
// tests can let every single step fail.
type Directory interface {
	List() (names []string, err error) // of the regular files
	Stat(name string) (Stamp, error)
	Read(name string) ([]byte, error)
	Create(name string) (TempFile, error) // which doesn't exist yet; readable by its owner alone
	Rename(from, to string) error
	Remove(name string) error
	Sync() error  // makes what was renamed and removed durable
	Close() error // releases the lock
}

// Stamp tells one file from another, and from what it was before somebody wrote
// to it. That of what isn't a regular file is zero.
type Stamp struct {
	Inode   uint64 // 0 on a system that doesn't tell
	Size    int64
	ModTime int64 // in nanoseconds
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
	if info, err := os.Stat(path); err == nil && !info.IsDir() { // OpenRoot would wait for whoever writes to a named pipe
		return nil, &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	d := directory{root, self}
	if err := lock(self); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// directory is one of the machine's. Its path is used but to open it: from
// then on it is the same one, whatever happens to its name or to the working
// directory.
type directory struct {
	root *os.Root
	self *os.File // the same directory: it is locked, and synced
}

func (d directory) Rename(from, to string) error { return d.root.Rename(from, to) }
func (d directory) Remove(name string) error     { return d.root.Remove(name) }

func (d directory) Stat(name string) (Stamp, error) {
	info, err := d.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		return Stamp{}, err
	}
	return Stamp{inode(info), info.Size(), info.ModTime().UnixNano()}, nil
}

// Read follows a symbolic link, out of the directory too.
func (d directory) Read(name string) ([]byte, error) {
	read, path := d.root.ReadFile, name
	info, err := d.root.Lstat(name)
	if err == nil && info.Mode().Type() == fs.ModeSymlink {
		read, path = os.ReadFile, filepath.Join(d.root.Name(), name)
		info, err = os.Stat(path)
	}
	if err == nil && !info.Mode().IsRegular() { // a named pipe may never answer, a device never end
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("not a regular file (move it away)")}
	}
	if err != nil {
		return nil, err
	}
	return read(path)
}

func (d directory) Create(name string) (TempFile, error) {
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

func (d directory) List() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), ".")
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
	err := syncFile(d.self)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func (d directory) Close() error { return errors.Join(d.self.Close(), d.root.Close()) }
