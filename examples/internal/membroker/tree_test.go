package membroker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// names is the tree as sorted text: topics, channels, and what is paused.
func (b *Broker) names() []string {
	names := []string{}
	for _, t := range b.stats("", "", false).Topics {
		names = append(names, fmt.Sprintf("%s %v", t.TopicName, t.Paused))
		for _, c := range t.Channels {
			names = append(names, fmt.Sprintf("%s/%s %v", t.TopicName, c.ChannelName, c.Paused))
		}
	}
	slices.Sort(names)
	return names
}

// namesOf is what the Loop believes the tree to be.
func namesOf(m lookuploop.Metadata) []string {
	names := []string{}
	for _, t := range m.Topics {
		names = append(names, fmt.Sprintf("%s %v", t.Name, t.Paused))
		for _, c := range t.Channels {
			names = append(names, fmt.Sprintf("%s/%s %v", t.Name, c.Name, c.Paused))
		}
	}
	slices.Sort(names)
	return names
}

// join subscribes a consumer without a client.
func join(t testing.TB, b *Broker, topic, channel string) *consumer {
	t.Helper()
	s := &consumer{wake: make(chan struct{}, 1), gone: make(chan struct{})}
	require.NoError(t, b.subscribe(topic, channel, s))
	return s
}

// Whatever many clients do at the same time, the Loop ends up knowing what the broker has.
func TestLoopKnowsTheTree(t *testing.T) {
	b := unserved(t, Options{})
	var clients sync.WaitGroup
	for seed := range uint64(8) {
		clients.Go(func() {
			random := rand.New(rand.NewPCG(seed, 0))
			pick := func(names ...string) string { return names[random.IntN(len(names))] }
			for range 500 {
				topic := pick("a", "b", "t#ephemeral")
				channel := pick("x", "y#ephemeral")
				switch random.IntN(7) {
				case 0:
					_ = b.publish(topic, texts(1)...) // full, at times
				case 1:
					_ = b.createChannel(topic, channel) // the errors of the others: not found
				case 2:
					_ = b.deleteTopic(topic)
				case 3:
					_ = b.deleteChannel(topic, channel)
				case 4:
					_ = b.pauseTopic(topic, random.IntN(2) == 0)
				case 5:
					_ = b.pauseChannel(topic, channel, random.IntN(2) == 0)
				case 6:
					s := &consumer{wake: make(chan struct{}, 1), gone: make(chan struct{})}
					if b.subscribe(topic, channel, s) == nil {
						_ = b.unsubscribe(s)
					}
				}
			}
		})
	}
	clients.Wait()
	require.Equal(t, b.names(), namesOf(b.loop.Metadata()))
}

func TestEphemeral(t *testing.T) {
	b := unserved(t, Options{})
	first, second := join(t, b, "t#ephemeral", "c#ephemeral"), join(t, b, "t#ephemeral", "c#ephemeral")
	other := join(t, b, "t#ephemeral", "d#ephemeral")
	stays := join(t, b, "t", "c")
	require.NoError(t, b.unsubscribe(first))
	require.Contains(t, b.names(), "t#ephemeral/c#ephemeral false", "it has another consumer")
	require.NoError(t, b.unsubscribe(second))
	require.Equal(t, []string{"t false", "t#ephemeral false", "t#ephemeral/d#ephemeral false", "t/c false"}, b.names())
	require.NoError(t, b.unsubscribe(other))
	require.NoError(t, b.unsubscribe(stays))
	require.Equal(t, []string{"t false", "t/c false"}, b.names(), "gone with its last channel")
	require.Equal(t, b.names(), namesOf(b.loop.Metadata()))
}

func TestDeletingAnEphemeralTopicsLastChannelDeletesIt(t *testing.T) {
	b := unserved(t, Options{})
	join(t, b, "t#ephemeral", "c")
	require.NoError(t, b.deleteChannel("t#ephemeral", "c"))
	require.Empty(t, b.names())
	require.Empty(t, b.loop.Metadata().Topics)
}

func TestDeletionDisconnectsConsumers(t *testing.T) {
	b := unserved(t, Options{})
	ofChannel, ofTopic := join(t, b, "t", "c"), join(t, b, "t", "d")
	require.NoError(t, b.deleteChannel("t", "c"))
	<-ofChannel.gone
	require.NoError(t, b.deleteTopic("t"))
	<-ofTopic.gone
	require.NoError(t, b.unsubscribe(ofTopic))
	require.NoError(t, b.unsubscribe(ofChannel))
	require.Empty(t, b.names())
}

func TestLeavingADeletedChannelSparesItsSuccessor(t *testing.T) {
	b := unserved(t, Options{})
	late := join(t, b, "t", "c#ephemeral")
	require.NoError(t, b.deleteTopic("t"))
	join(t, b, "t", "c#ephemeral")
	require.NoError(t, b.unsubscribe(late))
	require.Equal(t, []string{"t false", "t/c#ephemeral false"}, namesOf(b.loop.Metadata()))
	require.Equal(t, b.names(), namesOf(b.loop.Metadata()))
}

func TestWhatIsNotThere(t *testing.T) {
	b := unserved(t, Options{})
	require.NoError(t, b.createTopic("t"))
	for _, err := range []error{
		b.createChannel("x", "c"), b.deleteTopic("x"), b.deleteChannel("x", "c"), b.pauseTopic("x", true),
		b.pauseChannel("x", "c", true), b.emptyTopic("x"), b.emptyChannel("x", "c"),
	} {
		require.ErrorIs(t, err, errTopicNotFound)
	}
	for _, err := range []error{b.deleteChannel("t", "c"), b.pauseChannel("t", "c", true), b.emptyChannel("t", "c")} {
		require.ErrorIs(t, err, errChannelNotFound)
	}
}

// What the Loop refuses doesn't happen.
func TestNothingIsBornAfterTheLoop(t *testing.T) {
	b := unserved(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, b.loop.Run(ctx))
	require.ErrorIs(t, b.publish("t", texts(1)...), lookuploop.ErrClosed)
	require.Empty(t, b.names())
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	before := start(t, Options{DataPath: dir})
	join(t, before.Broker, "t", "c")
	join(t, before.Broker, "t", "paused")
	join(t, before.Broker, "t", "c#ephemeral")
	join(t, before.Broker, "paused", "c")
	join(t, before.Broker, "t#ephemeral", "c")
	require.NoError(t, before.createTopic("deleted"))
	require.NoError(t, before.pauseChannel("t", "paused", true))
	require.NoError(t, before.pauseTopic("paused", true))
	require.NoError(t, before.deleteTopic("deleted"))
	require.NoError(t, before.stop())

	after := start(t, Options{DataPath: dir})
	c := dial(t, after.TCPAddress())
	c.publish("paused", "kept") // when this is answered, the tree has been restored
	require.Equal(t, []string{"paused true", "paused/c false", "t false", "t/c false", "t/paused true"}, after.names())
	require.Equal(t, after.names(), namesOf(after.loop.Metadata()))
	require.Equal(t, 1, after.stats("paused", "", false).Topics[0].Depth)

	twice, err := New(Options{TCPAddress: "127.0.0.1:0", HTTPAddress: "127.0.0.1:0", DataPath: dir})
	require.NoError(t, err)
	require.ErrorIs(t, twice.Run(context.Background()), lookuploop.ErrDataPathLocked)
}

// waitRegistered waits until all lookupds know everything the broker has.
func (b *Broker) waitRegistered(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, b.loop.WaitRegistered(ctx, 0))
}

func TestNewTopicGetsItsChannelsFromTheLookupds(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	elsewhere := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	join(t, elsewhere.Broker, "t", "c")
	join(t, elsewhere.Broker, "t", "c#ephemeral")
	elsewhere.waitRegistered(t)

	b := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	require.NoError(t, b.createTopic("known"))
	b.waitRegistered(t)
	dial(t, b.TCPAddress()).publish("t", "first")
	b.starts.Wait()
	require.Equal(t, []string{"known false", "t false", "t/c false"}, b.names())
	require.Equal(t, 1, b.stats("t", "c", false).Topics[0].Channels[0].Depth)
	b.waitRegistered(t)
	require.Len(t, lookupd.Producers("t", "c"), 2)
}

// A lookupd whose HTTP hangs holds the new topic's messages back for a bounded
// time, but neither who publishes them nor anyone else.
func TestHungLookupdHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	lookupd := lookupdtest.NewUnstartedServer()
	lookupd.WrapHTTP = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })
	}
	lookupd.Start()
	defer lookupd.Close()
	defer close(release)
	b := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	require.NoError(t, b.createTopic("known"))
	b.waitRegistered(t)

	began := time.Now()
	producer, consumer := dial(t, b.TCPAddress()), dial(t, b.TCPAddress())
	consumer.subscribe("t", "c", 1)
	producer.publish("t", "held back")
	for i := range 100 {
		producer.publish(fmt.Sprintf("other%d", i), "accepted")
	}
	require.Less(t, time.Since(began), lookupTimeout, "no publisher waited for it")
	m, _ := consumer.expectMessage()
	require.Equal(t, "held back", string(m.Body))
	require.Greater(t, time.Since(began), lookupTimeout/2)
	b.starts.Wait()
	require.Less(t, time.Since(began), 3*lookupTimeout, "all of them together, although few are asked for at a time")
}
