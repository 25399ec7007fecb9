package membroker

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// BenchmarkPublishWhileLookupdsHang publishes in turn to a broker whose three
// lookupds are healthy and to one whose three lookupds hang, TCP and HTTP, to one topic
// or with the first message of a new topic in each ten. p99-ratio is the hung one's 99th
// percentile over the healthy one's. (With new topics it is below 1: healthy lookupds
// answer, in this same process.)
func BenchmarkPublishWhileLookupdsHang(b *testing.B) {
	for name, newTopicEach := range map[string]int{"one topic": math.MaxInt, "new topics": 10} {
		b.Run(name, func(b *testing.B) {
			healthy, hung := newPublisher(b, false), newPublisher(b, true)
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				topic := "topic"
				if i%newTopicEach == 0 {
					topic = fmt.Sprintf("topic%d", i)
				}
				healthy.publish(topic)
				hung.publish(topic)
			}
			b.ReportMetric(float64(healthy.p99()), "healthy-p99-ns")
			b.ReportMetric(float64(hung.p99()), "hung-p99-ns")
			b.ReportMetric(float64(hung.p99())/float64(healthy.p99()), "p99-ratio")
		})
	}
}

type publisher struct {
	client *rawClient
	took   []time.Duration
}

func newPublisher(b *testing.B, hang bool) *publisher {
	release := make(chan struct{})
	var addresses []string
	var lookupds []*lookupdtest.Server
	for range 3 {
		lookupd := lookupdtest.NewUnstartedServer()
		if hang {
			lookupd.WrapHTTP = func(http.Handler) http.Handler {
				return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })
			}
		}
		lookupd.Start()
		b.Cleanup(lookupd.Close)
		lookupds = append(lookupds, lookupd)
		addresses = append(addresses, lookupd.TCPAddress)
	}
	b.Cleanup(func() { close(release) })
	broker := start(b, Options{LookupdTCPAddresses: addresses, MemQueueSize: 1 << 30})
	broker.waitRegistered(b)
	if hang {
		for _, lookupd := range lookupds {
			lookupd.Do(lookupdtest.Hang())
		}
	}
	return &publisher{client: dial(b, broker.TCPAddress())}
}

func (p *publisher) publish(topic string) {
	began := time.Now()
	p.client.publish(topic, "message")
	p.took = append(p.took, time.Since(began))
}

func (p *publisher) p99() time.Duration {
	slices.Sort(p.took)
	return p.took[len(p.took)*99/100]
}
