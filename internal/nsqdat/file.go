package nsqdat

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"go.uber.org/atomic"
)

// The errors to tell apart with errors.Is.
var (
	// ErrLocked: somebody else uses the directory.
	ErrLocked = errors.New("lookuploop: data path locked")

	// ErrCorrupt: the file can't be parsed. It is left as it is.
	ErrCorrupt = errors.New("lookuploop: corrupt metadata")

	// ErrClosed: [Writer.Run] has ended, and not everything is on disk.
	ErrClosed = errors.New("lookuploop: closed")
)

// Name is the file's within its directory, as nsqd calls it.
const Name = "nsqd.dat"

// Temporary files have names of the form that nsqd gives its own, so that
// tempName finds what either left behind at a crash.
const tempFormat = Name + ".%d.tmp"

var tempName = regexp.MustCompile(`^nsqd\.dat\.[0-9]+\.tmp$`)

// nsqd03Name matches the file of nsqd 0.3, which has the number of its worker in
// the name.
var nsqd03Name = regexp.MustCompile(`^nsqd\.[0-9]+\.dat$`)

// File is the nsqd.dat of a directory that is locked. One goroutine at a time
// uses it, but for IsOurs.
type File struct {
	path     string
	dir      Directory
	lastTemp int                   // counts the temporary files
	ours     atomic.Pointer[Stamp] // of what was loaded or written last
}

// Open locks the directory at path, removes the temporary files that a crash
// left in it, and makes sure that it can be written to.
func Open(disk Disk, path string) (*File, error) {
	dir, err := disk.Open(path)
	switch {
	case errors.Is(err, ErrLocked):
		return nil, fmt.Errorf("%w: %s: another Loop or nsqd uses it: end that one, or set another DataPath", err, path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("lookuploop: data path %s: %w (create the directory, or set another DataPath)", path, err)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, fmt.Errorf("lookuploop: data path %s: %w (set DataPath to a directory, the one of nsqd.dat)", path, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("lookuploop: data path %s: %w (make the directory readable and writable for this user, or set another DataPath)", path, err)
	case err != nil:
		return nil, fmt.Errorf("lookuploop: data path %s: %w", path, err)
	}
	f := &File{path: filepath.Join(path, Name), dir: dir}
	f.ours.Store(new(Stamp))
	if err := f.removeTempFiles(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lookuploop: remove temporary files from data path %s: %w", path, err)
	}
	if err := f.tryToWrite(); err != nil {
		dir.Close()
		return nil, fmt.Errorf("lookuploop: data path %s: nothing can be written there: %w (make it writable for this user, or set another DataPath)", path, err)
	}
	return f, nil
}

func (f *File) removeTempFiles() error {
	names, err := f.dir.List()
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range names {
		if tempName.MatchString(name) {
			faults = append(faults, f.dir.Remove(name))
		}
	}
	return errors.Join(faults...)
}

func (f *File) tryToWrite() error {
	name, temp, err := f.createTemp()
	if err != nil {
		return err
	}
	return errors.Join(temp.Close(), f.dir.Remove(name))
}

func (f *File) createTemp() (name string, temp TempFile, err error) {
	f.lastTemp++
	name = fmt.Sprintf(tempFormat, f.lastTemp)
	temp, err = f.dir.Create(name)
	return name, temp, err
}

// Path is that of the file.
func (f *File) Path() string { return f.path }

// Load reads the file. Without one, there is nothing in it. The file is never
// changed, not even a corrupt one. ErrCorrupt: it can't be parsed.
func (f *File) Load() (*Contents, error) {
	stamp, err := f.dir.Stat(Name)
	var data []byte
	if err == nil {
		data, err = f.dir.Read(Name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return f.loadNothing()
	}
	if err != nil {
		advice := ""
		if errors.Is(err, fs.ErrPermission) {
			advice = " (make the file readable for this user)"
		}
		return nil, fmt.Errorf("lookuploop: read metadata from %s: %w%s", f.path, err, advice)
	}
	m, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w (fix the file, or move it away to start without topics)", ErrCorrupt, f.path, err)
	}
	f.ours.Store(&stamp)
	c := sanitize(m)
	isDurable := f.dir.Sync() == nil                         // whoever wrote the file may have failed to
	c.IsClean = c.IsClean && isDurable && stamp != (Stamp{}) // a link becomes a file
	return c, nil
}

// loadNothing is Load where there is no file.
func (f *File) loadNothing() (*Contents, error) {
	names, err := f.dir.List()
	if err != nil {
		return nil, fmt.Errorf("lookuploop: look for the metadata of nsqd 0.3 beside %s: %w", f.path, err)
	}
	var c Contents
	if at := slices.IndexFunc(names, nsqd03Name.MatchString); at >= 0 {
		c.Nsqd03 = names[at]
	}
	return &c, nil
}

// IsOurs tells whether the file is the one that was loaded or written last, and
// a regular file. It may be called at any time, from any goroutine; while the
// file is replaced, the answer is of no use.
func (f *File) IsOurs() bool {
	ours := f.ours.Load()
	stamp, err := f.dir.Stat(Name)
	return err == nil && stamp == *ours && stamp != (Stamp{})
}

// Write replaces the file with one that holds items and the version of the
// broker. Whenever the machine stops, the file is the old or the new one; once
// Write returns nil, it is the new one. After an error it may be either.
func (f *File) Write(items iter.Seq[Item], version string) error {
	if err := f.replace(items, version); err != nil {
		return fmt.Errorf("lookuploop: write metadata to %s: %w", f.path, err)
	}
	return nil
}

func (f *File) replace(items iter.Seq[Item], version string) error {
	name, temp, err := f.createTemp()
	if errors.Is(err, fs.ErrNotExist) { // one with the same path is not the one that is locked
		return fmt.Errorf("%w (the directory was removed while in use: create it again and restart the broker)", err)
	}
	if err != nil {
		return err
	}
	err = writeAndClose(temp, items, version)
	var stamp Stamp
	if err == nil {
		stamp, err = f.dir.Stat(name)
	}
	if err == nil {
		err = f.dir.Rename(name, Name)
	}
	if err != nil {
		_ = f.dir.Remove(name) // what can't be removed now is when the directory is next opened
		return err
	}
	f.ours.Store(&stamp)
	return f.dir.Sync() // else the rename could be lost in a crash
}

func writeAndClose(file TempFile, items iter.Seq[Item], version string) error {
	err := encode(file, items, version)
	if err == nil {
		err = file.Sync() // before the rename, which could otherwise outlive the content
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Close releases the lock.
func (f *File) Close() error {
	if err := f.dir.Close(); err != nil {
		return fmt.Errorf("lookuploop: unlock data path %s: %w", filepath.Dir(f.path), err)
	}
	return nil
}
