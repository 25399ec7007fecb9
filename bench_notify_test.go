package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// visibility measures how long a new topic takes from Notify to the lookupds.
type visibility struct {
	loop     *Loop
	end      func()
	lookupds []*lookupdtest.Server // the healthy ones
	topics   int
	sample
}

// newVisibility runs a Loop with two healthy lookupds, and others.
func newVisibility(b *testing.B, edits ...func(*Options)) *visibility {
	v := &visibility{lookupds: []*lookupdtest.Server{lookupdtest.NewServer(), lookupdtest.NewServer()}}
	healthy := func(o *Options) {
		for _, lookupd := range v.lookupds {
			o.LookupdTCPAddresses = append(o.LookupdTCPAddresses, lookupd.TCPAddress)
		}
	}
	v.loop = newLoop(b, append([]func(*Options){healthy}, edits...)...)
	v.end = run(b, v.loop)
	require.NoError(b, v.loop.Notify(TopicCreated("first")))
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
	require.NoError(b, v.loop.Notify(TopicCreated(topic)))
	for _, lookupd := range v.lookupds {
		err := lookupd.Wait(b.Context(), func() bool { return len(lookupd.Producers(topic, "")) > 0 })
		require.NoError(b, err)
	}
	v.sample = append(v.sample, time.Since(start))
}

// BenchmarkIsolation measures how long a new topic takes to be visible at two
// healthy lookupds, with and without three more of which one hangs, one
// refuses connections and one is a black hole. Reported are ns/op and p99-ns
// of the first, and p50-alone and p99-alone, how many times as long it takes
// as without the bad ones.
func BenchmarkIsolation(b *testing.B) {
	hung := lookupdtest.NewServer()
	defer hung.Close()
	hung.Do(lookupdtest.Hang())
	const blackHole = "blackhole.test:4160"

	alone := newVisibility(b)
	defer alone.close()
	among := newVisibility(b, func(o *Options) {
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
					require.NoError(b, v.loop.Notify(TopicCreated(fmt.Sprintf("acked-%d", i))))
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

// BenchmarkNotify measures what Notify costs the broker that calls it.
func BenchmarkNotify(b *testing.B) {
	const known = "orders-000001"
	b.Run("known", func(b *testing.B) {
		loop := newLoop(b)
		require.NoError(b, loop.SetMetadata(someMetadata(10_000)))
		b.ReportAllocs()
		for b.Loop() {
			if err := loop.Notify(TopicCreated(known)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("deleted-and-created", func(b *testing.B) {
		loop := newLoop(b)
		require.NoError(b, loop.SetMetadata(someMetadata(10_000)))
		b.ReportAllocs()
		for b.Loop() {
			if err := errors.Join(loop.Notify(TopicDeleted(known)), loop.Notify(TopicCreated(known))); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("new-topic-and-channel", func(b *testing.B) {
		m := someMetadata(10_000)
		var loop *Loop
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i%len(m.Topics) == 0 {
				b.StopTimer()
				loop = newLoop(b)
				b.StartTimer()
			}
			name := m.Topics[i%len(m.Topics)].Name
			if err := loop.Notify(TopicCreated(name), ChannelCreated(name, "archive")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkNotifyParallel measures Notify of a known name by 8 goroutines
// beside the same work under a bare sync.Mutex: ns/op, and x-mutex, how many
// times as long as that it takes.
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
	events := []Event{TopicCreated("orders-000001")}
	var notify, mutex sample
	for b.Loop() {
		inTurns(
			func() { notify = append(notify, parallel(func() { loop.Notify(events...) })) },
			func() {
				mutex = append(mutex, parallel(func() {
					loop.reg.mu.Lock()
					defer loop.reg.mu.Unlock()
					loop.reg.check(events)
					loop.reg.apply(events[0])
				}))
			},
		)
	}
	b.ReportMetric(nanoseconds(notify.at(0.5))/(goroutines*each), "ns/op")
	b.ReportMetric(ratio(notify.at(0.5), mutex.at(0.5)), "x-mutex")
}

// BenchmarkNotifyDuringSync measures single calls of Notify, of known names and
// new ones in turns, while 100,000 REGISTERs are being sent, and when nothing
// is: ns/op and p99.9-ns during the sync, and idle-p99.9-ns.
func BenchmarkNotifyDuringSync(b *testing.B) {
	const entries = 100_000
	lookupd := startHelper(b, "lookupdtest")
	defer lookupd.end()
	var busy, idle sample
	for b.Loop() {
		loop := newLoop(b, func(o *Options) { o.LookupdTCPAddresses = []string{lookupd.address} })
		require.NoError(b, loop.SetMetadata(someMetadata(entries)))
		topics := 0
		notify := func(s *sample) {
			topics++
			event := TopicCreated("orders-000001")
			if topics%2 == 0 {
				event = TopicCreated(fmt.Sprintf("new-%d", topics))
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
		end := run(b, loop)
		for !loop.isSynced() {
			for range 100 {
				notify(&busy)
			}
		}
		end()
	}
	b.ReportMetric(nanoseconds(busy.at(0.5)), "ns/op")
	b.ReportMetric(nanoseconds(busy.at(0.999)), "p99.9-ns")
	b.ReportMetric(nanoseconds(idle.at(0.999)), "idle-p99.9-ns")
}

// isSynced tells whether the first lookupd knows all there was when it connected.
func (l *Loop) isSynced() bool {
	c := &l.lookupPeers()[0].cursor
	l.reg.mu.Lock()
	defer l.reg.mu.Unlock()
	return c.connected && c.acked >= c.goal
}
