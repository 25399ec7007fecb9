package listing

import (
	"context"
	"errors"
	"net"
	"sync"

	"go.uber.org/atomic"
)

// maxRequests bounds how many requests one lookupd gets at a time: it serves
// each by looking at everything it has.
const maxRequests = 4

// Lookups asks a lookupd who has the topics, at most 4 at a time. asked is called
// after each answer, by several goroutines. The first request that fails ends it.
func (c *Client) Lookups(ctx context.Context, lookupd string, topics []string, asked func()) (map[string]Topic, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answers := make([]Topic, len(topics))
	Parallel(len(topics), maxRequests, func(i int) {
		var err error
		if answers[i], err = c.Lookup(ctx, lookupd, topics[i]); err != nil {
			cancel(err)
		}
		asked()
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	found := make(map[string]Topic, len(topics))
	for i, topic := range topics {
		found[topic] = answers[i]
	}
	return found, nil
}

// Parallel calls do for 0 to n-1, at most limit calls at a time, and returns when
// all have returned.
func Parallel(n, limit int, do func(i int)) {
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(n, limit) {
		workers.Go(func() {
			for i := int(next.Inc()) - 1; i < n; i = int(next.Inc()) - 1 {
				do(i)
			}
		})
	}
	workers.Wait()
}

// Reach dials the address that consumers are sent to, and returns what is wrong
// with it. dial must return when ctx ends, which has to end for that reason alone.
func Reach(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), p Producer) []Finding {
	conn, err := dial(ctx, "tcp", p.Address())
	if err == nil {
		conn.Close()
		return nil
	}
	kind := NotReachable
	if dns := new(net.DNSError); errors.As(err, &dns) {
		kind = NotResolvable
	}
	return []Finding{{Kind: kind, Broker: p.Address(), Detail: clean(err.Error())}}
}
