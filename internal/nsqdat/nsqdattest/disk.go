// Package nsqdattest provides a disk in memory for tests of nsqd.dat. It can be told
// to fail, and it can return each state that a crash may leave.
package nsqdattest

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
)

// Disk is an [nsqdat.Disk] with one directory, at any path. It models what POSIX
// leaves open: data that was written but not synced may survive completely, in part,
// as zeros or not at all. Any change of a directory since its last sync may be lost.
// Its methods may be called from any goroutine.
type Disk struct {
	mu      sync.Mutex
	faults  func(step string) Fault // asked before every step, under no lock: it may sleep
	entries map[string]*inode       // by name, as programs see it
	durable map[string]*inode       // as it is on disk for sure
	pending []dirChange             // of entries, not yet of durable
	inodes  uint64                  // that there were so far
	steps   []string                // those that were begun
	crashed bool                    // every further step fails
	locked  bool
}

// Fault is what goes wrong with one step.
type Fault struct {
	Err   error // what the step returns
	Done  bool  // and yet it takes effect
	Crash bool  // the machine stops before it
}

// inode is the content of one file.
type inode struct {
	number  uint64
	data    []byte // as programs see it
	durable []byte // as it is on disk for sure
	lost    bool   // a sync failed: the kernel has dropped the pages, later syncs succeed and write nothing
}

func (n *inode) synced() bool { return string(n.data) == string(n.durable) }

// dirChange makes name refer to node, or to nothing.
type dirChange struct {
	name string
	node *inode
}

// NewDisk makes a Disk that holds files, by their names.
func NewDisk(files map[string]string) *Disk {
	d := &Disk{entries: make(map[string]*inode)}
	for name, data := range files {
		d.inodes++
		d.entries[name] = &inode{number: d.inodes, data: []byte(data), durable: []byte(data)}
	}
	d.durable = maps.Clone(d.entries)
	return d
}

// Order sets what goes wrong from now on: faults is asked before every step. Nil
// lifts that. The steps are lock, list, stat, read, create, write, sync, close,
// rename, remove, sync directory and unlock.
func (d *Disk) Order(faults func(step string) Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = faults
}

// step runs do unless a fault prevents it.
func (d *Disk) step(name string, do func() error) error {
	d.mu.Lock()
	faults := d.faults
	d.mu.Unlock()
	var f Fault
	if faults != nil {
		f = faults(name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps = append(d.steps, name)
	d.crashed = d.crashed || f.Crash
	if d.crashed {
		return ErrMachineStopped
	}
	if f.Err == nil || f.Done {
		if err := do(); err != nil {
			return err
		}
	}
	return f.Err
}

// ErrMachineStopped is what every step returns after a crash.
var ErrMachineStopped = errors.New("the machine has stopped")

// Open locks the directory.
func (d *Disk) Open(string) (nsqdat.Directory, error) {
	err := d.step("lock", func() error {
		if d.locked {
			return nsqdat.ErrLocked
		}
		d.locked = true
		return nil
	})
	return directory{d}, err
}

// directory is the directory as a program sees it.
type directory struct{ *Disk }

func (d directory) Close() error {
	return d.step("unlock", func() error { d.locked = false; return nil })
}

func (d directory) List() (names []string, err error) {
	err = d.step("list", func() error {
		names = slices.Sorted(maps.Keys(d.entries))
		return nil
	})
	return names, err
}

func (d directory) Stat(name string) (stamp nsqdat.Stamp, err error) {
	err = d.step("stat", func() error {
		node := d.entries[name]
		if node == nil {
			return &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
		}
		stamp = nsqdat.Stamp{Inode: node.number, Size: int64(len(node.data))}
		return nil
	})
	return stamp, err
}

func (d directory) Read(name string) (data []byte, err error) {
	err = d.step("read", func() error {
		node := d.entries[name]
		if node == nil {
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		data = slices.Clone(node.data)
		return nil
	})
	return data, err
}

func (d directory) Create(name string) (nsqdat.TempFile, error) {
	file := file{d.Disk, new(inode)}
	err := d.step("create", func() error {
		if d.entries[name] != nil {
			return &fs.PathError{Op: "open", Path: name, Err: fs.ErrExist}
		}
		d.inodes++
		file.node.number = d.inodes
		d.change(name, file.node)
		return nil
	})
	return file, err
}

func (d directory) Rename(from, to string) error {
	return d.step("rename", func() error {
		d.change(to, d.entries[from])
		d.change(from, nil)
		return nil
	})
}

func (d directory) Remove(name string) error {
	return d.step("remove", func() error {
		if d.entries[name] == nil {
			return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
		}
		d.change(name, nil)
		return nil
	})
}

func (d directory) Sync() error {
	return d.step("sync directory", func() error {
		d.durable = maps.Clone(d.entries)
		d.pending = nil
		return nil
	})
}

// change is called with mu held. What changes nothing must not be pending: each
// that is doubles the work of AfterCrash.
func (d *Disk) change(name string, node *inode) {
	if d.entries[name] == node {
		return
	}
	c := dirChange{name, node}
	c.apply(d.entries)
	d.pending = append(d.pending, c)
}

func (c dirChange) apply(entries map[string]*inode) {
	if c.node == nil {
		delete(entries, c.name)
	} else {
		entries[c.name] = c.node
	}
}

// Files are the contents of all files that programs see, by their names.
func (d *Disk) Files() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := make(map[string]string)
	for name, node := range d.entries {
		files[name] = string(node.data)
	}
	return files
}

// Remove removes a file, as somebody else does.
func (d *Disk) Remove(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change(name, nil)
}

// Steps are those that were begun since Steps was called last.
func (d *Disk) Steps() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() { d.steps = nil }()
	return d.steps
}

// file is an open file.
type file struct {
	disk *Disk
	node *inode
}

func (f file) Write(data []byte) (int, error) {
	written := 0
	err := f.disk.step("write", func() error {
		f.node.data = append(f.node.data, data...)
		written = len(data)
		return nil
	})
	return written, err
}

func (f file) Sync() error {
	failed := true
	err := f.disk.step("sync", func() error {
		failed = false
		if !f.node.lost {
			f.node.durable = slices.Clone(f.node.data)
		}
		return nil
	})
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.node.lost = f.node.lost || failed
	return err
}

func (f file) Close() error {
	return f.disk.step("close", func() error { return nil })
}
