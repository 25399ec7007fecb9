package main_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// counted is a Loop and its lookupds in virtual time, and what is counted there. It
// is the Loop's resolver, its log and the transport of its HTTP client.
type counted struct {
	*testing.T
	*lookupdtest.Network
	loop     *lookuploop.Loop
	lookupds []*lookupdtest.Server
	commands atomic.Int64 // that came to all lookupds
	requests atomic.Int64 // by HTTP
	lookups  atomic.Int64 // of names
	lines    atomic.Int64 // in the log
	end      func()
}

// newCounted makes one with so many lookupds; it isn't run yet.
func newCounted(t *testing.T, lookupds int, edits ...func(*lookuploop.Options)) *counted {
	c := &counted{T: t, Network: lookupdtest.NewNetwork()}
	addresses := addressesOf(lookupds)
	for _, address := range addresses {
		lookupd := c.NewServer(address)
		t.Cleanup(lookupd.Close)
		lookupd.Do(lookupdtest.Observe(func(lookupdtest.Command) { c.commands.Add(1) }))
		c.lookupds = append(c.lookupds, lookupd)
	}
	c.loop = newLoop(t, append([]func(*lookuploop.Options){func(o *lookuploop.Options) {
		o.LookupdTCPAddresses, o.Dial, o.Resolver = addresses, c.Dial, c
		o.HTTPClient = &http.Client{Transport: c}
		o.BroadcastAddress = "127.0.0.1"
		o.Logger = slog.New(slog.NewTextHandler(c, nil))
	}}, edits...)...)
	return c
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests.Add(1)
	return c.Client().Transport.RoundTrip(r)
}

func (c *counted) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	c.lookups.Add(1)
	return c.Network.LookupNetIP(ctx, network, host)
}

func (c *counted) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	c.lookups.Add(1)
	return c.Network.LookupSRV(ctx, service, proto, name)
}

func (c *counted) Write(line []byte) (int, error) {
	c.lines.Add(1)
	return len(line), nil
}

// run runs the Loop with m until the lookupds know all that they don't refuse.
func (c *counted) run(m lookuploop.Metadata) {
	require.NoError(c, c.loop.SetMetadata(m))
	c.end = sync.OnceFunc(run(c, c.loop))
	c.Cleanup(c.end)
	c.settle()
}

// settle waits until the lookupds know all that they don't refuse.
func (c *counted) settle() {
	isBehind := func(s lookuploop.LookupdStatus) bool { return s.State != lookuploop.Connected || s.Pending > 0 }
	for {
		synctest.Wait()
		if !slices.ContainsFunc(c.loop.Status().Lookupds, isBehind) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// during returns how much a counter grows while f runs.
func during(counter *atomic.Int64, f func()) int {
	before := counter.Load()
	f()
	synctest.Wait()
	return int(counter.Load() - before)
}

// hour lets an hour pass.
func hour() { time.Sleep(time.Hour) }

// refusedTopics are n topics of which every other one begins with bad-.
func refusedTopics(n int) lookuploop.Metadata {
	m := topicsOf(n, 0)
	for i := range m.Topics {
		if i%2 == 1 {
			m.Topics[i].Name = "bad-" + m.Topics[i].Name
		}
	}
	return m
}

// refusing makes n refused topics known to a lookupd that treats them so.
func refusing(c *counted, n int, order lookupdtest.Order) {
	c.lookupds[0].Do(lookupdtest.On("REGISTER bad-*", order))
	c.run(refusedTopics(2 * n))
	require.Len(c, c.loop.Status().Lookupds[0].Refused, n)
}

// withFile puts the Loop's DataPath into a folder of its own.
func withFile(t *testing.T, m lookuploop.Metadata) func(*lookuploop.Options) {
	dir := t.TempDir()
	loop := newLoop(t, func(o *lookuploop.Options) { o.DataPath = dir })
	_, err := loop.LoadMetadata()
	require.NoError(t, err)
	require.NoError(t, loop.SetMetadata(m))
	require.NoError(t, loop.Close())
	return func(o *lookuploop.Options) { o.DataPath = dir }
}

// every is an edit of Options that sets an interval.
func every(interval time.Duration, of func(*lookuploop.Options) *time.Duration) func(*lookuploop.Options) {
	return func(o *lookuploop.Options) { *of(o) = interval }
}

// jobs are what goes on in the background, and calls that wait for it.
var jobs = map[string]struct {
	promised growth
	n        int
	work     func(t *testing.T, n int) int
}{
	"commands of a sync, by topics": {linear, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		return during(&c.commands, func() { c.run(topicsOf(n, 1)) })
	}},
	"commands of a sync, by channels": {linear, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		return during(&c.commands, func() { c.run(topicsOf(1, n)) })
	}},
	"commands of a sync, by lookupds": {linear, 10, func(t *testing.T, n int) int {
		c := newCounted(t, n)
		return during(&c.commands, func() { c.run(topicsOf(10, 1)) })
	}},
	"commands, by changes during a sync": {linear, 200, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		c.lookupds[0].Do(lookupdtest.Rate(1000))
		require.NoError(t, c.loop.SetMetadata(topicsOf(5000, 0)))
		defer run(t, c.loop)()
		return during(&c.commands, func() {
			for i, event := range eventsOf(n, lookuploop.TopicCreated) {
				old := fmt.Sprintf("topic-%08d", i)
				require.NoError(t, c.loop.Notify(event, lookuploop.TopicDeleted(old), lookuploop.TopicCreated(old)))
				time.Sleep(time.Millisecond)
			}
			c.settle()
		})
	}},
	"commands of a change, by topics": {constant, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		c.run(topicsOf(n, 1))
		return during(&c.commands, func() {
			m := topicsOf(n, 1)
			m.Topics[n/2].Channels = nil
			require.NoError(t, c.loop.SetMetadata(m))
		})
	}},
	"commands of a deletion, by channels": {linear, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		c.run(topicsOf(1, n))
		return during(&c.commands, func() {
			require.NoError(t, c.loop.Notify(lookuploop.TopicDeleted("topic-00000000")))
			c.settle()
		})
	}},
	"commands of an hour, by topics": {constant, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		c.run(topicsOf(n, 1))
		return during(&c.commands, hour)
	}},
	"commands of an hour, by lookupds": {linear, 10, func(t *testing.T, n int) int {
		c := newCounted(t, n)
		c.run(topicsOf(1, 1))
		return during(&c.commands, hour)
	}},
	"commands of a resync, by topics": {linear, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1, every(time.Hour, func(o *lookuploop.Options) *time.Duration { return &o.ResyncInterval }))
		c.run(topicsOf(n, 1))
		return during(&c.commands, hour)
	}},
	"commands of the end, by topics": {constant, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		c.run(topicsOf(n, 1))
		require.NoError(t, c.loop.Notify(channelOfFirst("live#ephemeral")))
		c.settle()
		return during(&c.commands, c.end)
	}},
	"commands of the end, by ephemeral channels": {linear, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		c.run(topicsOf(1, 0))
		require.NoError(t, c.loop.Notify(eventsOf(n, func(name string) lookuploop.Event { return channelOfFirst(name + "#ephemeral") })...))
		c.settle()
		return during(&c.commands, c.end)
	}},
	"commands, by refused names": {linear, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		return during(&c.commands, func() { refusing(c, n, lookupdtest.BadTopic()) })
	}},
	"commands, by names that break the connection": {linear, 16, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		return during(&c.commands, func() { refusing(c, n, lookupdtest.Drop()) })
	}},
	"main connections, by refused names": {constant, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		refusing(c, n, lookupdtest.BadTopic())
		return int(c.loop.Status().Lookupds[0].Connects)
	}},
	"commands of an hour, by refused names": {constant, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		refusing(c, n, lookupdtest.BadTopic())
		return during(&c.commands, hour)
	}},
	"lines of an hour in the log, by refused names": {constant, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 1)
		return during(&c.lines, func() { refusing(c, n, lookupdtest.BadTopic()); hour() })
	}},
	"objects for waiters of a change": {linear, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 2)
		c.run(topicsOf(1, 1))
		return waiting(c, 1, n)
	}},
	"objects for waiters of a change each": {linear, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 2)
		c.run(topicsOf(1, 1))
		return waiting(c, n, n)
	}},
	"objects for a waiter, by changes": {linear, 50, func(t *testing.T, n int) int {
		c := newCounted(t, 2)
		c.run(topicsOf(1, 1))
		return waiting(c, n, 1)
	}},
	"writes of nsqd.dat, by changes in a second": {constant, 200, func(t *testing.T, n int) int {
		c := newCounted(t, 0, withFile(t, topicsOf(0, 0)))
		m, err := c.loop.LoadMetadata()
		require.NoError(t, err)
		c.run(m)
		for _, event := range eventsOf(n, lookuploop.TopicCreated) {
			require.NoError(t, c.loop.Notify(event))
			time.Sleep(time.Second / time.Duration(n))
		}
		require.NoError(t, c.loop.PersistMetadata(t.Context()))
		return int(c.loop.Status().Metadata.Writes)
	}},
	"bytes of nsqd.dat, by topics": {linear, 400, func(t *testing.T, n int) int {
		c := newCounted(t, 0, withFile(t, topicsOf(n, 1)))
		_, err := c.loop.LoadMetadata()
		require.NoError(t, err)
		defer c.loop.Close()
		require.NoError(t, c.loop.PersistMetadata(t.Context()))
		info, err := os.Stat(c.loop.Status().Metadata.Path)
		require.NoError(t, err)
		return int(info.Size())
	}},
	"requests of Verify, by named topics": {linear, 25, func(t *testing.T, n int) int {
		c := newCounted(t, 2)
		c.run(topicsOf(n, 1))
		var names []string
		for _, topic := range topicsOf(n, 1).Topics {
			names = append(names, topic.Name)
		}
		return during(&c.requests, func() { verify(c, names...) })
	}},
	"requests of Verify, by topics": {constant, 250, func(t *testing.T, n int) int {
		c := newCounted(t, 2)
		c.run(topicsOf(n, 1))
		return during(&c.requests, func() { verify(c) })
	}},
	"requests of Verify, by lookupds": {linear, 4, func(t *testing.T, n int) int {
		c := newCounted(t, n)
		c.run(topicsOf(10, 1))
		return during(&c.requests, func() { verify(c) })
	}},
	"requests of an hour, by topics": {constant, 250, func(t *testing.T, n int) int {
		c := newCounted(t, 1, every(30*time.Minute, func(o *lookuploop.Options) *time.Duration { return &o.VerifyInterval }))
		c.run(topicsOf(n, 1))
		return during(&c.requests, hour)
	}},
	"requests of TopicChannels, by lookupds": {linear, 4, func(t *testing.T, n int) int {
		c := newCounted(t, n)
		c.run(topicsOf(10, 1))
		return during(&c.requests, func() {
			_, err := c.loop.TopicChannels(t.Context(), "topic-00000000")
			require.NoError(t, err)
		})
	}},
	"look-ups of an hour, by names": {linear, 5, func(t *testing.T, n int) int {
		c := newNamed(t, n, 1)
		return during(&c.lookups, hour)
	}},
	"look-ups of an hour, by addresses of a name": {constant, 10, func(t *testing.T, n int) int {
		c := newNamed(t, 1, n)
		return during(&c.lookups, hour)
	}},
	"bytes of an hour of look-ups, by names": {linear, 10, func(t *testing.T, n int) int {
		newNamed(t, n, 1)
		return allocated(inBytes, func() func() { return hour })
	}},
}

// newNamed is a counted world that runs with names, each of which leads to so many
// addresses of lookupds.
func newNamed(t *testing.T, names, addresses int) *counted {
	c := newCounted(t, names*addresses, func(o *lookuploop.Options) {
		o.ResolveInterval, o.LookupdTCPAddresses = time.Minute, nil
		o.HeartbeatInterval = 100 * time.Second
	})
	var all []string
	for i := range names {
		var hosts []string
		for _, address := range addressesOf(names * addresses)[i*addresses:][:addresses] {
			host, _, err := net.SplitHostPort(address)
			require.NoError(t, err)
			hosts = append(hosts, host)
		}
		name := fmt.Sprintf("lookupd%d.test", i)
		c.SetHosts(name, hosts...)
		all = append(all, name+":4160")
	}
	require.NoError(t, c.loop.SetLookupdTCPAddresses(all))
	c.run(topicsOf(1, 1))
	return c
}

// verify expects no difference but that nobody answers at the broker's port.
func verify(c *counted, topics ...string) {
	v, err := c.loop.Verify(c.Context(), topics...)
	require.NoError(c, err)
	for _, l := range v.Lookupds {
		require.NoError(c, l.Err)
	}
	require.LessOrEqual(c, len(v.Findings), 1)
}

// waiting returns the objects that are allocated while so many wait until lookupds
// that are 200 ms away know so many changes, of which there is one a millisecond.
func waiting(c *counted, changes, waiters int) int {
	c.SetLatency(200 * time.Millisecond)
	round := 0
	return allocated(inObjects, func() func() {
		round++
		return func() {
			var all sync.WaitGroup
			for i := range max(changes, waiters) {
				if i < changes {
					require.NoError(c, c.loop.Notify(lookuploop.TopicCreated(fmt.Sprintf("new-%d-%d", round, i))))
				}
				if i < waiters {
					all.Go(func() { require.NoError(c, c.loop.WaitRegistered(c.Context(), 0)) })
				}
				time.Sleep(time.Millisecond)
			}
			all.Wait()
		}
	})
}

func TestGrowthOfJobs(t *testing.T) {
	for name, tt := range jobs {
		t.Run(name, func(t *testing.T) {
			requireGrowth(t, tt.promised, tt.n, func(t *testing.T, n int) (counted int) {
				inBubble(t, func(t *testing.T) { counted = tt.work(t, n) })
				return counted
			})
		})
	}
}
