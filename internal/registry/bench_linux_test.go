package registry

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkLongestHold measures how long a snapshot and a declaration hold the
// lock at a time: hold-ns at most, and p99.9-hold-ns. A single hold includes
// whatever else the machine did meanwhile.
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
				var holds []time.Duration
				last := time.Now()
				r.others = func() { holds = append(holds, time.Since(last)) }
				r.back = func() { last = time.Now() }
				defer func() { r.others, r.back = nil, nil }()
				for b.Loop() {
					last = time.Now()
					work()
				}
				slices.Sort(holds)
				b.ReportMetric(float64(holds[len(holds)-1].Nanoseconds()), "hold-ns")
				b.ReportMetric(float64(holds[len(holds)*999/1000].Nanoseconds()), "p99.9-hold-ns")
			})
		}
	}
}
