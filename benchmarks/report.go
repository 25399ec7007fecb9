package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const marker = "<!-- results -->"

// updateReport puts the tables between the markers of reportFile.
func updateReport(r results) error {
	text, err := os.ReadFile(reportFile)
	if err != nil {
		return err
	}
	parts := strings.Split(string(text), marker)
	if len(parts) != 3 {
		return fmt.Errorf("%s has %d markers %s instead of 2", reportFile, len(parts)-1, marker)
	}
	parts[1] = "\n" + tables(r) + "\n"
	return os.WriteFile(reportFile, []byte(strings.Join(parts, marker)), 0o644)
}

func tables(r results) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s CPUs (%s), %s/%s, %s. Each figure is the median of all runs, with the lowest and the highest in brackets. **Bold** figures miss their target.\n",
		r.about["date"], r.about["cpus"], r.about["cpu"], r.about["goos"], r.about["goarch"], r.about["go"])
	fmt.Fprintf(&b, "\n### At one look\n\n")
	shortTable(&b, r)
	fmt.Fprintf(&b, "\n### How long Notify takes\n\n")
	latencyTable(&b, r)
	fmt.Fprintf(&b, "\n### Full sync\n\n")
	syncTable(&b, r)
	fmt.Fprintf(&b, "\n### Everything else\n\n")
	targetTable(&b, r)
	fmt.Fprintf(&b, "\n### Scale\n\n")
	scaleTable(&b, r)
	fmt.Fprintf(&b, "\n### Simulated\n\n")
	simulated(&b, r)
	return b.String()
}

// target is what a figure should be: at most or at least.
type target struct {
	bound   float64
	atLeast bool
}

func atMost(bound float64) target  { return target{bound, false} }
func atLeast(bound float64) target { return target{bound, true} }

func (t target) isMet(value float64) bool {
	if t.atLeast {
		return value >= t.bound
	}
	return value <= t.bound
}

func (t target) show(format func(float64) string) string {
	if t.atLeast {
		return "≥ " + format(t.bound)
	}
	return "≤ " + format(t.bound)
}

// cell shows a figure, in bold if it falls short of its target. Whether it does
// is decided by the median.
func cell(s sample, format func(float64) string, t ...target) string {
	if len(s) == 0 {
		return "–"
	}
	text := format(s.median())
	if len(t) > 0 && !t[0].isMet(s.median()) {
		text = "**" + text + "**"
	}
	if len(s) == 1 {
		return text
	}
	return fmt.Sprintf("%s (%s – %s)", text, format(slices.Min(s)), format(slices.Max(s)))
}

func times(x float64) string {
	if x >= 1000 {
		return fmt.Sprintf("%.0f×", x)
	}
	return fmt.Sprintf("%.3g×", x)
}

func plain(x float64) string    { return fmt.Sprintf("%.3g", x) }
func share(x float64) string    { return fmt.Sprintf("%.0f %%", 100*x) }
func bytesOf(x float64) string  { return fmt.Sprintf("%.0f B", x) }
func megabyte(x float64) string { return fmt.Sprintf("%.1f MB", x) }

// duration shows two digits: more of them differ from run to run.
func duration(ns float64) string {
	for _, u := range []struct {
		unit string
		ns   float64
	}{{"ns", 1}, {"µs", 1e3}, {"ms", 1e6}, {"s", 1e9}} {
		x := ns / u.ns
		if rounded := roundTo2(x); rounded < 1000 || u.unit == "s" {
			return strconv.FormatFloat(rounded, 'f', -1, 64) + " " + u.unit
		}
	}
	panic("unreachable")
}

// roundTo2 rounds to two digits.
func roundTo2(x float64) float64 {
	rounded, _ := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 2, 64), 64) // the text of a number is one
	return rounded
}

// syncCase is one line of the table of syncs.
type syncCase struct {
	lookupd       string
	n, roundTrip  int
	single, ratio target
}

func (c syncCase) name() string {
	return fmt.Sprintf("Sync/lookupd=%s/n=%d/ms=%d", c.lookupd, c.n, c.roundTrip)
}

// isReckoned tells whether one at a time was not measured to the end.
func (c syncCase) isReckoned(r results) bool {
	commands := r.metrics[c.name()]["single-commands"]
	return len(commands) == 0 || commands.median() < float64(c.n)
}

func syncCases(r results) (cases []syncCase) {
	fasterThanSingle := map[int]float64{0: 8, 1: 100, 10: 700}
	for _, lookupd := range []string{"nsqlookupd", "lookupdtest"} {
		for _, n := range []int{10_000, 100_000} {
			for _, ms := range []int{0, 1, 10} {
				c := syncCase{lookupd, n, ms, atLeast(fasterThanSingle[ms]), atLeast(0.85)}
				if r.metrics[c.name()] != nil {
					cases = append(cases, c)
				}
			}
		}
	}
	return cases
}

func syncTable(b *strings.Builder, r results) {
	b.WriteString("| lookupd | REGISTERs | round trip | lookuploop | prebuilt bytes | one at a time (≈: extrapolated from the first ones) | rate of prebuilt bytes (≥ 0.85×) | one at a time (≥ 8×, 100×, 700×) | the same for prebuilt bytes: the upper limit | its CPU per command (≤ 0.5×) |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|\n")
	for _, c := range syncCases(r) {
		m := r.metrics[c.name()]
		single := cell(m["single-ns/op"], duration)
		ratio := cell(m["x-single"], times, c.single)
		if ceiling := m["raw-single"]; len(ceiling) > 0 && !c.single.isMet(ceiling.median()) {
			ratio = cell(m["x-single"], times) + ", as fast as it is itself"
		}
		if c.isReckoned(r) {
			single = "≈ " + single
		}
		fmt.Fprintf(b, "| %s | %d | %d ms | %s | %s | %s | %s | %s | %s | %s |\n", c.lookupd, c.n, c.roundTrip,
			cell(m["ns/op"], duration), cell(m["raw-ns/op"], duration), single,
			cell(m["x-raw"], times, c.ratio), ratio, cell(m["raw-single"], times),
			cell(m["cpu-single"], times, atMost(0.5)))
	}
}

func targetTable(b *strings.Builder, r results) {
	b.WriteString("| what | measured | target |\n|---|---|---|\n")
	for _, row := range []struct {
		what, benchmark, unit string
		format                func(float64) string
		targets               []target
	}{
		{"new topic visible at 2 healthy lookupds, 3 bad ones beside them: p50", "Isolation", "ns/op", duration, nil},
		{"… compared with none beside them", "Isolation", "p50-alone", times, []target{atMost(1.2)}},
		{"… p99", "Isolation", "p99-ns", duration, nil},
		{"… compared with none beside them", "Isolation", "p99-alone", times, []target{atMost(1.2)}},
		{"… attempts that each of the bad ones failed", "Isolation", "attempts", plain, nil},
		{"new topic visible on loopback: p50", "Visible", "ns/op", duration, nil},
		{"… compared with a bare REGISTER and its answer", "Visible", "visible-bare", times, []target{atMost(1.5)}},
		{"… until WaitRegistered returns, compared with the same", "Visible", "acked-bare", times, nil},
		{"Notify, known name", "Notify/known", "ns/op", duration, []target{atMost(200)}},
		{"… allocations", "Notify/known", "allocs/op", plain, []target{atMost(0)}},
		{"… compared with a map and a mutex", "Notify/known", "x-map", times, nil},
		{"Notify, delete and create", "Notify/deleted-and-created", "ns/op", duration, []target{atMost(1000)}},
		{"… compared with a map and a mutex", "Notify/deleted-and-created", "x-map", times, nil},
		{"Notify, new topic and channel", "Notify/new-topic-and-channel", "ns/op", duration, []target{atMost(2000)}},
		{"… compared with a map and a mutex", "Notify/new-topic-and-channel", "x-map", times, nil},
		{"Notify by 8 goroutines", "NotifyParallel", "ns/op", duration, nil},
		{"… compared with the same work under a bare mutex", "NotifyParallel", "x-mutex", times, nil},
		{"Notify while 100,000 REGISTERs are sent: p99.9", "NotifyDuringSync", "p99.9-ns", duration, []target{atMost(1e6)}},
		{"… while nothing is sent: p99.9", "NotifyDuringSync", "idle-p99.9-ns", duration, nil},
		{"… compared with that", "NotifyDuringSync", "x-idle", times, nil},
		{"memory for a registration", "Memory", "B/registration", bytesOf, []target{atMost(250)}},
		{"… compared with a map", "Memory", "x-map", times, nil},
		{"… after 10 lookupds were told", "Memory", "B/registration-10-lookupds", bytesOf, []target{atMost(250)}},
		{"memory for a connected idle lookupd", "Memory", "B/lookupd", bytesOf, []target{atMost(32 << 10)}},
		{"500 new topics on disk", "Burst/topics=500", "ns/op", duration, nil},
		{"… compared with a write for each", "Burst/topics=500", "x-each", times, nil},
		{"… bytes written by a write for each, compared with the file's", "Burst/topics=500", "each-x-size", times, nil},
		{"20,000 new topics on disk", "Burst/topics=20000", "ns/op", duration, []target{atMost(1e9)}},
		{"… bytes written, compared with the file's", "Burst/topics=20000", "x-size", times, []target{atMost(5)}},
		{"LoadMetadata, 100,000 topics with a channel each", "LoadMetadata", "ns/op", duration, []target{atMost(1e9)}},
		{"… compared with json.Unmarshal alone", "LoadMetadata", "x-json", times, []target{atMost(1.5)}},
		{"a snapshot of 100,000 topics, in pieces", "Snapshot/topics", "ns/op", duration, nil},
		{"… compared with a plain copy", "Snapshot/topics", "x-copy", times, nil},
		{"… of 50,000 topics with a channel each", "Snapshot/channels", "ns/op", duration, nil},
		{"… compared with a plain copy", "Snapshot/channels", "x-copy", times, nil},
	} {
		shown := ""
		if len(row.targets) > 0 {
			shown = row.targets[0].show(row.format)
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", row.what, cell(r.metrics[row.benchmark][row.unit], row.format, row.targets...), shown)
	}
}

func scaleTable(b *strings.Builder, r results) {
	b.WriteString("| lookupds | REGISTERs to each | time | per command | our CPU time per command | memory |\n|---|---|---|---|---|---|\n")
	for _, size := range [][2]int{{1, 10_000}, {3, 10_000}, {10, 10_000}, {1, 100_000}, {3, 100_000}, {3, 1_000_000}} {
		m := r.metrics[fmt.Sprintf("Scale/lookupds=%d/n=%d", size[0], size[1])]
		perCommand := func(us float64) string { return duration(us * 1e3) }
		fmt.Fprintf(b, "| %d | %d | %s | %s | %s | %s |\n", size[0], size[1],
			cell(m["ns/op"], duration), cell(m["us/command"], perCommand), cell(m["cpu-us/command"], perCommand), cell(m["MB"], megabyte))
	}
}

// simulated shows what was measured in virtual time.
func simulated(b *strings.Builder, r results) {
	b.WriteString("| lookupds, 50 ms away | REGISTERs to each | virtual time | round trips | memory | real time |\n|---|---|---|---|---|---|\n")
	for _, run := range r.attrs["TestScale"] {
		real, _ := time.ParseDuration(run["real"])
		var memory float64
		fmt.Sscan(run["memory"], &memory)
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", run["lookupds"], run["registrations"], run["virtual"],
			run["round-trips"], megabyte(memory/1e6), duration(float64(real)))
	}
	for _, run := range r.attrs["TestReconnectStorm"] {
		fmt.Fprintf(b, "\nA lookupd that %s Loops are connected to dies, and comes back after 60 s. In the first 100 ms, the busiest, there are %s attempts to connect: all Loops lose it at one instant, and the first pause of each is drawn between 0 and MinBackoff, which is 100 ms; some make their second attempt then too. From the 30th second on there are %s attempts to connect in 100 ms on average, and %s at most; at no instant more than %s. Until all are back it takes %s.\n",
			run["loops"], run["first-100ms"], run["late-mean"], run["late-most"], run["at-one-instant"], run["recovery"])
	}
}
