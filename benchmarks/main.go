// Command benchmarks runs all benchmarks and shows what came out:
//
//	go run ./benchmarks
//
// from the top of the repository. It takes about ten minutes and wants a
// machine that does nothing else. What the benchmarks print goes to
// benchmarks/results.txt; medians and ratios, between the markers, into
// BENCHMARKS.md; the plots into benchmarks/*.svg; what benchstat makes of it
// into benchmarks/benchstat.txt. With NSQLOOKUPD naming the
// binary of a real nsqlookupd, full syncs are measured with that one too.
//
//	go run ./benchmarks -soak 60m
//
// measures nothing. For an hour two brokers and three lookupds, each a process of
// its own, live with random changes and faults. Each minute all must agree, and the
// memory, descriptors and goroutines of a broker must not grow. With NSQLOOKUPD one
// of the lookupds is a real one.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

const (
	resultsFile = "benchmarks/results.txt"
	reportFile  = "BENCHMARKS.md"
	syncPlot    = "benchmarks/sync.svg"
	stormPlot   = "benchmarks/storm.svg"
	statsFile   = "benchmarks/benchstat.txt"
)

// soakTask names the environment variable that makes this program a process of a soak.
const soakTask = "LOOKUPLOOP_SOAK"

// jobs are the calls of go test. Those that simulate are run once: their time
// is virtual. What needs the library's internals is measured beside them.
func jobs(count int) [][]string {
	const here, disk, registry = "./benchmarks", ".", "./internal/registry"
	bench := func(dir, pattern, benchtime string, count int) []string {
		return []string{dir, "-run=^$", "-bench=" + pattern, "-benchtime=" + benchtime, fmt.Sprint("-count=", count)}
	}
	return [][]string{
		bench(here, "^BenchmarkNotify$", "200ms", count),
		bench(here, "^BenchmarkNotifyParallel$", "20x", count),
		bench(here, "^BenchmarkNotifyDuringSync$", "1x", count),
		bench(here, "^BenchmarkNotifyLatency$", "1x", min(count, 3)),
		bench(registry, "^BenchmarkLongestHold$", "5x", min(count, 3)),
		bench(here, "^Benchmark(Isolation|Visible)$", "5000x", count),
		bench(here, "^BenchmarkMemory$", "1x", count),
		bench(disk, "^BenchmarkBurst$", "1x", count),
		bench(disk, "^BenchmarkLoadMetadata$", "3x", count),
		bench(disk, "^BenchmarkSnapshot$", "20x", count),
		bench(here, "^BenchmarkSync$", "1x", count),
		bench(here, "^BenchmarkScale$/lookupds/n=10{4,5}$", "1x", count),
		bench(here, "^BenchmarkScale$/lookupds/n=10{6}$", "1x", 1),
		{here, "-run=^TestReconnectStorm$", "-v", "-storm.loops=1000"},
		{here, "-run=^TestScale$", "-v", "-scale.lookupds=10", "-scale.registrations=10000"},
		{here, "-run=^TestScale$", "-v", "-scale.lookupds=10", "-scale.registrations=100000"},
		{here, "-run=^TestScale$", "-v", "-scale.lookupds=100", "-scale.registrations=100000"},
	}
}

func main() {
	log.SetFlags(0)
	count := flag.Int("count", 10, "how often each benchmark is run")
	render := flag.Bool("render", false, "run nothing: show the results that are in "+resultsFile)
	soak := flag.Duration("soak", 0, "run no benchmark, but brokers and lookupds with random faults, for this `time`")
	seed := flag.Uint64("seed", rand.Uint64(), "of the random faults of -soak")
	flag.Parse()
	var err error
	switch task := os.Getenv(soakTask); {
	case task != "":
		err = runSoakTask(task)
	case *soak > 0:
		err = runSoak(*soak, *seed)
	default:
		err = run(*count, *render)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func run(count int, render bool) error {
	var failed error
	if !render {
		failed = measure(count)
	}
	return errors.Join(failed, show())
}

// show makes the report, the plots and the statistics of what is in resultsFile.
func show() error {
	data, err := os.ReadFile(resultsFile)
	if err != nil {
		return err
	}
	results := parse(string(data))
	return errors.Join(
		updateReport(results),
		os.WriteFile(syncPlot, []byte(plotSync(results)), 0o644),
		os.WriteFile(stormPlot, []byte(plotStorm(results)), 0o644),
		writeStats(),
	)
}

// writeStats lets benchstat write medians with their 95 % confidence intervals.
func writeStats() error {
	cmd := exec.Command("go", "tool", "-modfile=tools/go.mod", "benchstat", "-table=goos,goarch,cpu", "-ignore=pkg", resultsFile)
	cmd.Stderr = os.Stderr
	stats, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("benchstat: %w", err)
	}
	return os.WriteFile(statsFile, stats, 0o644)
}

// measure writes what go test prints to resultsFile, and to the screen. A job
// that fails doesn't keep the others from running, nor what they measured from
// being shown.
func measure(count int) error {
	if os.Getenv("NSQLOOKUPD") == "" {
		log.Print("NSQLOOKUPD names no nsqlookupd: syncs are measured with lookupdtest only")
	}
	var results bytes.Buffer
	fmt.Fprintf(&results, "date: %s\ngo: %s\ncpus: %d\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.Version(), runtime.NumCPU())
	var failed []error
	start := time.Now()
	all := jobs(count)
	for i, args := range all {
		args = append([]string{"test", "-timeout=20m"}, args...)
		command := "go '" + strings.Join(args, "' '") + "'"
		log.Printf("\n[%d of %d, %v so far] %s", i+1, len(all), time.Since(start).Round(time.Second), command)
		fmt.Fprintf(&results, "\n$ %s\n", command)
		cmd := exec.Command("go", args...)
		cmd.Stdout = io.MultiWriter(os.Stdout, &results)
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			failed = append(failed, fmt.Errorf("%w: %s", err, command))
		}
		if err := os.WriteFile(resultsFile, results.Bytes(), 0o644); err != nil {
			return err
		}
	}
	log.Printf("\ndone in %v", time.Since(start).Round(time.Second))
	return errors.Join(failed...)
}
