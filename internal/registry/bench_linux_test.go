package registry

import (
	"fmt"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// BenchmarkLongestHold measures how long a snapshot and a declaration hold the
// lock at a time: hold-ns at most, and p99.9-hold-ns. A single hold may include
// time in which the machine did something else, so cpu-hold-ns is how much time of
// the processor a hold takes at most.
func BenchmarkLongestHold(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		items := make([]Item, 0, n)
		for _, name := range manyNames(n / 2) {
			items = append(items, Item{Topic: name}, Item{Topic: name, Channel: "mail"})
		}
		turns := [][]Item{items, append(items[:n:n], Item{Topic: "new"})}
		r := New()
		r.Declare(slices.Values(items))
		turn := 0
		for name, work := range map[string]func(){
			"snapshot": func() { r.Snapshot(true) },
			"declaration with one new": func() {
				turn = 1 - turn
				r.Declare(slices.Values(turns[turn]))
			},
		} {
			b.Run(fmt.Sprintf("names=%d/%s", n, name), func(b *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				var holds []time.Duration
				var longest, used time.Duration
				var last time.Time
				r.back = func() { last, used = time.Now(), processorTime(b) }
				r.others = func() {
					if last.IsZero() { // what came before this walk's first lock would count
						return
					}
					longest = max(longest, processorTime(b)-used)
					holds = append(holds, time.Since(last))
				}
				defer func() { r.others, r.back = nil, nil }()
				for b.Loop() {
					last = time.Time{}
					work()
				}
				slices.Sort(holds)
				b.ReportMetric(float64(longest.Nanoseconds()), "cpu-hold-ns")
				b.ReportMetric(float64(holds[len(holds)-1].Nanoseconds()), "hold-ns")
				b.ReportMetric(float64(holds[len(holds)*999/1000].Nanoseconds()), "p99.9-hold-ns")
			})
		}
	}
}

// processorTime is what this thread has used of its processor.
func processorTime(b *testing.B) time.Duration {
	const threadClock = 3 // CLOCK_THREAD_CPUTIME_ID
	var t syscall.Timespec
	_, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, threadClock, uintptr(unsafe.Pointer(&t)), 0)
	require.Zero(b, errno)
	return time.Duration(t.Nano())
}
