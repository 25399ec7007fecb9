package main_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// visibility measures how long a new topic takes from Notify to the lookupds.
type visibility struct {
	loop     *lookuploop.Loop
	end      func()
	lookupds []*lookupdtest.Server // the healthy ones
	topics   int
	sample
}

// newVisibility runs a Loop with two healthy lookupds, and others. It has so
// many topics that a lookupd that answers none of them leaves a window full.
func newVisibility(b *testing.B, edits ...func(*lookuploop.Options)) *visibility {
	v := &visibility{lookupds: []*lookupdtest.Server{lookupdtest.NewServer(), lookupdtest.NewServer()}}
	healthy := func(o *lookuploop.Options) {
		for _, lookupd := range v.lookupds {
			o.LookupdTCPAddresses = append(o.LookupdTCPAddresses, lookupd.TCPAddress)
		}
	}
	v.loop = newLoop(b, append([]func(*lookuploop.Options){healthy}, edits...)...)
	v.end = run(b, v.loop)
	require.NoError(b, v.loop.SetMetadata(someMetadata(2*wire.FirstWindow)))
	registered(b, v.loop, len(v.lookupds))
	return v
}

func (v *visibility) close() {
	v.end()
	for _, lookupd := range v.lookupds {
		lookupd.Close()
	}
}

// measure makes a topic and waits until it is visible at the healthy lookupds.
func (v *visibility) measure(b *testing.B) {
	v.topics++
	topic := fmt.Sprintf("orders-%d", v.topics)
	start := time.Now()
	require.NoError(b, v.loop.Notify(lookuploop.TopicCreated(topic)))
	for _, lookupd := range v.lookupds {
		err := lookupd.Wait(b.Context(), func() bool { return len(lookupd.Producers(topic, "")) > 0 })
		require.NoError(b, err)
	}
	v.sample = append(v.sample, time.Since(start))
}

// BenchmarkIsolation measures how long a new topic takes to be visible at two
// healthy lookupds, with and without three more of which one hangs at the first
// REGISTER, connected and with a full window, one refuses connections and one
// is a black hole. The Loops are impatient, so that all three are given up and
// tried again all the time: attempts is how often.
//
// Reported are ns/op and p99-ns of the first, and p50-alone and p99-alone, how
// many times as long it takes as without the bad ones.
func BenchmarkIsolation(b *testing.B) {
	hung := lookupdtest.NewServer()
	defer hung.Close()
	hung.Do(lookupdtest.On("REGISTER", lookupdtest.Hang()))
	const blackHole = "blackhole.test:4160"

	impatient := func(o *lookuploop.Options) {
		o.DialTimeout = 20 * time.Millisecond
		o.ResponseTimeout = 20 * time.Millisecond
		o.MaxBackoff = 20 * time.Millisecond
	}
	alone := newVisibility(b, impatient)
	defer alone.close()
	among := newVisibility(b, impatient, func(o *lookuploop.Options) {
		o.LookupdTCPAddresses = append(o.LookupdTCPAddresses, hung.TCPAddress, freeAddress(b), blackHole)
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == blackHole {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	defer among.close()
	for b.Loop() {
		inTurns(func() { alone.measure(b) }, func() { among.measure(b) })
	}
	for _, lookupd := range append(alone.loop.Status().Lookupds, among.loop.Status().Lookupds[:2]...) {
		require.Zero(b, lookupd.Failures, "of a healthy lookupd, the last: %v", lookupd.LastError)
	}
	attempts := uint64(math.MaxUint64)
	for _, bad := range among.loop.Status().Lookupds[2:] {
		attempts = min(attempts, bad.Failures)
	}
	b.ReportMetric(float64(attempts), "attempts")
	b.ReportMetric(nanoseconds(among.at(0.5)), "ns/op")
	b.ReportMetric(nanoseconds(among.at(0.99)), "p99-ns")
	b.ReportMetric(ratio(among.at(0.5), alone.at(0.5)), "p50-alone")
	b.ReportMetric(ratio(among.at(0.99), alone.at(0.99)), "p99-alone")
}

// BenchmarkVisible measures how long a new topic takes from Notify until one
// lookupd shows it (ns/op, the median) and until its answer is there (acked-ns),
// beside a REGISTER and its answer on a bare connection (bare-ns). visible-bare
// and acked-bare are how many times as long.
func BenchmarkVisible(b *testing.B) {
	v := newVisibility(b)
	defer v.close()
	first, second := v.lookupds[0], v.lookupds[1]
	require.NoError(b, v.loop.SetLookupdTCPAddresses([]string{first.TCPAddress}))
	v.lookupds = v.lookupds[:1]
	defer second.Close()
	bareConn := dialSingle(b, first.TCPAddress).conn
	defer bareConn.Close()
	require.NoError(b, bareConn.SetDeadline(time.Time{}))
	answer := make([]byte, len("\x00\x00\x00\x02OK"))

	var acked, bare sample
	i := 0
	for b.Loop() {
		i++
		inTurns(
			func() { v.measure(b) },
			func() {
				acked = append(acked, timed(func() {
					require.NoError(b, v.loop.Notify(lookuploop.TopicCreated(fmt.Sprintf("acked-%d", i))))
					registered(b, v.loop, 1)
				}))
			},
			func() {
				command := fmt.Appendf(nil, "REGISTER bare-%d\n", i)
				bare = append(bare, timed(func() {
					_, err := bareConn.Write(command)
					require.NoError(b, err)
					_, err = io.ReadFull(bareConn, answer)
					require.NoError(b, err)
				}))
			},
		)
	}
	b.ReportMetric(nanoseconds(v.at(0.5)), "ns/op")
	b.ReportMetric(nanoseconds(v.at(0.99)), "p99-ns")
	b.ReportMetric(nanoseconds(acked.at(0.5)), "acked-ns")
	b.ReportMetric(nanoseconds(bare.at(0.5)), "bare-ns")
	b.ReportMetric(ratio(v.at(0.5), bare.at(0.5)), "visible-bare")
	b.ReportMetric(ratio(acked.at(0.5), bare.at(0.5)), "acked-bare")
}

// BenchmarkNotify measures what Notify costs the broker that calls it: ns/op,
// and x-map, how many times as long as it takes to note the same in a brokerMap.
func BenchmarkNotify(b *testing.B) {
	const known = "orders-000001"
	m := someMetadata(10_000)
	filled := func(b *testing.B) (*lookuploop.Loop, *brokerMap) {
		loop := newLoop(b)
		require.NoError(b, loop.SetMetadata(m))
		return loop, newBrokerMap(m)
	}
	b.Run("known", func(b *testing.B) {
		loop, names := filled(b)
		notifyBesideMap(b,
			func(int) error { return loop.Notify(lookuploop.TopicCreated(known)) },
			func(int) { names.createTopic(known) })
	})
	b.Run("deleted-and-created", func(b *testing.B) {
		loop, names := filled(b)
		notifyBesideMap(b,
			func(int) error {
				return errors.Join(loop.Notify(lookuploop.TopicDeleted(known)), loop.Notify(lookuploop.TopicCreated(known)))
			},
			func(int) {
				names.deleteTopic(known)
				names.createTopic(known)
			})
	})
	b.Run("new-topic-and-channel", func(b *testing.B) { // 10,000, then from the beginning
		var loop *lookuploop.Loop
		var names *brokerMap
		notifyBesideMap(b,
			func(i int) error {
				if i%len(m.Topics) == 0 {
					loop = newLoop(b)
				}
				topic := m.Topics[i%len(m.Topics)].Name
				return loop.Notify(lookuploop.TopicCreated(topic), lookuploop.ChannelCreated(topic, "archive"))
			},
			func(i int) {
				if i%len(m.Topics) == 0 {
					names = newBrokerMap(lookuploop.Metadata{})
				}
				topic := m.Topics[i%len(m.Topics)].Name
				names.createTopic(topic)
				names.createChannel(topic, "archive")
			})
	})
}

// notifyBesideMap measures both in turns, 1,000 calls each. They get the number
// of the call.
func notifyBesideMap(b *testing.B, notify func(int) error, note func(int)) {
	const batch = 1000
	call := func(i int) {
		if err := notify(i); err != nil {
			b.Fatal(err)
		}
	}
	var ours, reference time.Duration
	calls := 0
	for b.Loop() {
		inTurns(
			func() {
				ours += timed(func() {
					for i := range batch {
						call(calls + i)
					}
				})
			},
			func() {
				reference += timed(func() {
					for i := range batch {
						note(calls + i)
					}
				})
			},
		)
		calls += batch
	}
	b.ReportMetric(nanoseconds(ours)/float64(calls), "ns/op")
	b.ReportMetric(ratio(ours, reference), "x-map")

	b.ReportAllocs() // of ours alone:
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range batch {
		call(calls + i)
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64((after.Mallocs-before.Mallocs)/batch), "allocs/op")
	b.ReportMetric(float64((after.TotalAlloc-before.TotalAlloc)/batch), "B/op")
}

// BenchmarkNotifyParallel measures Notify of a known name by 8 goroutines
// beside the same under a bare sync.Mutex, which leaves Notify nobody to wait
// for: ns/op, and x-mutex, how many times as long as that it takes.
func BenchmarkNotifyParallel(b *testing.B) {
	loop := newLoop(b)
	require.NoError(b, loop.SetMetadata(someMetadata(10_000)))
	const goroutines, each = 8, 10_000
	parallel := func(f func()) time.Duration {
		return timed(func() {
			var all sync.WaitGroup
			for range goroutines {
				all.Go(func() {
					for range each {
						f()
					}
				})
			}
			all.Wait()
		})
	}
	notify := func() { loop.Notify(lookuploop.TopicCreated("orders-000001")) }
	var mu sync.Mutex
	var ours, mutex sample
	for b.Loop() {
		inTurns(
			func() { ours = append(ours, parallel(notify)) },
			func() {
				mutex = append(mutex, parallel(func() {
					mu.Lock()
					defer mu.Unlock()
					notify()
				}))
			},
		)
	}
	b.ReportMetric(nanoseconds(ours.at(0.5))/(goroutines*each), "ns/op")
	b.ReportMetric(ratio(ours.at(0.5), mutex.at(0.5)), "x-mutex")
}

// BenchmarkNotifyDuringSync measures single calls of Notify, of known names and
// new ones in turns, while 100,000 REGISTERs are being sent, and when nothing
// is: ns/op and p99.9-ns during the sync, idle-p99.9-ns, and x-idle, how many
// times as long the p99.9 is during the sync.
func BenchmarkNotifyDuringSync(b *testing.B) {
	const entries = 100_000
	lookupd := startHelper(b, "lookupdtest")
	defer lookupd.end()
	var busy, idle sample
	for b.Loop() {
		loop := newLoop(b, func(o *lookuploop.Options) { o.LookupdTCPAddresses = []string{lookupd.address} })
		require.NoError(b, loop.SetMetadata(someMetadata(entries)))
		topics := 0
		notify := func(s *sample) {
			topics++
			event := lookuploop.TopicCreated("orders-000001")
			if topics%2 == 0 {
				event = lookuploop.TopicCreated(fmt.Sprintf("new-%d", topics))
			}
			*s = append(*s, timed(func() {
				if err := loop.Notify(event); err != nil {
					b.Fatal(err)
				}
			}))
		}
		for range entries {
			notify(&idle)
		}
		synced := make(chan error, 1) // when lookupd knows all there was before
		go func() { synced <- loop.WaitRegistered(b.Context(), 1) }()
		end := run(b, loop)
		for len(synced) == 0 {
			notify(&busy)
		}
		require.NoError(b, <-synced)
		end()
	}
	b.ReportMetric(nanoseconds(busy.at(0.5)), "ns/op")
	b.ReportMetric(nanoseconds(busy.at(0.999)), "p99.9-ns")
	b.ReportMetric(nanoseconds(idle.at(0.999)), "idle-p99.9-ns")
	b.ReportMetric(ratio(busy.at(0.999), idle.at(0.999)), "x-idle")
}
