package membroker

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

// The tests in this file run the whole chain with NSQ's own client: producers
// publish to the broker, and consumers that know only the lookupds' HTTP addresses find it.

func clientConfig() *nsq.Config {
	cfg := nsq.NewConfig()
	cfg.LookupdPollInterval = 50 * time.Millisecond
	cfg.LookupdPollJitter = 0
	cfg.MaxInFlight = 100
	cfg.HeartbeatInterval = 10 * time.Second
	cfg.MsgTimeout = time.Minute
	return cfg
}

// consume starts a consumer of the topic "chain".
func consume(t testing.TB, channel string, lookupds []string, handle nsq.HandlerFunc) *nsq.Consumer {
	t.Helper()
	c, err := nsq.NewConsumer("chain", channel, clientConfig())
	require.NoError(t, err)
	c.SetLogger(nil, nsq.LogLevelMax)
	c.SetLookupdHttpClient(&http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}})
	c.AddHandler(handle)
	require.NoError(t, c.ConnectToNSQLookupds(lookupds))
	t.Cleanup(func() { c.Stop(); <-c.StopChan })
	return c
}

// received counts the deliveries of one channel.
type received struct {
	mu    sync.Mutex
	times map[string]int
	again int // deliveries that were not a message's first
	want  int
	all   chan struct{} // closed when want different messages were seen
}

func newReceived(want int) *received {
	return &received{times: make(map[string]int), want: want, all: make(chan struct{})}
}

func (r *received) add(m *nsq.Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.times[string(m.Body)]++
	if m.Attempts > 1 {
		r.again++
	}
	if len(r.times) == r.want && r.times[string(m.Body)] == 1 {
		close(r.all)
	}
}

func (r *received) wait(t testing.TB) {
	t.Helper()
	select {
	case <-r.all:
	case <-time.After(patience):
		r.mu.Lock()
		defer r.mu.Unlock()
		require.FailNow(t, "messages are missing", "%d of %d seen", len(r.times), r.want)
	}
}

// publishAll publishes the numbers from 0 to n-1 with two producers, each a batch per tick.
func publishAll(t testing.TB, address string, n, batch int, tick time.Duration) {
	t.Helper()
	var producers sync.WaitGroup
	errs := make(chan error, 2)
	for half := range 2 {
		producer, err := nsq.NewProducer(address, clientConfig())
		require.NoError(t, err)
		producer.SetLogger(nil, nsq.LogLevelMax)
		defer producer.Stop()
		producers.Go(func() {
			ticker := time.NewTicker(tick)
			defer ticker.Stop()
			for i := half; i < n; i += 2 {
				if err := producer.Publish("chain", []byte(strconv.Itoa(i))); err != nil {
					errs <- fmt.Errorf("message %d: %w", i, err)
					return
				}
				if i/2%batch == 0 {
					<-ticker.C
				}
			}
		})
	}
	producers.Wait()
	select {
	case err := <-errs:
		require.NoError(t, err)
	default:
	}
}

// drained waits until the channels have nothing left: all messages are finished.
func (b *Broker) drained(t testing.TB) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.mu.RLock()
		defer b.mu.RUnlock()
		return b.topics["chain"].outstanding() == 0
	}, patience, 5*time.Millisecond)
}

func TestChain(t *testing.T) {
	t.Parallel()
	const messages = 10_000
	lookupd := lookupdtest.NewServer()
	t.Cleanup(lookupd.Close)
	b := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	require.NoError(t, b.createTopic("chain"))
	channels := map[string]*received{"a": newReceived(messages), "b": newReceived(messages)}
	for name, got := range channels {
		require.NoError(t, b.createChannel("chain", name))
		for range 3 {
			consume(t, name, []string{lookupd.HTTPAddress}, func(m *nsq.Message) error {
				got.add(m)
				if requeuedOnPurpose(string(m.Body)) && m.Attempts == 1 {
					m.RequeueWithoutBackoff(0)
				}
				return nil
			})
		}
	}
	publishAll(t, b.TCPAddress(), messages, messages, time.Millisecond)
	for name, got := range channels {
		got.wait(t)
		b.drained(t)
		for body, times := range got.times {
			want := 1
			if requeuedOnPurpose(body) {
				want = 2
			}
			require.Equal(t, want, times, "message %s in channel %s", body, name)
		}
		stats := b.stats("chain", name, false).Topics[0].Channels[0]
		require.EqualValues(t, messages, stats.MessageCount)
		require.EqualValues(t, messages/100, stats.RequeueCount)
		require.Equal(t, 3, stats.ClientCount)
	}
}

func requeuedOnPurpose(body string) bool { return strings.HasSuffix(body, "77") }

// The same while one lookupd is restarted every second and a consumer is
// killed with messages in flight: at least once, and all of them.
func TestChainWithTroubles(t *testing.T) {
	t.Parallel()
	messages, restartEvery := 2_000, time.Second/4
	if *long {
		messages, restartEvery = 10_000, time.Second
	}
	steady, restarted := lookupdtest.NewServer(), lookupdtest.NewServer()
	t.Cleanup(steady.Close)
	t.Cleanup(restarted.Close)
	b := start(t, Options{LookupdTCPAddresses: []string{restarted.TCPAddress, steady.TCPAddress}})
	lookupds := []string{restarted.HTTPAddress, steady.HTTPAddress}
	require.NoError(t, b.createTopic("chain"))
	channels := map[string]*received{"a": newReceived(messages), "b": newReceived(messages)}
	for name, got := range channels {
		require.NoError(t, b.createChannel("chain", name))
		for range 3 {
			consume(t, name, lookupds, func(m *nsq.Message) error { got.add(m); return nil })
		}
	}

	var troubles sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	restarts := 0
	troubles.Go(func() {
		ticker := time.NewTicker(restartEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				restarted.Stop()
				restarted.Start()
				restarts++
			case <-ctx.Done():
				return
			}
		}
	})
	killed := make(chan error, 1)
	troubles.Go(func() { killed <- killConsumer(ctx, lookupds) })

	publishAll(t, b.TCPAddress(), messages, 10, 10*time.Millisecond)
	for _, got := range channels {
		got.wait(t)
	}
	b.drained(t)
	require.NoError(t, <-killed)
	cancel()
	troubles.Wait()
	require.Greater(t, restarts, 2)
	require.Positive(t, channels["a"].again, "what the killed consumer had")
	require.Zero(t, channels["b"].again)
	deadline, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	require.NoError(t, restarted.Wait(deadline, func() bool { // the Loop may not have heard yet that the connection broke
		return len(restarted.Producers("chain", "a")) == 1
	}), "the restarted lookupd knows everything again")
}

// killConsumer runs a consumer in a process of its own and kills it as soon as it holds a message.
func killConsumer(ctx context.Context, lookupds []string) error {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "MEMBROKER_TEST_LOOKUPDS="+strings.Join(lookupds, ","))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		err = fmt.Errorf("the consumer to be killed got no message: %w", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	return err
}

// consumeUntilKilled is the process that killConsumer starts: it says when it got
// a message, and never finishes any.
func consumeUntilKilled(lookupds string) {
	c, err := nsq.NewConsumer("chain", "a", clientConfig())
	if err != nil {
		log.Fatal(err)
	}
	c.SetLogger(nil, nsq.LogLevelMax)
	c.AddHandler(nsq.HandlerFunc(func(*nsq.Message) error {
		fmt.Println("message")
		select {}
	}))
	if err := c.ConnectToNSQLookupds(strings.Split(lookupds, ",")); err != nil {
		log.Fatal(err)
	}
	select {}
}
