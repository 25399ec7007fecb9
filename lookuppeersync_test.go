package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// To lookupd only PING and IDENTIFY are signs of life.
func TestPingIsSentAmidALongSync(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const interval = 2 * time.Second
		s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = interval })
		s.network.SetLatency(20 * time.Millisecond)
		s.network.SetBandwidth(16 << 10)
		require.NoError(t, s.loop.SetMetadata(manyTopics(8000)))
		var heartbeats []time.Time
		signOfLife := lookupdtest.Observe(func(lookupdtest.Command) { heartbeats = append(heartbeats, time.Now()) })
		s.lookupds[0].Do(lookupdtest.On("PING", signOfLife))
		s.lookupds[0].Do(lookupdtest.On("IDENTIFY", signOfLife))
		started := time.Now()
		s.run()
		s.registered()
		require.Greater(t, time.Since(started), 5*interval)
		require.EqualValues(t, 1, s.status(1).Connects)
		require.NoError(t, s.end())
		for i := range heartbeats[1:] {
			require.LessOrEqual(t, heartbeats[i+1].Sub(heartbeats[i]), interval+defaultResponseTimeout)
		}
		require.LessOrEqual(t, time.Since(heartbeats[len(heartbeats)-1]), interval+defaultResponseTimeout)
	})
}

// TestHeartbeatsDuringALongSync is about nsqlookupd hiding a producer that
// sends no PING, even while it sends a hundred thousand REGISTERs over a slow
// line or to a lookupd that takes its time for each.
func TestHeartbeatsDuringALongSync(t *testing.T) {
	for name, tt := range map[string]struct {
		bandwidth int // in bytes per second
		delay     time.Duration
		commands  int
	}{
		"very slow line":    {bandwidth: 20_000, commands: 99_000},
		"slow line":         {bandwidth: 100_000, commands: 99_000},
		"line":              {bandwidth: 1_000_000, commands: 99_000},
		"busy lookupd":      {delay: time.Millisecond, commands: 99_000},
		"slow lookupd":      {delay: 20 * time.Millisecond, commands: 9900},
		"very slow lookupd": {delay: 80 * time.Millisecond, commands: 9900},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = 5 * time.Second })
				s.network.SetBandwidth(tt.bandwidth)
				s.network.SetLatency(20 * time.Millisecond)
				s.lookupds[0].Do(lookupdtest.Delay(tt.delay))
				require.NoError(t, s.loop.SetMetadata(manyChannels(inFull(tt.commands/99), 99)))
				var beats []time.Time
				for _, command := range []string{"IDENTIFY", "PING"} {
					s.lookupds[0].Do(lookupdtest.On(command, lookupdtest.Observe(func(lookupdtest.Command) {
						beats = append(beats, time.Now())
					})))
				}
				began := time.Now()
				s.run()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				require.NoError(t, s.loop.WaitRegistered(ctx, 0))
				t.Logf("in sync after %v", time.Since(began))
				require.NoError(t, s.end())

				require.GreaterOrEqual(t, len(beats), int(time.Since(began)/(6*time.Second)))
				for i := 1; i < len(beats); i++ {
					require.LessOrEqual(t, beats[i].Sub(beats[i-1]), 6*time.Second, "heartbeat %d", i)
				}
				require.EqualValues(t, 1, s.loop.Status().Lookupds[0].Connects)
			})
		})
	}
}

// TestLookupdIsKeptBusy is about a long line: the next commands are there when
// lookupd has carried out those before, so a sync takes what lookupd needs.
func TestLookupdIsKeptBusy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const roundTrip, each, commands = 100 * time.Millisecond, 100 * time.Microsecond, 100 * 100
		s := newScene(t, 1)
		s.network.SetLatency(roundTrip / 2)
		s.network.SetBuffer(1 << 20)
		s.lookupds[0].Do(lookupdtest.Delay(each))
		require.NoError(t, s.loop.SetMetadata(manyChannels(100, 100)))
		started := time.Now()
		s.run()
		s.registered()
		const connect = 2 * roundTrip // Dial, IDENTIFY
		require.LessOrEqual(t, time.Since(started), connect+roundTrip+commands*each*105/100)
	})
}

// TestWritesAreSmall is about the size of what is encoded under the registry's lock.
func TestWritesAreSmall(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		wire := newSimWire()
		s := newScene(t, 1, func(o *Options) { o.Dial = wire.watch(o.Dial) })
		require.NoError(t, s.loop.SetMetadata(manyChannels(100, 100)))
		s.run()
		s.registered()
		total := 0
		for _, write := range wire.writes {
			require.LessOrEqual(t, len(write.lines), registry.ChunkSize+1)
			total += len(slices.DeleteFunc(write.lines, func(line string) bool { return line == "PING" }))
		}
		require.Equal(t, 100*100, total, "each topic goes with a channel of its own")
	})
}

// TestAnswersOneByOneMakeNoTinyWrites is about a full window: each answer
// would let one command go, in a write and a packet of its own.
func TestAnswersOneByOneMakeNoTinyWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const commands = 100 * 100
		var watch dialWatch
		s := newScene(t, 1, watch.watch)
		s.lookupds[0].Do(lookupdtest.Delay(100 * time.Microsecond))
		require.NoError(t, s.loop.SetMetadata(manyChannels(100, 100)))
		s.run()
		s.registered()
		require.Len(t, s.lookupds[0].Topics(), 100)
		require.Less(t, watch.written(), commands/100, "writes")
	})
}

// manyChannels has so many topics with so many channels each.
func manyChannels(topics, channels int) (m Metadata) {
	for i := range topics {
		topic := TopicMetadata{Name: fmt.Sprintf("topic%d", i)}
		for j := range channels {
			topic.Channels = append(topic.Channels, ChannelMetadata{Name: fmt.Sprintf("channel%d", j)})
		}
		m.Topics = append(m.Topics, topic)
	}
	return m
}

// TestFlappingNameCostsFewCommands lets one topic come and go 50,000 times.
func TestFlappingNameCostsFewCommands(t *testing.T) {
	for name, tt := range map[string]struct {
		trouble func(*scene) (end func())
		atMost  int
	}{
		"not connected yet": {func(s *scene) func() { return s.network.Partition() }, 1},
		"answers are under way": {func(s *scene) func() {
			s.network.SetLatency(100 * time.Millisecond)
			return func() {}
		}, wire.FirstWindow + 1},
		"answers don't come": {func(s *scene) func() { return s.lookupds[0].Do(lookupdtest.Hang()) }, wire.FirstWindow + 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				heard := listen(s.lookupds[0])
				var end func()
				if tt.atMost == 1 {
					end = tt.trouble(s)
					s.run()
				} else {
					s.run()
					s.registered()
					end = tt.trouble(s)
				}
				for range 50_000 {
					s.notify(TopicCreated("orders"))
					s.notify(TopicDeleted("orders"))
				}
				s.notify(TopicCreated("orders"))
				synctest.Wait()
				end()
				s.registered()
				synctest.Wait()
				commands := slices.DeleteFunc(heard(), func(c string) bool { return !strings.HasSuffix(c, " orders") })
				require.LessOrEqual(t, len(commands), tt.atMost)
				require.Equal(t, []string{"orders"}, announced(s.lookupds[0]))
			})
		})
	}
}

// A name that is deleted over HTTP is not announced again by itself, as
// somebody may be deleting it everywhere.
func TestResyncAnnouncesWhatLookupdWasToldToForget(t *testing.T) {
	forget := func(s *scene, path string) {
		response, err := s.network.Client().Post("http://"+s.lookupds[0].HTTPAddress+path, "", nil)
		require.NoError(s.t, err)
		require.NoError(s.t, response.Body.Close())
		require.Equal(s.t, http.StatusOK, response.StatusCode)
	}
	for name, tt := range map[string]struct {
		interval time.Duration
		want     []string
	}{
		"never":               {0, []string{"other", "other x"}},
		"after ten minutes":   {10*time.Minute + time.Second, []string{"orders", "orders mail", "orders ship", "other", "other x"}},
		"with each heartbeat": {15 * time.Second, []string{"orders", "orders mail", "orders ship", "other", "other x"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1, func(o *Options) { o.ResyncInterval = tt.interval })
				s.notify(
					TopicCreated("orders"), ChannelCreated("orders", "mail"), ChannelCreated("orders", "ship"),
					TopicCreated("other"), ChannelCreated("other", "x"), TopicCreated("gone"),
				)
				s.run()
				s.registered()
				connected := time.Now()
				s.notify(TopicDeleted("gone"))
				s.registered()
				synctest.Wait()
				heard := listen(s.lookupds[0])
				forget(s, "/topic/delete?topic=orders")
				if tt.interval > time.Minute {
					time.Sleep(time.Until(connected.Add(tt.interval - 1)))
					require.NotContains(t, announced(s.lookupds[0]), "orders")
					time.Sleep(1)
					synctest.Wait()
					require.Equal(t, tt.want, announced(s.lookupds[0]))
					forget(s, "/channel/delete?topic=orders&channel=ship")
					time.Sleep(tt.interval - 1)
					require.NotContains(t, announced(s.lookupds[0]), "orders ship")
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				require.Equal(t, tt.want, announced(s.lookupds[0]))

				commands := heard()
				registers := slices.DeleteFunc(slices.Clone(commands), func(c string) bool { return c == "PING" })
				if tt.interval == 0 {
					require.Empty(t, registers)
					return
				}
				require.InDelta(t, 3*int((time.Hour)/tt.interval), len(registers), 15, "three commands each time")
				require.NotContains(t, strings.Join(commands, ","), "UNREGISTER")
				require.NotContains(t, commands, "REGISTER gone")
			})
		})
	}
}

func TestResyncRepeatsNoDeletion(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2, func(o *Options) { o.ResyncInterval, o.ResponseTimeout = time.Hour, 3*time.Hour })
		s.notify(TopicCreated("orders"), TopicCreated("gone"))
		s.run()
		s.registered()
		s.lookupds[1].Do(lookupdtest.Hang())
		time.Sleep(50 * time.Minute) // by now its answers are late, and what is deleted is kept for it
		s.notify(TopicDeleted("gone"))
		require.NoError(t, s.loop.WaitRegistered(t.Context(), 1))
		require.Equal(t, []string{"orders"}, announced(s.lookupds[0]))
		require.Equal(t, []string{"gone", "orders"}, announced(s.lookupds[1]))

		heard := listen(s.lookupds[0])
		time.Sleep(50 * time.Minute)
		require.Equal(t, []string{"REGISTER orders"}, slices.DeleteFunc(heard(), func(c string) bool { return c == "PING" }))
	})
}

// Mostly it is the network that breaks a connection: what was in flight goes at
// full speed the next time.
func TestLossAmidASyncCostsASecondSync(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const roundTrip = 200 * time.Millisecond
		started := time.Now()
		sync := func(prepare func(*scene)) time.Duration {
			s := newScene(t, 1)
			s.network.SetLatency(roundTrip / 2)
			require.NoError(t, s.loop.SetMetadata(manyTopics(3000)))
			prepare(s)
			s.run()
			s.registered()
			defer s.lookupds[0].Close()
			require.NoError(t, s.end())
			return time.Since(started)
		}
		plain := sync(func(*scene) {})
		started = time.Now()
		lossy := sync(func(s *scene) {
			s.lookupds[0].Do(lookupdtest.Once(lookupdtest.On("REGISTER topic1500", lookupdtest.Reset())))
		})
		require.Less(t, lossy, 2*plain+defaultMinBackoff)
	})
}

// Where nothing is known of lookupd's speed yet there are PINGs between the
// commands, but none alone behind the last one: if that is refused, lookupd closes
// the connection with the PING unread, and the refusal would be lost each time.
func TestNoPINGFollowsWhatMayBeRefused(t *testing.T) {
	for before := range wire.BlindChunk {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			s.network.SetBandwidth(20_000)
			s.network.SetBuffer(64)
			require.NoError(t, s.loop.SetMetadata(manyTopics(before)))
			s.notify(TopicCreated("bad"), TopicCreated("good"))
			s.lookupds[0].Do(lookupdtest.On("REGISTER bad", lookupdtest.BadTopic()))
			heard := listen(s.lookupds[0])
			s.run()
			s.eventually(s.lookupds[0], func() bool { return len(s.lookupds[0].Producers("good", "")) == 1 })
			require.LessOrEqual(t, s.status(1).Connects, uint64(3))
			require.Len(t, s.status(1).Refused, 1)
			require.NotContains(t, strings.Join(heard(), ", "), "IDENTIFY, PING", "what an earlier connection said doesn't count")
		})
	}
}

// A lookupd that was down is back, and refuses names that it may have taken before.
// The pauses that grew while it was down are over once it identified itself.
func TestRefusedNamesCostLittleAfterAnOutage(t *testing.T) {
	for name, tt := range map[string]struct {
		order     lookupdtest.Order
		good, bad int
		within    time.Duration // of the first connection
	}{
		"the answer arrives": {lookupdtest.BadTopic(), 0, 1, defaultMinBackoff},
		"it may be lost":     {lookupdtest.BadTopic(), 60, 60, 2 * syncedBackoff},
		"it is lost":         {lookupdtest.Reset(), 20, 20, 2 * syncedBackoff},
		"there is none":      {lookupdtest.Drop(), 5, 5, 2 * syncedBackoff},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // pauses are random
				inBubble(t, func(t *testing.T) {
					s := newScene(t, 1)
					lookupd := s.lookupds[0]
					lookupd.Stop()
					lookupd.Do(lookupdtest.On("REGISTER bad-*", tt.order))
					m := withBad(tt.good, tt.bad)
					if tt.good == 0 { // nothing behind it that would be unread
						m = Metadata{Topics: []TopicMetadata{{Name: "good-0"}, {Name: "bad-0"}}}
						tt.good = 1
					}
					require.NoError(t, s.loop.SetMetadata(m))
					s.run()
					time.Sleep(10 * time.Minute)
					lookupd.Start()
					back := time.Now()
					s.eventually(lookupd, func() bool { return s.status(1).Connects > 0 }) // it may have broken at once
					require.LessOrEqual(t, time.Since(back), defaultMaxBackoff)
					first := time.Now()
					synctest.Wait()
					s.eventually(lookupd, func() bool { return lookupd.Connections() > 0 && len(announced(lookupd)) == tt.good })
					require.LessOrEqual(t, time.Since(first), tt.within)
					require.LessOrEqual(t, s.status(1).Connects, uint64(3))
				})
			}
		})
	}
}

// A name that is accepted later brings only itself.
func TestNamesThatAreAcceptedLaterCostACommandEach(t *testing.T) {
	for _, n := range []int{40, 80, 160, 320} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			lift := s.lookupds[0].Do(lookupdtest.On("REGISTER bad-*", lookupdtest.BadTopic()))
			require.NoError(t, s.loop.SetMetadata(withBad(n/2, n/2)))
			s.run()
			s.settled()
			require.Len(t, s.status(1).Refused, n/2)
			connects := s.status(1).Connects
			heard := listen(s.lookupds[0])
			lift()
			time.Sleep(2 * defaultMaxBackoff)
			require.Len(t, announced(s.lookupds[0]), n)
			require.Empty(t, s.status(1).Refused)
			commands := slices.DeleteFunc(heard(), func(c string) bool { return c == "PING" })
			require.LessOrEqual(t, len(commands), 1+2*(n/2), "on the probe and on the main connection")
			require.Equal(t, connects, s.status(1).Connects)
		})
	}
}

// Names stay in doubt while there can't be a second connection, and Status says why.
func TestStatusSaysWhyNamesStayInDoubt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		full := errors.New("too many connections")
		var open atomic.Bool
		s := newScene(t, 1, func(o *Options) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if open.Load() {
					return nil, full
				}
				return dial(ctx, network, address)
			}
			o.OnStateChange = func(s LookupdStatus) { open.Store(s.State == Connected) }
		})
		badTopic(s.lookupds[0], "bad")
		s.notify(TopicCreated("bad"), TopicCreated("good"))
		s.run()
		time.Sleep(time.Minute)
		require.Equal(t, Connected, s.status(1).State)
		require.Equal(t, 1, s.status(1).Pending)
		require.ErrorIs(t, s.status(1).LastError, full)
		require.ErrorContains(t, s.status(1).LastError, "second connection, for names in doubt")

		s.loop.opts.OnStateChange = nil
		open.Store(false)
		time.Sleep(defaultMaxBackoff)
		require.Zero(t, s.status(1).Pending)
		require.NoError(t, s.status(1).LastError)
		require.Equal(t, []string{"good"}, announced(s.lookupds[0]))
	})
}

// It may be a newer version, after hours in which the pauses grew.
func TestRefusedNamesAreTriedSoonAtALookupdThatIsBack(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		lift := s.lookupds[0].Do(lookupdtest.On("REGISTER bad-*", lookupdtest.BadTopic()))
		require.NoError(t, s.loop.SetMetadata(withBad(5, 5)))
		s.run()
		time.Sleep(6 * time.Hour)
		s.lookupds[0].Stop()
		lift()
		s.lookupds[0].Start()
		time.Sleep(2 * defaultMaxBackoff)
		require.Len(t, announced(s.lookupds[0]), 10)
	})
}
