package lookuploop

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// status returns that of lookupd number i once everybody waits for time.
func (s *scene) status(i int) LookupdStatus {
	synctest.Wait()
	return s.loop.Status().Lookupds[i-1]
}

func TestLookupdIsDialledOnceRunBeginsAndThenWithoutBackoff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var watch dialWatch
		s := newScene(t, 1, watch.watch)
		s.notify(TopicCreated("orders"))
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, watch.times(s.lookupds[0].TCPAddress))
		require.Equal(t, Disconnected, s.status(1).State)

		s.run()
		require.Equal(t, Connected, s.status(1).State)
		require.Equal(t, []time.Time{time.Now()}, watch.times(s.lookupds[0].TCPAddress))

		time.Sleep(time.Minute)
		added := s.start(2).TCPAddress
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{s.lookupds[0].TCPAddress, added}))
		require.Equal(t, Connected, s.status(2).State)
		require.Equal(t, []time.Time{time.Now()}, watch.times(added))
		require.Len(t, watch.times(s.lookupds[0].TCPAddress), 1, "who stays keeps the connection")
	})
}

func TestDialIsGivenDialTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{0, 300 * time.Millisecond} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1, func(o *Options) { o.DialTimeout = timeout })
			lift := s.lookupds[0].Do(lookupdtest.Blackhole())
			s.run()
			if timeout == 0 {
				timeout = time.Second
			}
			time.Sleep(timeout - 1)
			require.Equal(t, Connecting, s.status(1).State)
			time.Sleep(1)
			require.Equal(t, Disconnected, s.status(1).State)
			require.EqualError(t, s.status(1).LastError, "lookuploop: lookupd1.test:4160: dial: dial tcp lookupd1.test:4160: context deadline exceeded")

			heard := listen(s.lookupds[0])
			time.Sleep(time.Minute)
			lift()
			s.registered()
			require.NoError(t, s.status(1).LastError)
			require.Equal(t, []string{"IDENTIFY"}, heard(), "the heartbeats that were due are over")
		})
	}
}

func TestIdentifySendsTopologyOnlyWhenThereIsSome(t *testing.T) {
	for want, edit := range map[string]func(*Options){
		`{"broadcast_address":"broker.test","hostname":"broker-host","http_port":4151,"tcp_port":4150,"version":"1.3.0+lookuploop.0.1.0"}`: func(*Options) {},
		`{"broadcast_address":"broker.test","hostname":"broker-host","http_port":4151,"tcp_port":4150,"topology_region":"r","topology_zone":"z","version":"1.2.3"}`: func(o *Options) {
			o.TopologyZone, o.TopologyRegion, o.Version = "z", "r", "1.2.3"
		},
	} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1, edit)
			var body []byte
			s.lookupds[0].Do(lookupdtest.On("IDENTIFY", lookupdtest.Observe(func(c lookupdtest.Command) { body = c.Body })))
			s.run()
			s.registered()
			require.JSONEq(t, want, string(body))
		})
	}
}

func TestStatusShowsWhatLookupdSaidOfItselfLast(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		require.Zero(t, s.status(1).Info)
		s.run()
		want := PeerInfo{TCPPort: 4160, HTTPPort: 4161, Version: "1.3.0", Hostname: "lookupd1.test", BroadcastAddress: "lookupd1.test"}
		require.Equal(t, want, s.status(1).Info)
		s.lookupds[0].Stop()
		require.NotEqual(t, Connected, s.status(1).State)
		require.Equal(t, want, s.status(1).Info)

		s.lookupds[0].Do(lookupdtest.On("IDENTIFY", lookupdtest.Reply(`{"version":"2.0.0"}`)))
		s.lookupds[0].Start()
		s.registered()
		require.Equal(t, PeerInfo{Version: "2.0.0"}, s.status(1).Info)
	})
}

// What lookupd doesn't like in IDENTIFY it won't like a moment later either.
func TestRefusedIdentifyIsTriedAgainAfterMaxBackoff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var watch dialWatch
		s := newScene(t, 1, watch.watch)
		s.notify(TopicCreated("orders"))
		s.lookupds[0].Do(lookupdtest.Times(3, lookupdtest.On("IDENTIFY", lookupdtest.Reject("E_BAD_BODY IDENTIFY missing fields"))))
		s.run()
		for range 3 {
			status := s.status(1)
			require.Equal(t, Disconnected, status.State)
			pause := time.Until(status.NextAttempt)
			require.True(t, pause >= defaultMaxBackoff/2 && pause <= defaultMaxBackoff, pause)
			require.Equal(t, &ResponseError{Address: "lookupd1.test:4160", Command: "IDENTIFY", Code: "E_BAD_BODY", Message: "IDENTIFY missing fields"}, status.LastError)
			require.Zero(t, status.Connects)
			s.notify(TopicCreated("orders")) // doesn't make it more welcome
			time.Sleep(pause)
		}
		require.Equal(t, Connected, s.status(1).State)
		require.NoError(t, s.status(1).LastError)
		gaps := watch.gaps(s.lookupds[0].TCPAddress)
		require.Len(t, gaps, 3)
		require.NotEqual(t, gaps[0], gaps[1], "brokers that were refused together don't come back together")
		require.Equal(t, []string{"orders"}, announced(s.lookupds[0]))
	})
}

// Of 64 pauses drawn evenly below a limit, the longest is above half of it and
// the shortest below a quarter.
func TestBackoffIsDrawnBelowALimitThatDoubles(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const peers = 64
		var watch dialWatch
		s := newScene(t, 0, watch.watch)
		var nobody []string
		for i := range peers {
			nobody = append(nobody, fmt.Sprintf("nobody.test:%d", 1+i))
		}
		require.NoError(t, s.loop.SetLookupdTCPAddresses(nobody))
		s.run()
		time.Sleep(5 * time.Minute)
		require.ErrorIs(t, s.status(1).LastError, syscall.ECONNREFUSED)
		for i, limit := range []time.Duration{100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000} {
			limit *= time.Millisecond
			var pauses []time.Duration
			for _, address := range nobody {
				pauses = append(pauses, watch.gaps(address)[i])
			}
			require.LessOrEqual(t, slices.Max(pauses), limit)
			require.Greater(t, slices.Max(pauses), limit/2)
			require.Less(t, slices.Min(pauses), limit/4)
		}
	})
}

// A lookupd that dies of the last thing it acknowledged would otherwise be
// hammered. One that is restarted often gets its registrations back soon.
func TestPausesAfterConnectionsThatBreak(t *testing.T) {
	for name, tt := range map[string]struct {
		holds   time.Duration // that lookupd stays in sync
		longest time.Duration // pause
		share   float64       // of the time that it is in sync
	}{
		"at once":      {0, syncedBackoff, 0},
		"after 50 ms":  {50 * time.Millisecond, syncedBackoff, 0.05},
		"after 300 ms": {300 * time.Millisecond, defaultMinBackoff, 0.8},
		"after 900 ms": {900 * time.Millisecond, defaultMinBackoff, 0.92},
		"after 20 s":   {20 * time.Second, defaultMinBackoff, 0.99},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var watch dialWatch
				s := newScene(t, 1, watch.watch)
				lookupd := s.lookupds[0]
				s.notify(TopicCreated("a"), TopicCreated("z"))
				s.run()
				const span = 10 * time.Minute
				inSync := time.Duration(0)
				for end := time.Now().Add(span); time.Now().Before(end); {
					s.registered()
					time.Sleep(tt.holds + time.Nanosecond)
					inSync += tt.holds
					lookupd.CloseConnections()
					synctest.Wait() // or it counts as registered until the peer has heard of it
				}
				pauses := watch.gaps(lookupd.TCPAddress)
				for i := range pauses {
					pauses[i] -= tt.holds
				}
				require.LessOrEqual(t, slices.Max(pauses), tt.longest+time.Microsecond)
				require.Greater(t, slices.Max(pauses), tt.longest/2)
				require.GreaterOrEqual(t, float64(inSync)/float64(span), tt.share)
				require.EqualValues(t, len(pauses)+1, s.status(1).Connects)
			})
		})
	}
}

// Lookupd forgets everything each time. Down for 100 ms and up for 900 ms, it is
// listed for as much of the latter as a pause and a sync leave.
func TestLookupdThatIsRestartedOftenIsListedMostOfTheTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(time.Millisecond)
		require.NoError(t, s.loop.SetMetadata(withBad(1000, 0)))
		s.run()
		s.registered()
		const restarts, step, up = 300, 5 * time.Millisecond, 900 * time.Millisecond
		listed := 0
		for range restarts {
			s.lookupds[0].Stop()
			time.Sleep(100 * time.Millisecond)
			s.lookupds[0].Start()
			for range up / step {
				time.Sleep(step)
				if lists(s.lookupds[0], 1000) {
					listed++
				}
			}
		}
		require.GreaterOrEqual(t, float64(listed), 0.85*restarts*float64(up/step))
	})
}

// Nothing tells that a lookupd is back, but a new topic is worth a try.
func TestNewTopicIsListedAtOnceAfterAnOutage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		for i := range 20 {
			s.lookupds[0].Stop()
			time.Sleep(10 * time.Minute)
			s.lookupds[0].Start()
			topic, created := fmt.Sprintf("topic-%d", i), time.Now()
			s.notify(TopicCreated(topic))
			s.eventually(s.lookupds[0], func() bool { return len(s.lookupds[0].Producers(topic, "")) == 1 })
			require.LessOrEqual(t, time.Since(created), wakePause)
		}
	})
}

func TestPingIsSentEachHeartbeatInterval(t *testing.T) {
	for _, interval := range []time.Duration{0, 40 * time.Second} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = interval })
			s.network.SetLatency(20 * time.Millisecond)
			heard := listen(s.lookupds[0])
			s.run()
			s.registered()
			require.Equal(t, []string{"IDENTIFY"}, heard())
			require.Equal(t, 40*time.Millisecond, s.status(1).RTT)
			if interval == 0 {
				interval = 15 * time.Second
			}
			time.Sleep(10 * interval)
			require.Equal(t, slices.Repeat([]string{"PING"}, 10), heard())
			require.WithinRange(t, s.status(1).LastHeartbeat, time.Now().Add(-interval), time.Now())
			require.EqualValues(t, 11, s.status(1).Commands)
		})
	}
}

// As youzan's lookupd does, which closes after 15 s.
func TestLookupdThatClosesIdleConnectionsNeedsAShortHeartbeat(t *testing.T) {
	for interval, isKept := range map[time.Duration]bool{0: false, 5 * time.Second: true} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1, func(o *Options) { o.HeartbeatInterval = interval })
			s.network.SetLatency(time.Millisecond)
			s.lookupds[0].Do(lookupdtest.CloseIdle(15 * time.Second))
			s.run()
			time.Sleep(10 * time.Minute)
			require.Equal(t, isKept, s.status(1).Connects == 1)
		})
	}
}

func TestOrderlyEndIsSeenAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.notify(TopicCreated("orders"))
		s.run()
		s.registered()
		s.lookupds[0].Do(lookupdtest.Once(lookupdtest.On("PING", lookupdtest.Drop())))
		time.Sleep(15 * time.Second)
		require.Equal(t, Disconnected, s.status(1).State)
		require.ErrorIs(t, s.status(1).LastError, io.EOF)
		lost := time.Now()
		require.Equal(t, lost, s.status(1).Since)
		s.registered()
		require.LessOrEqual(t, time.Since(lost), 100*time.Millisecond)
	})
}

// A lookupd that gets stuck is noticed by the next thing that is said to it.
func TestLateAnswerEndsTheConnection(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"default": 0, "other": 3 * time.Second} {
		for command, say := range map[string]func(s *scene){
			"REGISTER":   func(s *scene) { s.notify(TopicCreated("new")) },
			"UNREGISTER": func(s *scene) { s.notify(TopicDeleted("orders")) },
			"PING":       func(*scene) {},
			"IDENTIFY":   func(s *scene) { s.lookupds[0].CloseConnections() },
		} {
			t.Run(command+" "+name, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newScene(t, 1, func(o *Options) { o.ResponseTimeout = timeout })
					if timeout == 0 {
						timeout = time.Second
					}
					s.notify(TopicCreated("orders"))
					s.run()
					s.registered()
					var said atomic.Bool
					s.lookupds[0].Do(lookupdtest.On(command, lookupdtest.Observe(func(lookupdtest.Command) { said.Store(true) })))
					lift := s.lookupds[0].Do(lookupdtest.On(command, lookupdtest.Hang()))
					say(s)
					s.eventually(s.lookupds[0], said.Load)
					time.Sleep(timeout - 1)
					synctest.Wait()
					failures := s.status(1).Failures
					time.Sleep(1)
					require.Equal(t, failures+1, s.status(1).Failures)
					require.ErrorIs(t, s.status(1).LastError, os.ErrDeadlineExceeded)
					require.ErrorContains(t, s.status(1).LastError, fmt.Sprintf("lookuploop: lookupd1.test:4160: %s: no answer within %v", command, timeout))
					lift()
					s.registered()
				})
			})
		}
	}
}

func TestOnStateChangeTellsEachTransitionInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []string
		s := newScene(t, 1, func(o *Options) {
			o.OnStateChange = func(status LookupdStatus) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, fmt.Sprintf("%s %v %v", status.Address, status.State, status.LastError))
			}
		})
		lift := s.lookupds[0].Do(lookupdtest.On("IDENTIFY", lookupdtest.Drop()))
		s.run()
		synctest.Wait()
		lift()
		s.registered()
		synctest.Wait()
		s.lookupds[0].Do(lookupdtest.Once(lookupdtest.On("PING", lookupdtest.Drop())))
		time.Sleep(15 * time.Second)
		s.registered()
		require.NoError(t, s.end())
		const address = "lookupd1.test:4160 "
		const identifyEnded = "lookuploop: lookupd1.test:4160: IDENTIFY: EOF (is this nsqlookupd's TCP port, and without TLS?)"
		const pingEnded = "lookuploop: lookupd1.test:4160: PING: EOF"
		require.Equal(t, []string{
			address + "connecting <nil>",
			address + "disconnected " + identifyEnded,
			address + "connecting " + identifyEnded,
			address + "connected " + identifyEnded,
			address + "disconnected " + pingEnded,
			address + "connecting " + pingEnded,
			address + "connected " + pingEnded,
			address + "disconnected <nil>",
		}, told)
	})
}

func TestAnswersOfAnOldConnectionAcknowledgeNothingOnTheNew(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		replaced := make(chan bool, 1)
		s := newScene(t, 1, func(o *Options) {
			dial := o.Dial
			var last net.Conn
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				if last == nil {
					conn = &lingeringConn{Conn: conn, answers: 10}
				}
				last = conn
				return conn, err
			}
			o.OnStateChange = func(status LookupdStatus) {
				if status.State == Connected && status.Connects == 2 {
					replaced <- true
				}
			}
		})
		s.notify(TopicCreated("orders"), TopicCreated("other"))
		s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Delay(900*time.Millisecond)))
		s.run()
		<-replaced
		for range 8 {
			require.Equal(t, 2, s.status(1).Pending)
			time.Sleep(100 * time.Millisecond)
		}
		s.registered()
		require.Equal(t, []string{"orders", "other"}, announced(s.lookupds[0]))
		require.EqualValues(t, 2, s.status(1).Connects)
	})
}

// idleConn says when its deadline for reading is lifted: all answers have come.
type idleConn struct {
	net.Conn
	isIdle func()
}

func (c idleConn) SetReadDeadline(t time.Time) error {
	if t.IsZero() {
		c.isIdle()
	}
	return c.Conn.SetReadDeadline(t)
}

func TestAddressThatGoesDuringIdentifyIsNeverConnected(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		var s *scene
		s = newScene(t, 1, log.watch, func(o *Options) {
			dial := o.Dial
			o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				conn, err := dial(ctx, network, address)
				return idleConn{conn, func() { s.loop.SetLookupdTCPAddresses(nil) }}, err
			}
		})
		s.run()
		synctest.Wait()
		require.Len(t, log.lines("command=IDENTIFY"), 1)
		require.Empty(t, log.lines("lookupd connected"))
		require.Zero(t, s.lookupds[0].Connections())
	})
}
