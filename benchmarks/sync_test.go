//go:build unix

package main_test

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// BenchmarkSync measures how soon a lookupd that came back, empty, knows
// everything: from the start of Run until it acknowledged the last of n
// REGISTERs.
//
// Reported are ns/op, and beside it: raw-ns/op of prebuilt bytes, and
// single-ns/op of the singleClient. Where it would take too long, its time is
// extrapolated from the first single-commands, as it grows with each alike. x-raw
// and x-single are how many times as fast as these the Loop is, raw-single is
// how many times as fast as the singleClient the prebuilt bytes are, and
// cpu-single how much of the singleClient's CPU time the Loop needs for a command.
func BenchmarkSync(b *testing.B) {
	for _, lookupd := range lookupds {
		for _, n := range []int{10_000, 100_000} {
			for _, roundTrip := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond} {
				name := fmt.Sprintf("lookupd=%s/n=%d/ms=%d", lookupd.name, n, roundTrip.Milliseconds())
				b.Run(name, func(b *testing.B) { benchmarkSync(b, lookupd.start, n, roundTrip) })
			}
		}
	}
}

func benchmarkSync(b *testing.B, start func(testing.TB) process, n int, roundTrip time.Duration) {
	m := someMetadata(n)
	encoded := rawCommands(m)
	commands := singleCommands(n, roundTrip)
	loop, raw, single := new(usage), new(usage), new(usage)
	for b.Loop() {
		inTurns(
			func() { syncLoop(b, startFar(b, start, roundTrip), m, loop) },
			func() {
				lookupd := startFar(b, start, roundTrip)
				defer lookupd.end()
				raw.measure(func() { sendRaw(b, lookupd.address, encoded, n) })
			},
			func() { syncSingle(b, startFar(b, start, roundTrip), m, commands, single) },
		)
	}
	runs := time.Duration(b.N)
	b.ReportMetric(nanoseconds(loop.time/runs), "ns/op")
	b.ReportMetric(nanoseconds(raw.time/runs), "raw-ns/op")
	b.ReportMetric(nanoseconds(single.time/runs), "single-ns/op")
	b.ReportMetric(ratio(raw.time, loop.time), "x-raw")
	b.ReportMetric(ratio(single.time, loop.time), "x-single")
	b.ReportMetric(ratio(single.time, raw.time), "raw-single")
	b.ReportMetric(float64(commands), "single-commands")
	b.ReportMetric(ratio(loop.cpu, single.cpu), "cpu-single")
	b.ReportMetric(nanoseconds(loop.cpu/runs)/float64(n), "cpu-ns/command")
}

// singleCommands is how many of n commands the singleClient gets to show its speed.
func singleCommands(n int, roundTrip time.Duration) int {
	switch {
	case roundTrip == 0:
		return min(n, 10_000)
	case roundTrip <= time.Millisecond:
		return 400
	}
	return 50
}

// syncLoop lets a new Loop announce m to a lookupd.
func syncLoop(b testing.TB, lookupd process, m lookuploop.Metadata, u *usage) {
	defer lookupd.end()
	loop := newLoop(b, func(o *lookuploop.Options) { o.LookupdTCPAddresses = []string{lookupd.address} })
	require.NoError(b, loop.SetMetadata(m))
	var end func()
	u.measure(func() {
		end = run(b, loop)
		registered(b, loop, 1)
	})
	requireOneConnection(b, loop)
	end()
}

// syncSingle lets a singleClient register the first channels of m, and reckons
// what all would take if these aren't all.
func syncSingle(b testing.TB, lookupd process, m lookuploop.Metadata, commands int, u *usage) {
	defer lookupd.end()
	var connecting, registering usage
	var client singleClient
	connecting.measure(func() { client = dialSingle(b, lookupd.address) })
	defer client.conn.Close()
	registering.measure(func() {
		for _, t := range m.Topics[:commands] {
			client.register(b, t.Name, t.Channels[0].Name)
		}
	})
	factor := float64(len(m.Topics)) / float64(commands)
	u.time += connecting.time + time.Duration(factor*float64(registering.time))
	u.cpu += connecting.cpu + time.Duration(factor*float64(registering.cpu))
}

// BenchmarkScale measures full syncs of growing numbers of lookupds and
// registrations: ns/op, MB of memory, and us/command and cpu-us/command, the
// time and this process's CPU time for one, which stay the same when they are
// linear in both.
func BenchmarkScale(b *testing.B) {
	for _, size := range []struct{ lookupds, n int }{
		{1, 10_000}, {3, 10_000}, {10, 10_000}, {1, 100_000}, {3, 100_000}, {3, 1_000_000},
	} {
		b.Run(fmt.Sprintf("lookupds=%d/n=%d", size.lookupds, size.n), func(b *testing.B) {
			m := someMetadata(size.n)
			var used usage
			var memory int
			for b.Loop() {
				var addresses []string
				for range size.lookupds {
					lookupd := startHelper(b, "lookupdtest")
					defer lookupd.end()
					addresses = append(addresses, lookupd.address)
				}
				before := liveMemory()
				loop := newLoop(b, func(o *lookuploop.Options) { o.LookupdTCPAddresses = addresses })
				require.NoError(b, loop.SetMetadata(m))
				var end func()
				used.measure(func() {
					end = run(b, loop)
					registered(b, loop, 0)
				})
				memory = liveMemory() - before
				requireOneConnection(b, loop)
				end()
			}
			b.ReportMetric(nanoseconds(used.time)/float64(b.N), "ns/op")
			b.ReportMetric(float64(memory)/1e6, "MB")
			commands := float64(b.N * size.n * size.lookupds)
			b.ReportMetric(nanoseconds(used.time)/commands/1e3, "us/command")
			b.ReportMetric(nanoseconds(used.cpu)/commands/1e3, "cpu-us/command")
		})
	}
}

// usage adds up time and this process's CPU time.
type usage struct{ time, cpu time.Duration }

func (u *usage) measure(f func()) {
	runtime.GC()
	before := cpuTime()
	u.time += timed(f)
	u.cpu += cpuTime() - before
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var used syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
