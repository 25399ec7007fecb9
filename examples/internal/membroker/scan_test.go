package membroker

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// TestIdleChannelsAreNotScanned: only those in which something waits for a time are.
func TestIdleChannelsAreNotScanned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := unserved(t, Options{})
		for i := range 1000 {
			require.NoError(t, b.createTopic(fmt.Sprintf("t%d", i)))
			require.NoError(t, b.createChannel(fmt.Sprintf("t%d", i), "c"))
		}
		synctest.Wait() // for the topics to start
		require.Empty(t, b.alarms.waiting())

		s := join(t, b, "t7", "c")
		s.client.msgTimeout = time.Minute
		s.channel.setReady(s, 2)
		require.NoError(t, b.publish("t7", newMessage([]byte("now"), 0), newMessage([]byte("later"), time.Hour)))
		require.Equal(t, []*channel{s.channel}, b.alarms.waiting())
		taken := s.channel.take(s, 1)
		b.alarms.requeueDue(time.Now().Add(2 * time.Minute))
		require.ErrorIs(t, s.channel.finish(s, taken[0].id), errNotInFlight, "it timed out")
		require.Len(t, b.alarms.waiting(), 1, "one message waits still")
		b.alarms.requeueDue(time.Now().Add(time.Hour))
		require.Empty(t, b.alarms.waiting())

		for _, m := range s.channel.take(s, 2) { // in flight: both wait for their timeout
			require.NoError(t, s.channel.requeue(s, m.id, time.Minute))
		}
		require.Len(t, b.alarms.waiting(), 1)
		require.NoError(t, b.deleteTopic("t7"))
		require.Empty(t, b.alarms.waiting(), "a deleted channel is forgotten")
	})
}

// BenchmarkScanOfIdleChannels is what 80,000 channels cost at each scanInterval.
func BenchmarkScanOfIdleChannels(b *testing.B) {
	broker := unserved(b, Options{})
	for i := range 80_000 {
		require.NoError(b, broker.createTopic(fmt.Sprintf("t%d", i/10)))
		require.NoError(b, broker.createChannel(fmt.Sprintf("t%d", i/10), fmt.Sprintf("c%d", i%10)))
	}
	for b.Loop() {
		broker.alarms.requeueDue(time.Now())
	}
}

func TestTopicTakesSomeOfManyChannels(t *testing.T) {
	lookupd := lookupdtest.NewUnstartedServer()
	lookupd.WrapHTTP = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			var answer struct {
				Channels []string `json:"channels"`
			}
			for i := range 3 * maxLookedUp {
				answer.Channels = append(answer.Channels, fmt.Sprintf("c%05d", i))
			}
			json.NewEncoder(w).Encode(answer)
		})
	}
	lookupd.Start()
	defer lookupd.Close()
	b := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	b.waitRegistered(t)
	names, err := b.lookupChannels(t.Context(), "t")
	require.Len(t, names, maxLookedUp)
	require.ErrorContains(t, err, "2000 of 3000 channels are left out")
}

// TestSomeConnectionsAreKeptForHTTP: who takes all that NSQ clients may have
// leaves the broker to be looked at.
func TestSomeConnectionsAreKeptForHTTP(t *testing.T) {
	const limit, kept = 10, 5
	b := start(t, Options{MaxConnections: limit})
	for range limit - kept {
		dial(t, b.TCPAddress()).publish("t", "hello") // it is accepted
	}
	dial(t, b.TCPAddress()).expectClosed()
	for range kept {
		dial(t, b.TCPAddress())
	}
	status, pong := b.do(t, "GET", "/ping", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "OK", pong)
}
