package main_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// The benchmarks run what they compare in turns, in the same loop, and report
// ratios: a busy machine slows both sides, a ratio stays. BENCHMARKS.md says
// how to run all of them and what came out.

// patience is how long is waited for what is to happen; only a red test does.
const patience = time.Minute

// inBubble is synctest.Test. Under the race detector everything runs on one
// thread: two that look at due timers of one bubble at the same time can crash
// the detector itself (https://github.com/golang/go/issues/78156).
func inBubble(t *testing.T, f func(*testing.T)) {
	info, _ := debug.ReadBuildInfo()
	if slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	}
	synctest.Test(t, f)
}

// newLoop makes a Loop with the Options that it needs, and silence.
func newLoop(t testing.TB, edits ...func(*lookuploop.Options)) *lookuploop.Loop {
	opts := lookuploop.Options{
		BroadcastAddress:  "broker.test",
		BroadcastTCPPort:  4150,
		BroadcastHTTPPort: 4151,
		Logger:            slog.New(slog.DiscardHandler),
	}
	for _, edit := range edits {
		edit(&opts)
	}
	loop, err := lookuploop.New(opts)
	require.NoError(t, err)
	return loop
}

// run runs the Loop. end ends it and waits for it.
func run(b testing.TB, loop *lookuploop.Loop) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- loop.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(b, <-result)
	}
}

// registered waits until n lookupds know everything; 0: all.
func registered(b testing.TB, loop *lookuploop.Loop, n int) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*patience)
	defer cancel()
	require.NoError(b, loop.WaitRegistered(ctx, n))
}

// requireOneConnection makes sure that nothing was announced twice.
func requireOneConnection(b testing.TB, loop *lookuploop.Loop) {
	for _, lookupd := range loop.Status().Lookupds {
		require.EqualValues(b, 1, lookupd.Connects, "the last connection ended with: %v", lookupd.LastError)
	}
}

// inTurns calls each of fs once, in any order.
func inTurns(fs ...func()) {
	for _, i := range rand.Perm(len(fs)) {
		fs[i]()
	}
}

// timed returns how long f takes.
func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// sample is a number of measurements of one thing.
type sample []time.Duration

// at returns the quantile q, from 0 to 1.
func (s sample) at(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func nanoseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) }

// someMetadata is a broker with n channels, each in a topic of its own, which
// it takes n REGISTERs to announce.
func someMetadata(n int) (m lookuploop.Metadata) {
	for i := range n {
		m.Topics = append(m.Topics, lookuploop.TopicMetadata{
			Name:     fmt.Sprintf("orders-%06d", i),
			Channels: []lookuploop.ChannelMetadata{{Name: "archive"}},
		})
	}
	return m
}
