package lookuploop

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"syscall"
)

// metadataName is the file's name within the data path, as nsqd calls it.
const metadataName = "nsqd.dat"

// tempPattern makes names of the form that nsqd gives its temporary files, so
// tempName finds what either left behind at a crash.
const tempPattern = metadataName + ".*.tmp"

var tempName = regexp.MustCompile(`^nsqd\.dat\.[0-9]+\.tmp$`)

// metadataFile is the nsqd.dat of a data path that is locked. One goroutine at
// a time uses it: first that of LoadMetadata, then the metadataWriter's.
type metadataFile struct {
	dir  string
	path string
	fs   fileSystem
	lock io.Closer
}

// openMetadataFile locks dir and removes the temporary files that a crash left in it.
func openMetadataFile(dir string, fs fileSystem) (*metadataFile, error) {
	lock, err := fs.lockDir(dir)
	if errors.Is(err, ErrDataPathLocked) {
		return nil, fmt.Errorf("%w: %s: another Loop or nsqd uses it: end that one, or set another DataPath", err, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("lookuploop: lock data path %s: %w", dir, err)
	}
	f := &metadataFile{dir: dir, path: filepath.Join(dir, metadataName), fs: fs, lock: lock}
	if err := f.removeTempFiles(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lookuploop: remove temporary files from data path %s: %w", dir, err)
	}
	return f, nil
}

func (f *metadataFile) removeTempFiles() error {
	names, err := f.fs.listFiles(f.dir)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		if tempName.MatchString(name) {
			faults = append(faults, f.fs.remove(filepath.Join(f.dir, name)))
		}
	}
	return errors.Join(faults...)
}

// load reads the file. If there is none, the Metadata is zero. The file is
// never changed, not even a corrupt one.
func (f *metadataFile) load() (Metadata, error) {
	data, err := f.fs.readFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Metadata{}, nil
	}
	if err != nil {
		return Metadata{}, fmt.Errorf("lookuploop: read metadata: %w", err)
	}
	m, err := decodeMetadata(data)
	if err != nil {
		return Metadata{}, fmt.Errorf("%w: %s: %w (mend the file, or move it away to start without topics)", ErrCorruptMetadata, f.path, err)
	}
	return m, nil
}

// write replaces the file. Whenever the machine stops, the file is the old or
// the new one; once write returns nil, it is the new one. After an error it may
// be either.
func (f *metadataFile) write(m Metadata) error {
	if err := f.replace(m); err != nil {
		return fmt.Errorf("lookuploop: write metadata to %s: %w", f.path, err)
	}
	return nil
}

func (f *metadataFile) replace(m Metadata) error {
	temp, err := f.fs.createTemp(f.dir, tempPattern)
	if err != nil {
		return err
	}
	err = writeAndClose(temp, m)
	if err == nil {
		err = f.fs.rename(temp.Name(), f.path)
	}
	if err != nil {
		_ = f.fs.remove(temp.Name()) // what can't be removed now is when the directory is next opened
		return err
	}
	return f.fs.syncDir(f.dir) // else the rename could be lost in a crash
}

func writeAndClose(file tempFile, m Metadata) error {
	err := m.encode(file)
	if err == nil {
		err = file.Sync() // before the rename, which could otherwise outlive the content
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// close releases the lock.
func (f *metadataFile) close() error {
	if err := f.lock.Close(); err != nil {
		return fmt.Errorf("lookuploop: unlock data path %s: %w", f.dir, err)
	}
	return nil
}

// fileSystem is what metadataFile needs of one, so that tests can let every
// single step fail.
type fileSystem interface {
	lockDir(dir string) (io.Closer, error) // ErrDataPathLocked if somebody else holds the lock
	listFiles(dir string) ([]string, error)
	readFile(path string) ([]byte, error)
	createTemp(dir, pattern string) (tempFile, error) // readable by its owner alone
	rename(from, to string) error
	remove(path string) error
	syncDir(dir string) error
}

// tempFile is the part of *os.File that is used.
type tempFile interface {
	io.Writer
	Name() string
	Sync() error
	Close() error
}

// osFileSystem is the real one.
type osFileSystem struct{}

func (osFileSystem) lockDir(dir string) (io.Closer, error) { return lockDirectory(dir) }
func (osFileSystem) readFile(path string) ([]byte, error)  { return os.ReadFile(path) }
func (osFileSystem) rename(from, to string) error          { return os.Rename(from, to) }
func (osFileSystem) remove(path string) error              { return os.Remove(path) }

func (osFileSystem) createTemp(dir, pattern string) (tempFile, error) {
	return os.CreateTemp(dir, pattern)
}

func (osFileSystem) listFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, entry := range entries {
		if entry.Type().IsRegular() {
			names = append(names, entry.Name())
		}
	}
	return names, err
}

var syncFile = (*os.File).Sync // tests watch it and let it fail

// syncDir makes the renames in dir durable. Windows can't sync a directory, nor
// can some file systems: they answer EINVAL or ENOTSUP, and there is no more to do.
func (osFileSystem) syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = syncFile(d)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
