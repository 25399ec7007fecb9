package main

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A short soak, with as much in each second as there is in a minute of a long one.
func TestSoak(t *testing.T) {
	var out bytes.Buffer
	s := &soak{seed: rand.Uint64(), duration: 2 * time.Second, interval: time.Second, out: &out}
	err := s.run(t.Context())
	t.Log(out.String())
	require.NoError(t, err)
	require.NotEmpty(t, s.measured)
	for _, m := range s.measured {
		for _, use := range uses {
			require.NotZero(t, use.of(m), use.name)
		}
	}
}

// judge sees what grows, and only that.
func TestSoakSeesGrowth(t *testing.T) {
	measured := make([]Measurement, 60)
	for i := range measured {
		measured[i] = Measurement{Heap: 2 + rand.Float64()/10, RSS: 20, Descriptors: 14 + float64(i%2), Goroutines: 12}
	}
	measured[50].Heap = 100 // once
	s := &soak{out: t.Output(), measured: measured}
	require.NoError(t, s.judge())
	for i := range measured {
		measured[i].Descriptors += float64(i / 5) // one in five minutes
	}
	require.ErrorContains(t, s.judge(), "descriptors grew from")
	measured = measured[:8]
	s.measured = measured
	require.NoError(t, s.judge(), "too few checks")
}

func TestFreeAddressesAreDifferent(t *testing.T) {
	freeAddress := freeAddresses(rand.New(rand.NewPCG(1, 1)))
	seen := make(map[string]bool)
	for range 1000 {
		address := freeAddress()
		require.False(t, seen[address], address)
		seen[address] = true
	}
}
