package registry

import (
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDeclarationsSnapshotsAndChangesAtOnce is for the race detector.
func TestDeclarationsSnapshotsAndChangesAtOnce(t *testing.T) {
	r := New()
	var items []Item
	for _, name := range manyNames(1000) {
		items = append(items, Item{Topic: name})
	}
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for range 20 {
				switch i {
				case 0:
					r.Declare(slices.Values(items))
				case 1:
					r.Declare(slices.Values(items[:500]))
				case 2:
					n := r.Snapshot(true).Topics
					if n > 1 && n != 500 && n != 501 && n != 1000 && n != 1001 {
						t.Errorf("%d topics are a mixture", n)
					}
				default:
					for range 100 {
						r.Apply([]Change{{TopicCreated, "other", ""}})
						r.Apply([]Change{{TopicDeleted, "other", ""}})
					}
				}
			}
		})
	}
	all.Wait()
}

// TestManyUseTheRegistryAtOnce is for the race detector, too. Each of them lets the
// others have a turn after each call: two lookupds, one of which refuses everything,
// their probes, and those who change and look.
func TestManyUseTheRegistryAtOnce(t *testing.T) {
	r := New()
	names := []Item{{Topic: "a"}, {Topic: "a", Channel: "x"}, {Topic: "live#ephemeral"}}
	cursors := []*Cursor{r.NewCursor(0), r.NewCursor(0)}
	main := func(c *Cursor, doesRefuse bool) []func() {
		var chunk []Command
		answer := func() { r.Acknowledge(c, len(chunk), chunk[len(chunk)-1]) }
		if doesRefuse {
			answer = func() { r.Refused(c, chunk[0], true, refusalError("no"), noTime) }
		}
		return []func(){
			func() { r.Attach(c, noTime) },
			func() { chunk, _ = r.Read(c, ChunkSize, nil) },
			func() {
				if len(chunk) > 0 {
					answer()
				}
			},
			func() { r.Resync(c) },
			func() { r.NeedsProbe(c, noTime) },
			func() { r.Farewell(c, nil) },
			func() { r.Release(c, nil, false) },
		}
	}
	probe := func(c *Cursor, doesRefuse bool) []func() {
		var chunk []Command
		return []func(){
			func() { chunk = r.Probe(c, noTime, ChunkSize, nil) },
			func() {
				if doesRefuse && len(chunk) > 0 {
					r.ProbeRefused(c, chunk[0], true, refusalError("no"), noTime)
				} else {
					r.ProbeAcknowledge(c, len(chunk))
				}
			},
			func() { r.ProbeDone(c) },
			func() { r.ProbeFarewell(c, nil) },
			func() { r.ProbeLost(c, false, false) },
		}
	}
	var other *Cursor
	var watch *Watch
	var all sync.WaitGroup
	for _, calls := range [][]func(){
		main(cursors[0], false),
		main(cursors[1], true),
		probe(cursors[0], false),
		probe(cursors[1], true),
		{func() { other = r.NewCursor(0) }, func() { r.Remove(other) }},
		{func() { watch = r.Watch() }, func() { watch.Stop() }, r.Wake},
		{func() { r.View(cursors[0]) }, func() { r.InSync(cursors[0]) }, func() { r.Announce(cursors[0], names) }},
		{func() { r.Standing(cursors, r.End()) }, func() { r.UnchangedSince(1, "a", "x") }, func() { r.Topic("a") }},
		{func() { r.Version() }, func() { r.Size() }, func() { r.Count() }, func() { r.End() }},
		{func() { r.Snapshot(false) }},
		{func() { r.Declare(slices.Values(names)) }},
		{func() { r.Declare(slices.Values(names[:2])) }},
		{func() { r.Apply([]Change{{TopicDeleted, "live#ephemeral", ""}, {TopicCreated, "b", ""}}) }},
	} {
		all.Go(func() {
			for range 100 {
				for _, call := range calls {
					call()
					runtime.Gosched()
				}
			}
		})
	}
	all.Go(func() {
		for range 300 {
			runtime.Gosched()
		}
		r.Close()
	})
	all.Wait()
	require.Empty(t, r.watches)
	require.Len(t, r.cursors, 2)
	require.Zero(t, r.waiting.Load())
}

// TestLookingWhileLoading is for the race detector, too: a status page may be up
// before the broker has loaded its nsqd.dat.
func TestLookingWhileLoading(t *testing.T) {
	r := New()
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for topics := 0; topics < 1000; topics, _ = r.Count() {
				assert.Contains(t, []int{0, 1000}, r.Snapshot(false).Topics)
				runtime.Gosched()
			}
		})
	}
	var items []Item
	for _, name := range manyNames(1000) {
		items = append(items, Item{Topic: name})
	}
	r.Load(slices.Values(items))
	all.Wait()
}

// TestDeclarationsAndSnapshotsTakeTurns begins another one whenever a declaration
// lets others have the lock.
func TestDeclarationsAndSnapshotsTakeTurns(t *testing.T) {
	oldItems, newItems := []Item{{Topic: "a"}, {Topic: "b"}}, []Item{{Topic: "c"}, {Topic: "d"}, {Topic: "f"}}
	lastItems := []Item{{Topic: "a"}, {Topic: "e"}}
	r := New()
	r.hold = 1
	r.Declare(slices.Values(oldItems))
	var all sync.WaitGroup
	begin := func(f func()) {
		all.Go(f)
		for range 100 { // while it runs, or waits
			runtime.Gosched()
		}
	}
	r.others = func() {
		r.others = nil
		begin(func() { r.Declare(slices.Values(lastItems)) })
		r.others = func() {
			if d := r.declaration; d == nil || !d.isInForce {
				return
			}
			r.others = nil
			begin(func() {
				items := slices.Collect(r.Snapshot(false).Items)
				if !slices.Equal(items, newItems) && !slices.Equal(items, lastItems) {
					t.Errorf("%v is a mixture", items)
				}
			})
		}
	}
	r.Declare(slices.Values(newItems))
	all.Wait()
	require.Equal(t, lastItems, slices.Collect(r.Snapshot(false).Items))
	topics, channels := r.Count()
	require.Equal(t, []int{2, 0}, []int{topics, channels})
	require.Len(t, r.entries, 2)
}
