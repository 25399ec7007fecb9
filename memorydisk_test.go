package lookuploop

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// memoryDisk is a fileSystem of one directory that fails on order and knows
// what a crash can leave of it. It models what POSIX leaves open: what was
// written but not synced may survive whole, in part, as zeros or not at all, and
// of the changes of a directory since it was last synced, any may be lost.
type memoryDisk struct {
	mu       sync.Mutex
	faults   func(step string) fault // asked before every step, under no lock: it may sleep
	entries  map[string]*inode       // by path, as programs see it
	durable  map[string]*inode       // as it is on disk for sure
	pending  []dirChange             // of entries, not yet of durable
	steps    []string                // those that were begun
	crashed  bool                    // every further step fails
	locked   bool
	lastTemp int
}

// fault is what goes wrong with one step.
type fault struct {
	err   error // what the step returns
	done  bool  // and yet it takes effect
	crash bool  // the machine stops before it
}

// inode is the content of one file.
type inode struct {
	data    []byte // as programs see it
	durable []byte // as it is on disk for sure
	lost    bool   // a sync failed: the kernel has dropped the pages, later syncs succeed and write nothing
}

func (n *inode) synced() bool { return string(n.data) == string(n.durable) }

// dirChange makes path refer to node, or to nothing.
type dirChange struct {
	path string
	node *inode
}

func newMemoryDisk(files map[string]string) *memoryDisk {
	d := &memoryDisk{entries: make(map[string]*inode)}
	for path, data := range files {
		d.entries[path] = &inode{data: []byte(data), durable: []byte(data)}
	}
	d.durable = maps.Clone(d.entries)
	return d
}

// order sets what goes wrong from now on; steps are named in the methods below.
func (d *memoryDisk) order(faults func(step string) fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = faults
}

// step runs do unless a fault prevents it.
func (d *memoryDisk) step(name string, do func() error) error {
	d.mu.Lock()
	faults := d.faults
	d.mu.Unlock()
	var f fault
	if faults != nil {
		f = faults(name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps = append(d.steps, name)
	d.crashed = d.crashed || f.crash
	if d.crashed {
		return errMachineStopped
	}
	if f.err == nil || f.done {
		if err := do(); err != nil {
			return err
		}
	}
	return f.err
}

const errMachineStopped = diskError("the machine has stopped")

type diskError string

func (e diskError) Error() string { return string(e) }

func (d *memoryDisk) lockDir(string) (io.Closer, error) {
	err := d.step("lock", func() error {
		if d.locked {
			return ErrDataPathLocked
		}
		d.locked = true
		return nil
	})
	return closerFunc(func() error {
		return d.step("unlock", func() error { d.locked = false; return nil })
	}), err
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

func (d *memoryDisk) listFiles(string) (names []string, err error) {
	err = d.step("list", func() error {
		for path := range d.entries {
			names = append(names, filepath.Base(path))
		}
		return nil
	})
	return names, err
}

func (d *memoryDisk) readFile(path string) (data []byte, err error) {
	err = d.step("read", func() error {
		node := d.entries[path]
		if node == nil {
			return &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		}
		data = slices.Clone(node.data)
		return nil
	})
	return data, err
}

func (d *memoryDisk) createTemp(dir, pattern string) (tempFile, error) {
	file := &memoryFile{disk: d, node: new(inode)}
	err := d.step("create", func() error {
		d.lastTemp++
		file.path = filepath.Join(dir, strings.Replace(pattern, "*", strconv.Itoa(d.lastTemp), 1))
		d.change(file.path, file.node)
		return nil
	})
	return file, err
}

func (d *memoryDisk) rename(from, to string) error {
	return d.step("rename", func() error {
		d.change(to, d.entries[from])
		d.change(from, nil)
		return nil
	})
}

func (d *memoryDisk) remove(path string) error {
	return d.step("remove", func() error {
		if d.entries[path] == nil {
			return &fs.PathError{Op: "remove", Path: path, Err: fs.ErrNotExist}
		}
		d.change(path, nil)
		return nil
	})
}

func (d *memoryDisk) syncDir(string) error {
	return d.step("sync directory", func() error {
		d.durable = maps.Clone(d.entries)
		d.pending = nil
		return nil
	})
}

func (d *memoryDisk) change(path string, node *inode) {
	c := dirChange{path, node}
	c.apply(d.entries)
	d.pending = append(d.pending, c)
}

func (c dirChange) apply(entries map[string]*inode) {
	if c.node == nil {
		delete(entries, c.path)
	} else {
		entries[c.path] = c.node
	}
}

// paths are those of all files that programs see.
func (d *memoryDisk) paths() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.entries))
}

// afterCrash returns every disk that a crash at this moment can leave, each once.
func (d *memoryDisk) afterCrash() (disks []*memoryDisk) {
	d.mu.Lock()
	defer d.mu.Unlock()
	survivors := []func(*inode) []byte{
		func(n *inode) []byte { return n.durable }, // all that there is of a file that is synced
		func(n *inode) []byte { return n.data },
		func(n *inode) []byte { return n.data[:len(n.data)/2] },
		func(n *inode) []byte { return make([]byte, len(n.data)) },
	}
	type remains struct {
		node     *inode
		survivor int
	}
	seen := make(map[string]bool)
	for chosen := range 1 << len(d.pending) {
		entries := maps.Clone(d.durable)
		for i, c := range d.pending {
			if chosen&(1<<i) != 0 {
				c.apply(entries)
			}
		}
		for i := range survivors {
			rest := make(map[string]remains)
			for path, node := range entries {
				rest[path] = remains{node, i}
				if node.synced() {
					rest[path] = remains{node, 0}
				}
			}
			key := fmt.Sprint(rest)
			if seen[key] {
				continue
			}
			seen[key] = true
			files := make(map[string]string)
			for path, r := range rest {
				files[path] = string(survivors[r.survivor](r.node))
			}
			disks = append(disks, newMemoryDisk(files))
		}
	}
	return disks
}

// memoryFile is an open file of a memoryDisk.
type memoryFile struct {
	disk *memoryDisk
	node *inode
	path string
}

func (f *memoryFile) Name() string { return f.path }

func (f *memoryFile) Write(data []byte) (int, error) {
	written := 0
	err := f.disk.step("write", func() error {
		f.node.data = append(f.node.data, data...)
		written = len(data)
		return nil
	})
	return written, err
}

func (f *memoryFile) Sync() error {
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

func (f *memoryFile) Close() error {
	return f.disk.step("close", func() error { return nil })
}
