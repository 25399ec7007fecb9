package main

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// results are what the benchmarks reported.
type results struct {
	about   map[string]string              // the machine: "cpu", "go", …
	metrics map[string]map[string]sample   // by benchmark, by unit
	attrs   map[string][]map[string]string // by test, for each run of it
}

// sample is one figure, of each run.
type sample []float64

func (s sample) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

var procs = regexp.MustCompile(`-\d+$`)

// parse reads what go test prints.
func parse(output string) results {
	r := results{
		about:   make(map[string]string),
		metrics: make(map[string]map[string]sample),
		attrs:   make(map[string][]map[string]string),
	}
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 4 && strings.HasPrefix(line, "Benchmark"):
			name := procs.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
			if r.metrics[name] == nil {
				r.metrics[name] = make(map[string]sample)
			}
			for i := 2; i+1 < len(fields); i += 2 { // after the number of iterations
				if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
					unit := fields[i+1]
					r.metrics[name][unit] = append(r.metrics[name][unit], value)
				}
			}
		case len(fields) == 3 && strings.HasPrefix(line, "=== RUN"):
			r.attrs[fields[2]] = append(r.attrs[fields[2]], make(map[string]string))
		case len(fields) >= 5 && strings.HasPrefix(line, "=== ATTR"):
			if runs := r.attrs[fields[2]]; len(runs) > 0 {
				runs[len(runs)-1][fields[3]] = strings.Join(fields[4:], " ")
			}
		default:
			if key, value, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, " ") {
				r.about[key] = strings.TrimSpace(value)
			}
		}
	}
	return r
}
