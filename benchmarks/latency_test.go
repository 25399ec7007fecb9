package main_test

import (
	"fmt"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/statuspage"
)

// BenchmarkNotifyLatency measures single calls of Notify, of a known name and of
// one that comes and goes in turns, each 100 µs, while the Loop is busy with
// something: p50-ns, p99-ns, p99.9-ns and max-ns. The same calls at a second Loop,
// that has nothing else to do, tell what is the machine's and the garbage
// collector's: idle-p99.9-ns and idle-max-ns.
func BenchmarkNotifyLatency(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		for _, hasDataPath := range []bool{false, true} {
			for name, work := range map[string]func(*latencyBench) func(){
				"nothing":      func(*latencyBench) func() { return func() { time.Sleep(time.Millisecond) } },
				"sync":         (*latencyBench).sync,
				"declarations": (*latencyBench).declare,
				"pages":        (*latencyBench).pages,
			} {
				b.Run(fmt.Sprintf("topics=%d/nsqd.dat=%v/%s", n, hasDataPath, name), func(b *testing.B) {
					for b.Loop() {
						benchmarkLatency(b, n, hasDataPath, work)
					}
				})
			}
		}
	}
}

// latencyBench is a Loop that is measured.
type latencyBench struct {
	b    *testing.B
	loop *lookuploop.Loop
	m    lookuploop.Metadata // what it has
}

func benchmarkLatency(b *testing.B, n int, hasDataPath bool, work func(*latencyBench) func()) {
	lookupd := startHelper(b, "lookupdtest")
	defer lookupd.end()
	l := &latencyBench{b: b, m: someMetadata(n / 2)} // with a channel each
	l.loop = newLoop(b, func(o *lookuploop.Options) {
		o.LookupdTCPAddresses = []string{lookupd.address}
		if hasDataPath {
			o.DataPath = b.TempDir()
		}
	})
	_, err := l.loop.LoadMetadata()
	require.NoError(b, err)
	require.NoError(b, l.loop.SetMetadata(l.m))
	defer run(b, l.loop)()
	registered(b, l.loop, 1)

	stop := make(chan struct{})
	var busy sync.WaitGroup
	step := work(l)
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				step()
			}
		}
	})
	idle := newLoop(b)
	var ours, beside sample
	events := []lookuploop.Event{
		lookuploop.TopicCreated("orders-000001"), lookuploop.TopicCreated("new"),
		lookuploop.TopicCreated("orders-000002"), lookuploop.TopicDeleted("new"),
	}
	const span = 3 * time.Second
	for i, end := 0, time.Now().Add(span); time.Now().Before(end); i++ {
		event := events[i%len(events)]
		ours = append(ours, timedNotify(b, l.loop, event))
		beside = append(beside, timedNotify(b, idle, event))
		time.Sleep(100 * time.Microsecond)
	}
	close(stop)
	busy.Wait()
	b.ReportMetric(nanoseconds(ours.at(0.5)), "p50-ns")
	b.ReportMetric(nanoseconds(ours.at(0.99)), "p99-ns")
	b.ReportMetric(nanoseconds(ours.at(0.999)), "p99.9-ns")
	b.ReportMetric(nanoseconds(ours.at(1)), "max-ns")
	b.ReportMetric(nanoseconds(beside.at(0.999)), "idle-p99.9-ns")
	b.ReportMetric(nanoseconds(beside.at(1)), "idle-max-ns")
	b.ReportMetric(0, "ns/op")
}

func timedNotify(b *testing.B, loop *lookuploop.Loop, event lookuploop.Event) time.Duration {
	var err error
	took := timed(func() { err = loop.Notify(event) })
	require.NoError(b, err)
	return took
}

// sync lets the lookupd start over again and again.
func (l *latencyBench) sync() func() {
	address := l.loop.Status().Lookupds[0].Address
	return func() {
		require.NoError(l.b, l.loop.SetLookupdTCPAddresses(nil))
		require.NoError(l.b, l.loop.SetLookupdTCPAddresses([]string{address}))
		registered(l.b, l.loop, 1)
	}
}

// declare declares what there is with a topic more or less.
func (l *latencyBench) declare() func() {
	more := lookuploop.Metadata{Topics: append(l.m.Topics[:len(l.m.Topics):len(l.m.Topics)], lookuploop.TopicMetadata{Name: "more"})}
	return func() {
		for _, m := range []lookuploop.Metadata{more, l.m} {
			require.NoError(l.b, l.loop.SetMetadata(m))
		}
	}
}

// pages loads the page of a topic.
func (l *latencyBench) pages() func() {
	page := statuspage.Handler(l.loop)
	return func() {
		page.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/?topic=orders-000003", nil))
	}
}
