package lookuploop

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// mixed is a broker with ephemeral names of each kind.
var mixed = []Event{
	TopicCreated("live#ephemeral"), ChannelCreated("live#ephemeral", "view#ephemeral"), ChannelCreated("live#ephemeral", "log"),
	TopicCreated("orders"), ChannelCreated("orders", "mail"), ChannelCreated("orders", "tail#ephemeral"),
	TopicCreated("empty#ephemeral"),
}

// requireForgotten wants the node gone from a lookupd, and of the names those
// that stay.
func requireForgotten(t *testing.T, lookupd *lookupdtest.Server) {
	t.Helper()
	synctest.Wait()
	require.Empty(t, announced(lookupd))
	require.Zero(t, lookupd.Connections())
	require.Equal(t, []string{"orders"}, lookupd.Topics())
	require.Equal(t, []string{"mail"}, lookupd.Channels("orders"))
	require.Equal(t, []string{"log"}, lookupd.Channels("live#ephemeral"), "lookupd keeps what isn't called ephemeral")
}

// lookupd keeps the names of producers that are gone, ephemeral ones too,
// unless they are unregistered: a topic's channels before the topic, or it warns.
func TestEphemeralNamesAreUnregisteredInTheEnd(t *testing.T) {
	farewell := []string{
		"UNREGISTER live#ephemeral view#ephemeral", "UNREGISTER live#ephemeral log", "UNREGISTER orders tail#ephemeral",
		"UNREGISTER live#ephemeral", "UNREGISTER empty#ephemeral",
	}
	for name, leave := range map[string]func(*scene) error{
		"end of Run":         func(s *scene) error { return s.end() },
		"removed address":    func(s *scene) error { return s.loop.SetLookupdTCPAddresses([]string{s.lookupds[1].TCPAddress}) },
		"leave of discovery": func(s *scene) error { return s.loop.SetLookupdTCPAddresses(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 2)
				s.network.SetLatency(20 * time.Millisecond)
				s.notify(mixed...)
				s.run()
				s.registered()
				heard := listen(s.lookupds[0])
				left := time.Now()
				require.NoError(t, leave(s))
				s.eventually(s.lookupds[0], func() bool { return s.lookupds[0].Connections() == 0 })
				require.LessOrEqual(t, time.Since(left), 60*time.Millisecond, "there and back, and the end")
				require.Equal(t, farewell, heard())
				requireForgotten(t, s.lookupds[0])
				if name == "removed address" {
					require.Len(t, announced(s.lookupds[1]), len(mixed))
					require.EqualValues(t, 1, s.status(1).Connects)
				} else {
					requireForgotten(t, s.lookupds[1])
				}
			})
		})
	}
}

// More than fits a chunk and the window, and amid the sync.
func TestEphemeralNamesAreUnregisteredInTheEndHoweverMany(t *testing.T) {
	for name, settle := range map[string]func(*scene){
		"after the sync": (*scene).registered,
		"amid the sync":  func(*scene) { time.Sleep(30 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				s.network.SetLatency(5 * time.Millisecond)
				m := manyTopics(2000)
				for i := range m.Topics {
					m.Topics[i].Name += registry.EphemeralSuffix
				}
				require.NoError(t, s.loop.SetMetadata(m))
				s.run()
				settle(s)
				require.NotEmpty(t, s.lookupds[0].Topics())
				ended := time.Now()
				require.NoError(t, s.end())
				require.Less(t, time.Since(ended), 200*time.Millisecond)
				time.Sleep(5 * time.Millisecond)
				synctest.Wait()
				require.Empty(t, s.lookupds[0].Topics())
			})
		})
	}
}

// The answer to the trial of a refused name is under way when the end comes.
func TestNameThatIsBeingTriedIsUnregisteredInTheEnd(t *testing.T) {
	for refused, message := range map[string]string{
		"live#ephemeral view": "E_BAD_CHANNEL not valid",
		"live#ephemeral":      "E_BAD_TOPIC not valid",
	} {
		t.Run(refused, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				s.network.SetLatency(20 * time.Millisecond)
				s.notify(TopicCreated("live#ephemeral"), ChannelCreated("live#ephemeral", "view"))
				s.lookupds[0].Do(lookupdtest.Once(lookupdtest.On("REGISTER "+refused, lookupdtest.Reject(message))))
				s.run()
				s.eventually(s.lookupds[0], func() bool { return s.status(1).Refused != nil })
				heard := listen(s.lookupds[0])
				tried := lookupdtest.On("REGISTER "+refused, lookupdtest.Observe(func(lookupdtest.Command) { go s.end() }))
				s.lookupds[0].Do(lookupdtest.Once(tried))
				s.eventually(s.lookupds[0], func() bool { return s.lookupds[0].Connections() == 0 && s.loop.hasEnded() })
				require.Subset(t, heard(), []string{"REGISTER " + refused, "UNREGISTER " + refused})
				require.NoError(t, s.end())
				require.Empty(t, announced(s.lookupds[0]))
			})
		})
	}
}

func TestFarewellToAStuckLookupdTakesASecond(t *testing.T) {
	for name, tt := range map[string]struct {
		order  lookupdtest.Order
		topics int           // created before; lookupd refuses the first
		before time.Duration // by so long
	}{
		"hung":           {lookupdtest.Hang(), 0, 0},
		"half open":      {lookupdtest.HalfOpen(), 0, 0},
		"dripping":       {lookupdtest.Drip(300 * time.Millisecond), 0, 0},
		"hung at last":   {lookupdtest.After(3, lookupdtest.Hang()), 0, 0},
		"half open late": {lookupdtest.After(3, lookupdtest.HalfOpen()), 0, 0},
		"stuck write":    {lookupdtest.HalfOpen(), 100, 0},
		"late write":     {lookupdtest.Delay(10 * time.Millisecond), 100, 0},
		"full window":    {lookupdtest.Hang(), 2000, 0},
		"stuck probe":    {lookupdtest.On("REGISTER topic1", lookupdtest.HalfOpen()), 100, time.Second},
	} {
		for how, leave := range map[string]func(*scene) error{
			"end of Run":      func(s *scene) error { return s.end() },
			"removed address": func(s *scene) error { return s.loop.SetLookupdTCPAddresses(nil) },
			"Drain":           func(s *scene) error { return s.loop.Drain(s.t.Context()) },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					var watch dialWatch
					s := newScene(t, 1, watch.watch, func(o *Options) { o.ResponseTimeout = time.Minute })
					s.network.SetBuffer(60) // writes wait
					badTopic(s.lookupds[0], "topic0")
					s.notify(mixed...)
					s.run()
					s.registered()
					lift := s.lookupds[0].Do(tt.order)
					for _, topic := range manyTopics(tt.topics).Topics {
						s.notify(TopicCreated(topic.Name))
					}
					time.Sleep(tt.before)
					synctest.Wait()
					left := time.Now()
					require.NoError(t, leave(s))
					time.Sleep(time.Until(left.Add(leaveTimeout)))
					synctest.Wait()
					require.Zero(t, watch.opened())
					lift()
					require.NoError(t, s.end())
					require.Equal(t, left.Add(leaveTimeout), time.Now())
				})
			})
		}
	}
}

// To drain is to leave discovery and serve on; coming back restores all.
func TestDrainLeavesDiscoveryUntilAddressesAreSetAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		lookupd := s.lookupds[0]
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"), ChannelCreated("orders", "tail#ephemeral"))
		s.run()
		s.registered()

		require.NoError(t, s.loop.Drain(t.Context()))
		synctest.Wait() // lookupd sees the end of the connection
		require.Zero(t, lookupd.Connections())
		require.Empty(t, lookupd.Producers("orders", ""), "gone with the connection")
		require.Equal(t, []string{"mail"}, lookupd.Channels("orders"), "what is ephemeral was unregistered, name and all")
		require.Empty(t, s.loop.Status().Lookupds)
		s.notify(TopicCreated("meanwhile")) // the broker serves on

		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{lookupd.TCPAddress}))
		s.registered()
		for topic, channel := range map[string]string{"orders": "tail#ephemeral", "meanwhile": ""} {
			require.Equal(t, []string{"broker.test:4150"}, lookupd.Producers(topic, channel))
		}
	})
}

// Drain waits for each lookupd that is being left, also those of earlier calls
// and swaps, and says which are not left yet when its context ends.
func TestDrainWaitsUntilEveryLookupdWasLeft(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		var watch dialWatch
		s := newScene(t, 3, watch.watch, log.watch)
		s.notify(TopicCreated("orders#ephemeral"))
		s.run()
		s.registered()
		s.lookupds[1].Do(lookupdtest.Hang())
		s.lookupds[2].Do(lookupdtest.Delay(300 * time.Millisecond))
		began := time.Now()
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{"lookupd1.test:4160", "lookupd2.test:4160"}))

		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err := s.loop.Drain(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "lookuploop: not left yet: lookupd2.test:4160: context deadline exceeded")
		require.Equal(t, 500*time.Millisecond, time.Since(began))
		require.Equal(t, 1, watch.opened())

		require.NoError(t, s.loop.Drain(t.Context()))
		require.Equal(t, leaveTimeout, time.Since(began))
		require.Zero(t, watch.opened())
		require.NoError(t, s.loop.Drain(ctx), "there is nothing to wait for")
		for _, lookupd := range s.lookupds {
			require.Equal(t, 1, strings.Count(log.String(), `level=INFO msg="lookupd left" address=`+lookupd.TCPAddress+"\n"))
		}

		s.notify(TopicCreated("meanwhile"))
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{"lookupd1.test:4160"}))
		s.registered()
		require.Equal(t, []string{"broker.test:4150"}, s.lookupds[0].Producers("meanwhile", ""))
		require.NoError(t, s.end())
		err = s.loop.Drain(t.Context())
		require.ErrorIs(t, err, ErrClosed)
		require.ErrorContains(t, err, "Drain must come before Close, and before the end of Run's context")
	})
}

// A lookupd that is not connected needs no farewell.
func TestDrainOfLookupdsThatAreNotConnected(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		require.NoError(t, s.loop.Drain(t.Context()), "before Run")
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{"lookupd1.test:4160"}))
		s.lookupds[0].Do(lookupdtest.Refuse())
		s.run()
		time.Sleep(time.Minute)
		began := time.Now()
		require.NoError(t, s.loop.Drain(t.Context()))
		require.Equal(t, began, time.Now())
	})
}

// While lookupd is away nobody can unregister what is deleted, and it would keep
// the names: more of them than a chunk has, channels and topics.
func TestEphemeralNamesDeletedWhileLookupdIsAwayAreUnregistered(t *testing.T) {
	for name, away := range map[string]func(*scene) (back func()){
		"connection lost": func(s *scene) func() {
			lift := s.lookupds[0].Do(lookupdtest.Refuse())
			s.lookupds[0].CloseConnections()
			return lift
		},
		"network gone": func(s *scene) func() {
			heal := s.network.Partition()
			time.Sleep(20 * time.Second) // until the PING is not answered
			return func() {
				s.network.Reset()
				heal()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const each, kept = 3 * registry.ChunkSize, 2 * registry.ChunkSize
				s := newScene(t, 1)
				s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"))
				s.run()
				for round := range 3 {
					channel := func(i int) string { return fmt.Sprintf("tail-%d-%d#ephemeral", round, i) }
					topic := func(i int) string { return fmt.Sprintf("live-%d-%d#ephemeral", round, i) }
					for i := range each {
						s.notify(ChannelCreated("orders", channel(i)), TopicCreated(topic(i)))
						if i >= kept {
							s.notify(ChannelCreated(topic(i), "view#ephemeral"))
						}
					}
					s.registered()
					back := away(s)
					synctest.Wait()
					require.NotEqual(t, Connected, s.status(1).State)
					for i := range each {
						s.notify(ChannelDeleted("orders", channel(i)), TopicDeleted(topic(i)))
					}
					for i := range kept { // made again, and nothing to say for more than a chunk
						s.notify(ChannelCreated("orders", channel(i)), TopicCreated(topic(i)))
					}
					back()
					s.registered()
					time.Sleep(time.Second)
					require.Len(t, s.lookupds[0].Channels("orders"), 1+kept)
					require.Len(t, s.lookupds[0].Topics(), 1+kept)
					require.Len(t, announced(s.lookupds[0]), 2+2*kept)
					for i := range kept {
						s.notify(ChannelDeleted("orders", channel(i)), TopicDeleted(topic(i)))
					}
				}
			})
		})
	}
}

// The broker leaves before it has come to the names that were deleted meanwhile.
func TestEphemeralNamesDeletedWhileLookupdIsAwayAreUnregisteredInTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const ephemeral = 3 * registry.ChunkSize
		s := newScene(t, 1)
		s.network.SetLatency(5 * time.Millisecond)
		require.NoError(t, s.loop.SetMetadata(manyTopics(5000)))
		for i := range ephemeral {
			s.notify(TopicCreated(fmt.Sprintf("live-%d#ephemeral", i)))
		}
		s.run()
		s.registered()
		accept := s.lookupds[0].Do(lookupdtest.Refuse())
		s.lookupds[0].CloseConnections()
		synctest.Wait()
		for i := range ephemeral {
			s.notify(TopicDeleted(fmt.Sprintf("live-%d#ephemeral", i)))
		}
		accept()
		s.eventually(s.lookupds[0], func() bool { return len(announced(s.lookupds[0])) > 0 })
		require.Less(t, len(announced(s.lookupds[0])), 5000)
		require.NoError(t, s.end())
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		require.Len(t, s.lookupds[0].Topics(), 5000)
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

// Lookupd took the channel once and refuses all that concerns it now, its deletion
// too. It must not hear of that on the main connection, and once on another.
func TestDeletionThatLookupdRefusesCostsNoMainConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const channel = "live#ephemeral"
		var watch dialWatch
		s := newScene(t, 1, watch.watch)
		s.run()
		s.notify(TopicCreated("orders"), ChannelCreated("orders", channel))
		s.registered()
		s.lookupds[0].Do(lookupdtest.On("* orders live*", lookupdtest.BadChannel()))
		s.lookupds[0].CloseConnections()
		time.Sleep(time.Second)
		connects := s.status(1).Connects
		require.EqualValues(t, 3, connects, "the first, the second, which the refusal ended, and this one")

		dials := len(watch.times(s.lookupds[0].TCPAddress))
		s.notify(ChannelDeleted("orders", channel))
		time.Sleep(time.Hour)
		require.Len(t, watch.times(s.lookupds[0].TCPAddress), dials+1)
		for range 100 {
			s.notify(ChannelCreated("orders", channel))
			time.Sleep(time.Second)
			s.notify(ChannelDeleted("orders", channel))
			time.Sleep(time.Second)
			require.Equal(t, []string{"orders"}, announced(s.lookupds[0]))
		}
		require.Equal(t, connects, s.status(1).Connects)
	})
}

func TestProbesThatEndInTheirFarewellPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var watch dialWatch
		s := newScene(t, 1, watch.watch)
		s.lookupds[0].Do(lookupdtest.On("UNREGISTER live*", lookupdtest.Drop()))
		s.run()
		live := func(i int) string { return fmt.Sprintf("live-%d#ephemeral", i) }
		for i := range 20 {
			s.notify(TopicCreated(live(i)))
		}
		s.registered()
		for i := range 20 {
			s.notify(TopicDeleted(live(i)))
		}
		time.Sleep(5 * time.Second)
		require.LessOrEqual(t, len(watch.times(s.lookupds[0].TCPAddress)), 20, "60 without a pause")
	})
}

// tls.Conn.Close would try for 5 s to say goodbye to a lookupd that is gone.
func TestConnectionWithTLSIsClosedAtOnce(t *testing.T) {
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	certificate := certificates.TLS.Certificates[0]
	certificates.Close()

	inBubble(t, func(t *testing.T) {
		network := lookupdtest.NewNetwork()
		lookupd := network.NewUnstartedServer("lookupd.test:4160")
		lookupd.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
		lookupd.Start()
		t.Cleanup(lookupd.Close)
		s := &scene{t: t, network: network, lookupds: []*lookupdtest.Server{lookupd}}
		s.loop = newLoop(t, addresses(lookupd.TCPAddress), func(o *Options) {
			o.Dial = func(ctx context.Context, kind, address string) (net.Conn, error) {
				conn, err := network.Dial(ctx, kind, address)
				if err != nil {
					return nil, err
				}
				secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				return secure, secure.HandshakeContext(ctx)
			}
		})
		s.run()
		s.notify(TopicCreated("orders"))
		s.registered()
		require.Equal(t, []string{"orders"}, announced(lookupd))

		network.SetBuffer(1) // no room for the goodbye
		heal := network.Partition()
		time.Sleep(time.Millisecond)
		started := time.Now()
		require.NoError(t, s.end())
		require.Zero(t, time.Since(started))
		heal()
	})
}
