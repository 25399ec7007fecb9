package main

import (
	"fmt"
	"strings"
)

// shortTable is for a reader who wants to know in one look what the library costs
// a broker.
func shortTable(b *strings.Builder, r results) {
	median := func(benchmark, unit string, format func(float64) string) string {
		if s := r.metrics[benchmark][unit]; len(s) > 0 {
			return format(s.median())
		}
		return "–"
	}
	lookupd := "nsqlookupd"
	if r.metrics["Sync/lookupd=nsqlookupd/n=10000/ms=1"] == nil {
		lookupd = "lookupdtest"
	}
	sync := func(n, ms int) string { return fmt.Sprintf("Sync/lookupd=%s/n=%d/ms=%d", lookupd, n, ms) }
	b.WriteString("| for a broker | lookuploop | nsqd's way | the limit |\n|---|---|---|---|\n")
	for _, row := range [][4]string{
		{
			fmt.Sprintf("10,000 topics are known to an %s 1 ms away", lookupd),
			median(sync(10_000, 1), "ns/op", duration),
			median(sync(10_000, 1), "single-ns/op", duration) + ", one at a time",
			fmt.Sprintf("its own speed, of which this is %s", median(sync(10_000, 1), "x-raw", share)),
		},
		{
			"100,000, 10 ms away",
			median(sync(100_000, 10), "ns/op", duration),
			median(sync(100_000, 10), "single-ns/op", duration),
			fmt.Sprintf("the same: %s", median(sync(100_000, 10), "x-raw", share)),
		},
		{
			"a new topic is visible on loopback",
			median("Visible", "ns/op", duration),
			"the same, or up to 15 s where a connection was lost",
			fmt.Sprintf("a REGISTER and its answer, of which this takes %s", median("Visible", "visible-bare", share)),
		},
		{
			"… while 3 of 5 lookupds hang or are down",
			median("Isolation", "ns/op", duration),
			"1 to 4 s",
			fmt.Sprintf("none hangs, of which this takes %s", median("Isolation", "p50-alone", share)),
		},
		{
			"Notify of a known name",
			median("Notify/known", "ns/op", duration),
			"waits for the disk and each lookupd",
			"a map and a mutex: " + median("Notify/known", "x-map", times) + " of that",
		},
		{
			"Notify, with 1,000,000 names, while they are declared anew: p99.9",
			median("NotifyLatency/topics=1000000/nsqd.dat=true/declarations", "p99.9-ns", duration),
			"",
			"1 ms",
		},
		{
			"20,000 new topics are on disk",
			median("Burst/topics=20000", "ns/op", duration),
			median("Burst/topics=500", "x-each", times) + " as long, for 500",
			"the file, written and synced once",
		},
		{
			"100,000 topics with a channel each are loaded",
			median("LoadMetadata", "ns/op", duration),
			"",
			"json.Unmarshal of the file: " + median("LoadMetadata", "x-json", times) + " of that",
		},
		{
			"memory for each topic or channel",
			median("Memory", "B/registration", bytesOf),
			"",
			"a map: " + median("Memory", "x-map", times) + " of that",
		},
	} {
		fmt.Fprintf(b, "| %s |\n", strings.Join(row[:], " | "))
	}
}

// latencyTable shows what BenchmarkNotifyLatency and BenchmarkLongestHold measured.
func latencyTable(b *strings.Builder, r results) {
	b.WriteString("A call each 100 µs, of a known name and of one that comes and goes in turns. The longest calls are the machine's and the garbage collector's. So the same call at a second Loop, which has nothing else to do, is measured beside it.\n\n")
	b.WriteString("| names | nsqd.dat | meanwhile | p50 | p99 | p99.9 (≤ 1 ms) | … at an idle Loop | longest | … at an idle Loop |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, names := range []int{10_000, 100_000, 1_000_000} {
		for _, hasDataPath := range []bool{false, true} {
			for _, work := range []string{"nothing", "sync", "declarations", "pages"} {
				m := r.metrics[fmt.Sprintf("NotifyLatency/topics=%d/nsqd.dat=%v/%s", names, hasDataPath, work)]
				onDisk := "no"
				if hasDataPath {
					onDisk = "yes"
				}
				fmt.Fprintf(b, "| %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", names, onDisk, work,
					cell(m["p50-ns"], duration), cell(m["p99-ns"], duration), cell(m["p99.9-ns"], duration, atMost(1e6)),
					cell(m["idle-p99.9-ns"], duration), cell(m["max-ns"], duration), cell(m["idle-max-ns"], duration))
			}
		}
	}
	b.WriteString("\n| names | the registry's lock is held for | p99.9 | at most | at most, of the processor's time (≤ 2 ms) |\n|---|---|---|---|---|\n")
	for _, names := range []int{10_000, 100_000, 1_000_000} {
		for _, work := range []string{"snapshot", "declaration_with_one_new"} {
			m := r.metrics[fmt.Sprintf("LongestHold/names=%d/%s", names, work)]
			fmt.Fprintf(b, "| %d | %s | %s | %s | %s |\n", names, strings.ReplaceAll(work, "_", " "),
				cell(m["p99.9-hold-ns"], duration), cell(m["hold-ns"], duration), cell(m["cpu-hold-ns"], duration, atMost(2e6)))
		}
	}
}
