package main

import (
	"log"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(soakTask); task != "" { // this is a process of TestSoak
		if err := runSoakTask(task); err != nil {
			log.Fatal(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func TestParse(t *testing.T) {
	r := parse(`cpu: some
$ go test . -bench=x
BenchmarkSync/n=10/ms=1-2         	       1	  78547548 ns/op	       0.5 x-raw
BenchmarkSync/n=10/ms=1-2         	       1	  78547550 ns/op	       0.7 x-raw
=== RUN   TestStorm
=== ATTR  TestStorm attempts 3 4 5
--- PASS: TestStorm (1.00s)
ok  	github.com/lookuploop/lookuploop	0.600s
`)
	require.Equal(t, "some", r.about["cpu"])
	require.Equal(t, map[string]map[string]sample{
		"Sync/n=10/ms=1": {"ns/op": {78547548, 78547550}, "x-raw": {0.5, 0.7}},
	}, r.metrics)
	require.Equal(t, map[string][]map[string]string{"TestStorm": {{"attempts": "3 4 5"}}}, r.attrs)
}

func TestCell(t *testing.T) {
	require.Equal(t, "–", cell(nil, times))
	require.Equal(t, "2× (1× – 4×)", cell(sample{4, 1, 2}, times, atLeast(2)))
	require.Equal(t, "**2.5×** (2× – 3×)", cell(sample{2, 3}, times, atMost(2.4)))
	require.Equal(t, "**2×**", cell(sample{2}, times, atLeast(2.1)))
}
