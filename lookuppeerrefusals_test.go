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
				{Topic: "z", Code: "E_BAD_TOPIC", Message: "not z"}, // the probe asks for each name by itself
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
				require.EqualValues(t, 1, status.Failures, "only the first refusal costs the main connection")
				require.Empty(t, s.status(2).Refused)
			})
		})
	}
}

// A lookupd that answers something else, or closes without a word, whenever it
// hears of one name keeps that name out and no other.
func TestWhateverIsWrongWithOneNameCostsNoOther(t *testing.T) {
	for name, tt := range map[string]struct {
		order         lookupdtest.Order
		code, message string
	}{
		"E_INVALID":         {lookupdtest.Reject("E_INVALID who are you"), "E_INVALID", "who are you"},
		"no text":           {lookupdtest.Reject("E_BAD_BODY"), "E_BAD_BODY", ""},
		"no code":           {lookupdtest.Reject("E_"), "E_", ""},
		"another code":      {lookupdtest.Reject("E_BAD_TOPICS no"), "E_BAD_TOPICS", "no"},
		"a connection lost": {lookupdtest.Drop(), "", "connection closed without an answer, each time"},
		"a reset":           {lookupdtest.Reset(), "", "connection closed without an answer, each time"},
		"no answer":         {lookupdtest.Hang(), "", "no answer within 1s, each time"},
		"another answer":    {lookupdtest.Reply("NO\n"), "", `unexpected answer "NO\n", each time`},
	} {
		for where, topics := range map[string]int{"amid": 500, "last, so that its answer arrives": 78} {
			t.Run(name+" "+where, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newScene(t, 1)
					require.NoError(t, s.loop.SetMetadata(manyTopics(topics)))
					s.lookupds[0].Do(lookupdtest.On("REGISTER topic77", tt.order))
					s.run()
					within := 2 * time.Second
					if name == "no answer" { // each of which takes defaultResponseTimeout
						within = 20 * time.Second
					}
					time.Sleep(within)
					require.Len(t, announced(s.lookupds[0]), 2*topics-2)
					status := s.status(1)
					require.Len(t, status.Refused, 1)
					require.Equal(t, "topic77", status.Refused[0].Topic)
					require.Equal(t, []string{tt.code, tt.message}, []string{status.Refused[0].Code, status.Refused[0].Message})
					require.LessOrEqual(t, status.Connects, uint64(3))
				})
			})
		}
	}
}

// However many names are refused, the good ones are unlisted for one pause only.
func TestOnlyTheFirstRefusalCostsAConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const names = 100
		s := newScene(t, 1)
		for i := range names {
			bad, good := fmt.Sprintf("bad-%d", i), fmt.Sprintf("good-%d", i)
			badTopic(s.lookupds[0], bad)
			s.notify(TopicCreated(bad), TopicCreated(good))
		}
		s.run()
		started := time.Now()
		s.settled()
		require.LessOrEqual(t, time.Since(started), 3*defaultMinBackoff+time.Millisecond)
		require.Len(t, announced(s.lookupds[0]), names)
		require.Len(t, s.status(1).Refused, names)
		connects := s.status(1).Connects
		require.LessOrEqual(t, connects, uint64(3), "or two, if the first answer was lost with its connection")

		lost := 0
		for range 12 * 3600 {
			time.Sleep(time.Second)
			if len(s.lookupds[0].Producers("good-0", "")) == 0 {
				lost++
			}
		}
		require.Zero(t, lost, "trying the refused ones again costs nobody anything")
		require.Equal(t, connects, s.status(1).Connects)
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
		s := newScene(t, 1)
		gaps := trials(s.lookupds[0], "REGISTER bad")
		lift := badTopic(s.lookupds[0], "bad")
		s.notify(TopicCreated("bad"), TopicCreated("good"))
		s.run()
		time.Sleep(6 * time.Hour)
		require.Equal(t, []string{"good"}, announced(s.lookupds[0]))
		var want []time.Duration
		for gap := defaultMaxBackoff; gap < time.Hour; gap *= 2 {
			want = append(want, gap)
		}
		require.Equal(t, append(want, time.Hour, time.Hour, time.Hour), gaps()[:len(want)+3])

		lift()
		time.Sleep(time.Hour)
		require.Equal(t, []string{"bad", "good"}, announced(s.lookupds[0]))
		require.Empty(t, s.status(1).Refused)
	})
}

// A connection that is new, as after a lookupd's restart, carries the good names
// only. The refused ones are asked for beside it.
func TestRefusedNamesAreNotForTheMainConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(5 * time.Millisecond)
		lookupd := s.lookupds[0]
		badTopic(lookupd, "bad")
		badTopic(lookupd, "worse")
		s.notify(TopicCreated("worse"), TopicCreated("bad"))
		require.NoError(t, s.loop.SetMetadata(Metadata{Topics: append(s.loop.Metadata().Topics, manyTopics(5).Topics...)}))
		s.run()
		s.settled()

		heard := listen(lookupd)
		lookupd.CloseConnections()
		time.Sleep(time.Second)
		sync := heard()
		require.NotContains(t, sync, "REGISTER bad")
		require.NotContains(t, sync, "REGISTER worse")
		require.Len(t, sync, 1+5)

		time.Sleep(defaultMaxBackoff)
		require.Subset(t, heard(), []string{"REGISTER bad", "REGISTER worse"})
		require.EqualValues(t, 3, s.status(1).Connects, "a refusal, the lost connection, and this one")
		require.Len(t, announced(lookupd), 10)
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
		s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = 100 * time.Second })
		s.notify(TopicCreated("bad"), ChannelCreated("bad", "x"), TopicCreated("good"))
		lift := badTopic(s.lookupds[0], "bad")
		s.run()
		s.settled()
		heard := listen(s.lookupds[0])
		s.notify(ChannelCreated("bad", "y"), ChannelDeleted("bad", "x"), ChannelCreated("bad", "z#ephemeral"))
		s.settled()
		require.Empty(t, heard())

		lift()
		time.Sleep(defaultMaxBackoff)
		s.settled()
		require.Equal(t, []string{"bad", "bad y", "bad z#ephemeral", "good"}, announced(s.lookupds[0]), "when the topic is accepted its channels follow")
		require.Empty(t, s.status(1).Refused)
		require.Equal(t, []string{"IDENTIFY", "REGISTER bad"}, heard()[:2], "asked about by itself, beside the main connection")
	})
}

// lookupd closes with commands unread, TCP resets, and the refusal may be lost.
// Then everything but the culprits arrives all the same, and they cost the main
// connection two breaks at most: the probe finds them.
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
					require.LessOrEqual(t, s.status(1).Connects, uint64(3), "two that broke amid the same names, and one without them")
				})
			})
		}
	}
}

// withBad has so many topics, good-0 and so on, and among them, evenly, as many as
// bad says that are called bad-0 and so on.
func withBad(good, bad int) (m Metadata) {
	for i := range good {
		for first := len(m.Topics) - i; first*good < (i+1)*bad; first++ {
			m.Topics = append(m.Topics, TopicMetadata{Name: fmt.Sprintf("bad-%d", first)})
		}
		m.Topics = append(m.Topics, TopicMetadata{Name: fmt.Sprintf("good-%d", i)})
	}
	return m
}

// lists tells whether the first, the middle and the last good topic of so many have
// a producer.
func lists(lookupd *lookupdtest.Server, good int) bool {
	for _, i := range []int{0, good / 2, good - 1} {
		if len(lookupd.Producers(fmt.Sprintf("good-%d", i), "")) == 0 {
			return false
		}
	}
	return true
}

// Half of all names are refused, and lookupd is a round trip of 2 ms away. Whether
// it says so or closes, the good ones come first, and few names are asked about
// more often than need be.
func TestGoodNamesAmongRefusedOnesComeFirst(t *testing.T) {
	const good, bad, roundTrip = 100, 100, 2 * time.Millisecond
	for name, tt := range map[string]struct {
		order    lookupdtest.Order
		within   time.Duration // the good names are listed
		commands int           // for all names
	}{
		"with an answer": {lookupdtest.BadTopic(), 100*4*roundTrip + defaultMinBackoff, 12 * (good + bad)},
		"answer lost":    {lookupdtest.Reset(), 2 * time.Second, 12 * (good + bad)},
		"closes":         {lookupdtest.Drop(), 2 * time.Second, 12 * (good + bad)},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				s.network.SetLatency(roundTrip / 2)
				s.lookupds[0].Do(lookupdtest.On("REGISTER bad-*", tt.order))
				require.NoError(t, s.loop.SetMetadata(withBad(good, bad)))
				s.run()
				started := time.Now()
				s.eventually(s.lookupds[0], func() bool { return len(announced(s.lookupds[0])) == good })
				require.LessOrEqual(t, time.Since(started), tt.within)
				s.settled()
				require.Len(t, s.status(1).Refused, bad)
				require.LessOrEqual(t, time.Since(started), 10*time.Second)
				require.LessOrEqual(t, int(s.status(1).Commands), tt.commands)
			})
		})
	}
}

// Over real TCP a lookupd that closes with commands unread resets the connection,
// and most refusals are lost.
func TestRefusalsLostToResetsOverTCPCostASecond(t *testing.T) {
	t.Parallel() // it lets time pass
	const good, bad = 975, 25
	lookupd := lookupdtest.NewServer()
	t.Cleanup(lookupd.Close)
	lookupd.Do(lookupdtest.On("REGISTER bad-*", lookupdtest.BadTopic()))
	loop := newLoop(t, addresses(lookupd.TCPAddress), func(o *Options) { o.MaxBackoff = 100 * time.Millisecond })
	require.NoError(t, loop.SetMetadata(withBad(good, bad)))
	defer run(t, loop)()

	absent, started := time.Duration(0), time.Now()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for last := started; last.Sub(started) < 2*time.Second; {
		<-ticker.C
		now := time.Now()
		if !lists(lookupd, good) {
			absent += now.Sub(last)
		}
		last = now
	}
	require.LessOrEqual(t, absent, time.Second, "in all, with four times that refused names were tried again")
	require.Len(t, announced(lookupd), good)
	status := loop.Status().Lookupds[0]
	require.Len(t, status.Refused, bad)
	require.LessOrEqual(t, status.Connects, uint64(3))
	t.Logf("absent for %v", absent)
}
