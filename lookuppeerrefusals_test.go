package lookuploop

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// badTopic makes a lookupd refuse the topic, whatever comes with it.
func badTopic(lookupd *lookupdtest.Server, topic string) (lift func()) {
	return lookupd.Do(lookupdtest.On("REGISTER "+topic, lookupdtest.Reject("E_BAD_TOPIC not "+topic)))
}

// badChannel makes a lookupd refuse a channel.
func badChannel(lookupd *lookupdtest.Server, topic, channel string) (lift func()) {
	return lookupd.Do(lookupdtest.On("REGISTER "+topic+" "+channel, lookupdtest.Reject("E_BAD_CHANNEL not "+channel)))
}

// settled waits until every lookupd has all that it doesn't refuse.
func (s *scene) settled() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for s.loop.WaitRegistered(ctx, 0); ctx.Err() == nil; time.Sleep(time.Millisecond) {
		synctest.Wait()
		isSettled := func(l LookupdStatus) bool { return l.State == Connected && l.Pending == 0 }
		if !slices.ContainsFunc(s.loop.Status().Lookupds, func(l LookupdStatus) bool { return !isSettled(l) }) {
			return
		}
	}
	require.NoError(s.t, ctx.Err())
}

// refusedNames are those of a status, "topic" or "topic channel".
func refusedNames(status LookupdStatus) (names []string) {
	for _, err := range status.Refused {
		names = append(names, strings.TrimSpace(err.Topic+" "+err.Channel))
	}
	return names
}

func TestRefusedNameIsSetAsideAndTheRestGoesOn(t *testing.T) {
	for name, tt := range map[string]struct {
		refuse  func(*lookupdtest.Server)
		refused []ResponseError
		want    []string
	}{
		"topic": {
			func(l *lookupdtest.Server) { badTopic(l, "bad") },
			[]ResponseError{{Topic: "bad", Channel: "x", Code: "E_BAD_TOPIC", Message: "not bad"}},
			[]string{"a", "a x", "b", "z", "z x"},
		},
		"first topic": {
			func(l *lookupdtest.Server) { badTopic(l, "a") },
			[]ResponseError{{Topic: "a", Channel: "x", Code: "E_BAD_TOPIC", Message: "not a"}},
			[]string{"b", "bad", "bad x", "bad y", "z", "z x"},
		},
		"channel that announces its topic": {
			func(l *lookupdtest.Server) { badChannel(l, "bad", "x") },
			[]ResponseError{{Topic: "bad", Channel: "x", Code: "E_BAD_CHANNEL", Message: "not x"}},
			[]string{"a", "a x", "b", "bad", "bad y", "z", "z x"},
		},
		"second channel": {
			func(l *lookupdtest.Server) { badChannel(l, "bad", "y") },
			[]ResponseError{{Topic: "bad", Channel: "y", Code: "E_BAD_CHANNEL", Message: "not y"}},
			[]string{"a", "a x", "b", "bad", "bad x", "z", "z x"},
		},
		"only channel": {
			func(l *lookupdtest.Server) { badChannel(l, "z", "x") },
			[]ResponseError{{Topic: "z", Channel: "x", Code: "E_BAD_CHANNEL", Message: "not x"}},
			[]string{"a", "a x", "b", "bad", "bad x", "bad y", "z"},
		},
		"several": {
			func(l *lookupdtest.Server) { badTopic(l, "b"); badChannel(l, "bad", "y"); badTopic(l, "z") },
			[]ResponseError{
				{Topic: "b", Code: "E_BAD_TOPIC", Message: "not b"},
				{Topic: "bad", Channel: "y", Code: "E_BAD_CHANNEL", Message: "not y"},
				{Topic: "z", Channel: "x", Code: "E_BAD_TOPIC", Message: "not z"},
			},
			[]string{"a", "a x", "bad", "bad x"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 2)
				tt.refuse(s.lookupds[0])
				s.notify(
					TopicCreated("a"), ChannelCreated("a", "x"), TopicCreated("b"),
					TopicCreated("bad"), ChannelCreated("bad", "x"), ChannelCreated("bad", "y"),
					TopicCreated("z"), ChannelCreated("z", "x"),
				)
				s.run()
				s.settled()
				require.Equal(t, tt.want, announced(s.lookupds[0]))
				require.Len(t, announced(s.lookupds[1]), 8, "who doesn't refuse")

				status := s.status(1)
				require.Len(t, status.Refused, len(tt.refused))
				for i, want := range tt.refused {
					want.Address, want.Command = "lookupd1.test:4160", "REGISTER"
					require.Equal(t, &want, status.Refused[i])
				}
				require.NoError(t, status.LastError, "the connection that there is now is well")
				require.EqualValues(t, len(tt.refused), status.Failures)
				require.Empty(t, s.status(2).Refused)
			})
		})
	}
}

func TestOtherErrorsAreNotAboutANameButTheConnection(t *testing.T) {
	for _, answer := range []string{"E_INVALID who are you", "E_BAD_BODY", "E_", "E_BAD_TOPICS no"} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			s.notify(TopicCreated("a"), TopicCreated("b"))
			lift := s.lookupds[0].Do(lookupdtest.On("REGISTER b", lookupdtest.Reject(answer)))
			s.run()
			time.Sleep(time.Minute)
			require.Empty(t, s.status(1).Refused)
			require.ErrorContains(t, s.status(1).LastError, "REGISTER b: "+answer)
			require.Greater(t, s.status(1).Failures, uint64(5))
			lift()
			s.registered()
			require.Equal(t, []string{"a", "b"}, announced(s.lookupds[0]))
		})
	}
}

// The pauses of refusals that are new don't double, as each is progress: ten
// of them take at most ten times MinBackoff.
func TestNewRefusalsLeaveTheBackoffAsItIs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const names = 10
		s := newScene(t, 1)
		for i := range names {
			topic := fmt.Sprintf("bad-%d", i)
			badTopic(s.lookupds[0], topic)
			s.notify(TopicCreated(topic))
		}
		s.notify(TopicCreated("good"))
		s.run()
		started := time.Now()
		s.settled()
		require.LessOrEqual(t, time.Since(started), names*defaultMinBackoff+time.Millisecond)
		require.Equal(t, []string{"good"}, announced(s.lookupds[0]))
		require.Len(t, s.status(1).Refused, names)
		require.EqualValues(t, names+1, s.status(1).Connects)
	})
}

// trials listens for what is said about a refused name and when.
func trials(lookupd *lookupdtest.Server, pattern string) (times func() []time.Duration) {
	var mu sync.Mutex
	var heard []time.Time
	lookupd.Do(lookupdtest.On(pattern, lookupdtest.Observe(func(lookupdtest.Command) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, time.Now())
	})))
	return func() (gaps []time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		for i := 1; i < len(heard); i++ {
			gaps = append(gaps, heard[i].Sub(heard[i-1]))
		}
		return gaps
	}
}

func TestRefusedNameIsTriedAgainAtDoublingIntervalsUpToAnHour(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = 19 * time.Second }) // no PING behind a trial, which could lose its answer
		gaps := trials(s.lookupds[0], "REGISTER bad")
		lift := badTopic(s.lookupds[0], "bad")
		s.notify(TopicCreated("bad"), TopicCreated("good"))
		s.run()
		time.Sleep(6 * time.Hour)
		require.Equal(t, []string{"good"}, announced(s.lookupds[0]))
		var want []time.Duration
		for gap := 15 * time.Second; gap < time.Hour; gap *= 2 {
			want = append(want, gap)
		}
		require.Equal(t, append(want, time.Hour, time.Hour, time.Hour), gaps()[:len(want)+3])

		lift()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"bad", "good"}, announced(s.lookupds[0]))
		require.Empty(t, s.status(1).Refused)
	})
}

// What follows a refused command is lost with the connection, so it comes when
// there is nothing else to say, and nothing is said until it was answered.
func TestRefusedNameIsTriedLastAndAlone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(5 * time.Millisecond)
		lookupd := s.lookupds[0]
		lookupd.Do(lookupdtest.On("REGISTER", lookupdtest.Delay(time.Millisecond))) // what comes meanwhile makes the refusal get lost
		badTopic(lookupd, "bad")
		badTopic(lookupd, "worse")
		s.notify(TopicCreated("worse"), TopicCreated("bad"))
		require.NoError(t, s.loop.SetMetadata(Metadata{Topics: append(s.loop.Metadata().Topics, manyTopics(5).Topics...)}))
		s.run()
		s.settled()

		heard := listen(lookupd)
		lookupd.Do(lookupdtest.On("REGISTER bad", lookupdtest.Observe(func(lookupdtest.Command) {
			if err := s.loop.Notify(TopicCreated("meanwhile")); err != nil {
				t.Error(err)
			}
		})))
		lookupd.CloseConnections()
		time.Sleep(time.Second)
		sync := heard()
		require.NotContains(t, sync, "REGISTER bad", "not among the others of a new connection")
		require.NotContains(t, sync, "REGISTER worse")
		require.Len(t, sync, 1+5)

		time.Sleep(15 * time.Second)
		s.settled()
		commands := slices.DeleteFunc(heard(), func(c string) bool { return c == "PING" })
		again := append([]string{"IDENTIFY"}, sync[1:]...)
		want := append([]string{"REGISTER worse"}, again...)
		want = append(want, "REGISTER bad")
		want = append(want, again...)
		require.Equal(t, append(want, "REGISTER meanwhile"), commands)
	})
}

func TestRefusedNameIsTriedAtOnceWhenItIsMadeAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.notify(TopicCreated("good"), TopicCreated("bad"), ChannelCreated("bad", "x"))
		lift := badTopic(s.lookupds[0], "bad")
		s.run()
		s.settled()
		heard := listen(s.lookupds[0])

		s.notify(TopicDeleted("bad"))
		s.settled()
		require.Empty(t, heard(), "lookupd never knew it")
		require.Empty(t, s.status(1).Refused)

		s.notify(TopicCreated("bad"))
		s.settled()
		require.Contains(t, heard(), "REGISTER bad")
		require.Equal(t, []string{"bad"}, refusedNames(s.status(1)))

		lift()
		s.notify(TopicDeleted("bad"), TopicCreated("bad"), ChannelCreated("bad", "x"))
		made := time.Now()
		s.registered()
		require.Equal(t, []string{"bad", "bad x", "good"}, announced(s.lookupds[0]))
		require.Equal(t, made, time.Now())
	})
}

func TestNothingIsSaidAboutTheChannelsOfARefusedTopic(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = time.Hour })
		s.notify(TopicCreated("bad"), ChannelCreated("bad", "x"), TopicCreated("good"))
		lift := badTopic(s.lookupds[0], "bad")
		s.run()
		s.settled()
		heard := listen(s.lookupds[0])
		s.notify(ChannelCreated("bad", "y"), ChannelDeleted("bad", "x"), ChannelCreated("bad", "z#ephemeral"))
		s.settled()
		require.Empty(t, heard())

		lift()
		time.Sleep(15 * time.Second)
		s.settled()
		require.Equal(t, []string{"bad", "bad y", "bad z#ephemeral", "good"}, announced(s.lookupds[0]), "when the topic is accepted its channels follow")
		require.Empty(t, s.status(1).Refused)
		require.Equal(t, []string{"REGISTER bad"}, heard()[:1])
	})
}

func TestNothingRefusedIsUnregisteredInTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		badTopic(s.lookupds[0], "bad#ephemeral")
		s.notify(TopicCreated("bad#ephemeral"), ChannelCreated("bad#ephemeral", "x"), TopicCreated("good#ephemeral"))
		s.run()
		s.settled()
		heard := listen(s.lookupds[0])
		require.NoError(t, s.end())
		require.Equal(t, []string{"UNREGISTER good#ephemeral"}, heard())
	})
}

// lookupd closes with commands unread, TCP resets, and the refusal may be lost.
// Then everything but the culprit arrives all the same, and the culprit costs
// three connections at most: one that loses its refusal among many commands,
// one among few, one on which it comes alone.
func TestLostRefusalsAreFound(t *testing.T) {
	type network struct {
		name    string
		latency time.Duration
		buffer  int
	}
	for _, n := range []network{{"near", 0, 64 << 10}, {"far", 20 * time.Millisecond, 64 << 10}, {"tiny buffers", 0, 30}} {
		for name, tt := range map[string]struct {
			topics   int
			culprits []int
		}{
			"few, first":      {3, []int{0}},
			"few, middle":     {3, []int{1}},
			"few, last":       {3, []int{2}},
			"alone":           {1, []int{0}},
			"many, first":     {2000, []int{0}},
			"many, middle":    {2000, []int{1000}},
			"many, last":      {2000, []int{1999}},
			"many, scattered": {2000, []int{3, 700, 701, 1500}},
		} {
			t.Run(n.name+" "+name, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newScene(t, 1, func(o *Options) { o.MinBackoff, o.MaxBackoff = time.Millisecond, time.Hour }) // no second trial meanwhile
					s.network.SetLatency(n.latency)
					s.network.SetBuffer(n.buffer)
					var refused []string
					for i := range tt.topics {
						topic := fmt.Sprintf("%04d-%050d", i, i) // some 64 of them are more than lookupd reads ahead
						if slices.Contains(tt.culprits, i) {
							badTopic(s.lookupds[0], topic)
							refused = append(refused, topic)
						}
						s.notify(TopicCreated(topic))
					}
					s.run()
					s.settled()
					require.Len(t, announced(s.lookupds[0]), tt.topics-len(refused))
					require.Equal(t, refused, refusedNames(s.status(1)))
					require.LessOrEqual(t, s.status(1).Connects, uint64(3*len(refused)+1))
				})
			})
		}
	}
}

// What was in flight when the connection was lost is sent with care, the rest
// is pipelined.
func TestCareIsForWhatWasInFlight(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const roundTrip = 20 * time.Millisecond
		s := newScene(t, 1)
		s.network.SetLatency(roundTrip / 2)
		s.lookupds[0].Do(lookupdtest.Once(lookupdtest.On("REGISTER topic100", lookupdtest.Reset())))
		require.NoError(t, s.loop.SetMetadata(manyTopics(3000)))
		started := time.Now()
		s.run()
		s.registered()
		require.EqualValues(t, 2, s.status(1).Connects)
		require.Less(t, time.Since(started), defaultMinBackoff+(128+20)*roundTrip, "each topic has a channel, so 128 groups")
	})
}

func TestCareEndsWithTheSync(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const latency = 10 * time.Millisecond
		s := newScene(t, 1)
		s.network.SetLatency(latency)
		lift := s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Hang()))
		require.NoError(t, s.loop.SetMetadata(manyTopics(500)))
		s.run()
		time.Sleep(time.Second / 2)
		s.lookupds[0].CloseConnections()
		require.NoError(t, s.loop.SetMetadata(manyTopics(10)))
		lift()
		time.Sleep(time.Second)
		s.registered()
		require.EqualValues(t, 2, s.status(1).Connects)

		require.NoError(t, s.loop.SetMetadata(manyTopics(400)))
		started := time.Now()
		s.registered()
		require.Equal(t, 2*latency, time.Since(started))
	})
}

// Where nothing is known of lookupd's speed yet there are PINGs between the
// commands, but none behind a careful one: if that is refused, lookupd closes
// the connection with the PING unread, and the refusal would be lost each time.
func TestNoPINGFollowsACarefulCommand(t *testing.T) {
	for before := range wire.BlindChunk {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			s.network.SetBandwidth(20_000)
			s.network.SetBuffer(64)
			require.NoError(t, s.loop.SetMetadata(manyTopics(before)))
			s.notify(TopicCreated("bad"), TopicCreated("good"))
			s.lookupds[0].Do(lookupdtest.On("REGISTER bad", lookupdtest.Reject("E_BAD_TOPIC not valid")))
			s.run()
			s.eventually(s.lookupds[0], func() bool { return len(s.lookupds[0].Producers("good", "")) == 1 })
			require.LessOrEqual(t, s.status(1).Connects, uint64(5))
			require.Len(t, s.status(1).Refused, 1)
		})
	}
}
