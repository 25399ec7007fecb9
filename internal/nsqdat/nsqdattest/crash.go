package nsqdattest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Crash stops the machine: from now on every step returns [ErrMachineStopped].
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashed = true
}

// AfterCrash returns every disk that a crash at this moment can leave, each once.
func (d *Disk) AfterCrash() (disks []*Disk) {
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
			for name, node := range entries {
				rest[name] = remains{node, i}
				if node.synced() {
					rest[name] = remains{node, 0}
				}
			}
			key := fmt.Sprint(rest)
			if seen[key] {
				continue
			}
			seen[key] = true
			files := make(map[string]string)
			for name, r := range rest {
				files[name] = string(survivors[r.survivor](r.node))
			}
			disks = append(disks, NewDisk(files))
		}
	}
	return disks
}

// Outcome is the n-th of all disks that a crash at this moment can leave; where
// these are too many, the one that has lost everything it may lose.
func (d *Disk) Outcome(n uint64) *Disk {
	if len(d.pending) > 8 {
		files := make(map[string]string)
		for name, node := range d.durable {
			files[name] = string(node.durable)
		}
		return NewDisk(files)
	}
	outcomes := d.AfterCrash()
	slices.SortFunc(outcomes, func(a, b *Disk) int { return strings.Compare(fmt.Sprint(a.Files()), fmt.Sprint(b.Files())) })
	return outcomes[n%uint64(len(outcomes))]
}
