package lookuploop

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// These tests hold what the library does better than the loop in nsqd v1.3.0,
// one test for each point, measured in virtual time. In front of each stands
// what nsqd does.

// One of three lookupds unreachable: a topic takes 1 s to appear at the
// healthy one, 200 topics take 214 s.
func TestAStuckLookupdCostsTheOthersNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const latency = 10 * time.Millisecond
		s := newScene(t, 3)
		s.network.SetLatency(latency)
		healthy := s.lookupds[0]
		s.lookupds[1].Do(lookupdtest.Blackhole())
		s.lookupds[2].Do(lookupdtest.On("REGISTER", lookupdtest.Hang()))
		s.run()
		require.NoError(t, s.loop.WaitRegistered(t.Context(), 1))

		for i := range 200 {
			time.Sleep(137 * time.Millisecond) // so that the others are in every state
			topic := fmt.Sprintf("topic-%d", i)
			started := time.Now()
			s.notify(TopicCreated(topic))
			s.eventually(healthy, func() bool { return len(healthy.Producers(topic, "")) == 1 })
			require.Equal(t, latency, time.Since(started), topic)
		}
		started := time.Now()
		for i := range 200 {
			s.notify(TopicCreated(fmt.Sprintf("burst-%d", i)))
		}
		s.eventually(healthy, func() bool { return len(announced(healthy)) == 400 })
		require.Equal(t, latency, time.Since(started))

		status := s.loop.Status()
		require.Zero(t, status.Lookupds[0].Failures)
		require.Greater(t, status.Lookupds[1].Failures, uint64(2))
		require.Greater(t, status.Lookupds[2].Failures, uint64(2))
	})
}

// A restart is noticed at the next heartbeat and repaired at the one after, 18
// to 30 s later.
func TestALostConnectionIsSeenAtOnceAndReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const latency = 5 * time.Millisecond
		const repair = 100*time.Millisecond + 5*latency // the backoff; Dial and IDENTIFY there and back; REGISTER there
		s := newScene(t, 1)
		s.network.SetLatency(latency)
		lookupd := s.lookupds[0]
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"))
		s.run()
		s.registered()

		for name, lose := range map[string]func(){
			"restart":    func() { lookupd.Stop(); lookupd.Start() },
			"reset":      lookupd.CloseConnections,
			"middle box": func() { s.network.Reset(lookupd.TCPAddress) },
		} {
			for range 10 {
				time.Sleep(syncedBackoff)
				lost := time.Now()
				lose()
				time.Sleep(latency)
				synctest.Wait()
				require.NotEqual(t, Connected, s.loop.Status().Lookupds[0].State, name)
				s.eventually(lookupd, func() bool { return len(lookupd.Producers("orders", "mail")) == 1 })
				require.LessOrEqual(t, time.Since(lost), latency+repair, name)
				s.registered()
			}
		}
	})
}

// Every REGISTER is several small writes and a round trip of its own.
func TestASyncTakesOneRoundTrip(t *testing.T) {
	for topics, roundTrips := range map[int]time.Duration{700: 1, 10_000: 4} { // the window grows meanwhile
		inBubble(t, func(t *testing.T) {
			const roundTrip = 20 * time.Millisecond
			var watch dialWatch
			s := newScene(t, 1, watch.watch)
			s.network.SetLatency(roundTrip / 2)
			s.network.SetBuffer(1 << 20)
			require.NoError(t, s.loop.SetMetadata(manyTopics(topics)))
			started := time.Now()
			s.run()
			s.registered()
			require.Len(t, s.lookupds[0].Topics(), topics)
			const connect = 2 * roundTrip // Dial, IDENTIFY
			require.LessOrEqual(t, time.Since(started), connect+roundTrips*roundTrip)
			require.LessOrEqual(t, watch.written(), 10+topics/50, "writes")
		})
	}
}

// Each event has a goroutine of its own, so their order is lost: of 200
// channels that were created, deleted and created again within a millisecond,
// 64 to 200 stay unregistered.
func TestTheLatestStateWins(t *testing.T) {
	for name, latency := range map[string]time.Duration{"near": 0, "far": 300 * time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 2)
				s.network.SetLatency(latency)
				s.lookupds[1].Do(lookupdtest.On("UNREGISTER", lookupdtest.Delay(time.Microsecond)))
				s.notify(TopicCreated("orders"))
				s.run()
				s.registered()

				var want []string
				var brokers sync.WaitGroup
				for i := range 200 {
					channel := fmt.Sprintf("channel-%03d", i)
					isThere := i%4 > 0 // at the end
					if isThere {
						want = append(want, "orders "+channel)
					}
					brokers.Go(func() {
						time.Sleep(time.Duration(i) * 3 * time.Microsecond)
						for range 10 {
							err := errors.Join(
								s.loop.Notify(ChannelCreated("orders", channel)),
								s.loop.Notify(ChannelDeleted("orders", channel)),
							)
							if err != nil {
								t.Error(err)
							}
							time.Sleep(time.Duration(i%7) * time.Microsecond)
						}
						if !isThere {
							return
						}
						if err := s.loop.Notify(ChannelCreated("orders", channel)); err != nil {
							t.Error(err)
						}
					})
				}
				started := time.Now()
				brokers.Wait()
				require.Less(t, time.Since(started), time.Millisecond)
				s.registered()
				for _, lookupd := range s.lookupds {
					require.Equal(t, append([]string{"orders"}, want...), announced(lookupd))
				}
				for _, status := range s.loop.Status().Lookupds {
					require.Zero(t, status.Failures)
				}
			})
		})
	}
}

// nsqd.dat is written and synced for each event, under the lock that every
// client needs, and only once the lookup loop has taken the event.
func TestMetadataIsWrittenCoalescedAndWithoutLookupd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := t.TempDir()
		s := newScene(t, 1, func(o *Options) { o.DataPath = dir })
		s.lookupds[0].Do(lookupdtest.Blackhole())
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		s.run()

		const topics = 990
		const pause = 100 * time.Millisecond // between two writes
		started := time.Now()
		for i := range topics {
			s.notify(TopicCreated(fmt.Sprintf("topic-%d", i)))
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, topics*time.Millisecond, time.Since(started), "Notify waits for nothing")
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.Equal(t, topics*time.Millisecond, time.Since(started), "what somebody waits for is written at once")

		status := s.loop.Status()
		require.NotEqual(t, Connected, status.Lookupds[0].State)
		require.False(t, status.Metadata.Dirty)
		require.LessOrEqual(t, status.Metadata.Writes, uint64(topics*time.Millisecond/pause)+2)

		var onDisk Metadata
		data, err := os.ReadFile(filepath.Join(dir, "nsqd.dat"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &onDisk))
		require.Len(t, onDisk.Topics, topics)
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, files, 1, "nothing temporary stays")
		require.NoError(t, s.end())
	})
}

// A response length of -1 and every other stream of random bytes panics the
// process; a lookupd that sends a byte now and then holds the loop for ever.
func TestHostileAnswersAreBounded(t *testing.T) {
	type hostile struct {
		order lookupdtest.Order
		want  string // the error
	}
	answers := map[string]hostile{
		"length -1":            {lookupdtest.Length(-1), "negative response length: -1"},
		"least length":         {lookupdtest.Length(-1 << 31), "negative response length: -2147483648"},
		"greatest length":      {lookupdtest.Length(1<<31 - 1), "response too large: 2147483647 bytes"},
		"body that never ends": {lookupdtest.Length(1 << 20), "no answer within 1s"},
		"byte by byte":         {lookupdtest.Drip(900 * time.Millisecond), "no answer within 1s"},
		"silence":              {lookupdtest.Hang(), "no answer within 1s"},
		"web server":           {lookupdtest.SpeakHTTP(), "an HTTP server answered"},
		"answers nobody asked": {lookupdtest.Unasked("OK"), "answer without a command"},
		"answers twice":        {lookupdtest.Twice(), "answer"},
		"answers of no bytes":  {lookupdtest.Reply(""), "answer"},
	}
	for seed := range uint64(20) {
		answers[fmt.Sprint("garbage ", seed)] = hostile{lookupdtest.Garbage(seed, 1000), "lookuploop: lookupd1.test:4160: "}
	}
	for name, answer := range answers {
		for _, command := range []string{"IDENTIFY", "REGISTER", "*"} {
			t.Run(name+" to "+command, func(t *testing.T) {
				inBubble(t, func(t *testing.T) {
					s := newScene(t, 1)
					s.notify(TopicCreated("orders"))
					lift := s.lookupds[0].Do(lookupdtest.On(command, answer.order))
					s.run()
					time.Sleep(time.Second) // DialTimeout takes none, so this is ResponseTimeout
					synctest.Wait()
					status := s.loop.Status().Lookupds[0]
					require.GreaterOrEqual(t, status.Failures, uint64(1))
					if len(status.Refused) > 0 { // what lookupd says at one name alone is for Refused
						require.ErrorContains(t, status.Refused[0], answer.want)
						lift()
						time.Sleep(time.Minute) // the next trial
					} else {
						require.ErrorContains(t, status.LastError, answer.want)
						lift()
					}
					s.registered()
					require.Equal(t, []string{"orders"}, announced(s.lookupds[0]))
				})
			})
		}
	}
}

// What lookupd answers to REGISTER is ignored.
func TestEveryAnswerIsRead(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		lookupd := s.lookupds[0]
		lookupd.Do(lookupdtest.On("REGISTER b", lookupdtest.Reject("E_BAD_TOPIC not this one")))
		s.notify(TopicCreated("a"), TopicCreated("b"), TopicCreated("c"))
		s.run()
		err := s.loop.WaitRegistered(t.Context(), 0)
		var refused *ResponseError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, &ResponseError{
			Address: "lookupd1.test:4160", Command: "REGISTER", Topic: "b", Code: "E_BAD_TOPIC", Message: "not this one",
		}, refused)
		s.eventually(lookupd, func() bool { return len(announced(lookupd)) == 2 })
		require.Equal(t, []string{"a", "c"}, announced(lookupd))

		// An answer that isn't OK is no acknowledgement either.
		lookupd.Do(lookupdtest.Once(lookupdtest.On("REGISTER d", lookupdtest.Reply("NO"))))
		s.notify(TopicCreated("d"))
		synctest.Wait()
		require.ErrorContains(t, s.loop.Status().Lookupds[0].LastError, `REGISTER: unexpected answer "NO"`)
		s.eventually(lookupd, func() bool { return len(announced(lookupd)) == 3 })
		require.Equal(t, []string{"a", "c", "d"}, announced(lookupd))
	})
}

// 10,000 topics of one channel each are announced with 30,000 REGISTERs, for
// which 20,000 goroutines wait.
func TestWhatWasLoadedIsAnnouncedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const topics = 2_000
		dir := t.TempDir()
		had := manyTopics(topics)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "nsqd.dat"), []byte(encoded(t, had)), 0o600))
		s := newScene(t, 1, func(o *Options) { o.DataPath = dir })
		heard := listen(s.lookupds[0])

		goroutines := runtime.NumGoroutine()
		loaded, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		s.run()
		for _, topic := range loaded.Topics { // the broker creates what it had and says so
			s.notify(TopicCreated(topic.Name), ChannelCreated(topic.Name, topic.Channels[0].Name))
		}
		require.Less(t, runtime.NumGoroutine(), goroutines+20)
		s.registered()

		commands := slices.DeleteFunc(heard(), func(command string) bool { return command == "PING" })
		require.Len(t, commands, 1+topics)
		require.Equal(t, "IDENTIFY", commands[0])
		require.Equal(t, "REGISTER topic0 channel", commands[1])
		require.Len(t, announced(s.lookupds[0]), 2*topics)
		require.NoError(t, s.end())
	})
}

// lookupd refuses IDENTIFY for ever.
func TestHTTPPortZeroIsAnOptionsFault(t *testing.T) {
	opts := validOptions()
	opts.BroadcastHTTPPort, opts.LookupdTCPAddresses = 0, []string{"lookupd.test:4160"}
	loop, err := New(opts)
	require.ErrorContains(t, err, "lookuploop: BroadcastHTTPPort 0: set it to 1..65535 (nsqlookupd refuses 0")
	require.Nil(t, loop)
}

// The end waits 2.8 s for hung lookupds, 61 s for a dripping one, 10.9 s amid a
// sync, and leaves the sockets to the garbage collector.
func TestRunReturnsWithNothingLeft(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var watch dialWatch
		s := newScene(t, 7, watch.watch, func(o *Options) { o.ResponseTimeout = time.Minute })
		s.network.SetLatency(10 * time.Millisecond)
		require.NoError(t, s.loop.SetMetadata(manyTopics(5000)))
		s.notify(TopicCreated("live#ephemeral"))
		s.lookupds[1].Do(lookupdtest.Blackhole())
		s.lookupds[2].Do(lookupdtest.On("IDENTIFY", lookupdtest.Hang()))
		s.lookupds[3].Do(lookupdtest.On("REGISTER", lookupdtest.Hang()))
		s.lookupds[4].Do(lookupdtest.On("REGISTER", lookupdtest.HalfOpen()))
		s.lookupds[5].Do(lookupdtest.On("REGISTER", lookupdtest.Drip(100*time.Millisecond)))
		s.lookupds[6].Do(lookupdtest.On("REGISTER", lookupdtest.Delay(100*time.Microsecond))) // amid the sync
		s.run()
		require.NoError(t, s.loop.WaitRegistered(t.Context(), 1))
		time.Sleep(100 * time.Millisecond)
		require.GreaterOrEqual(t, watch.opened(), 5)

		started := time.Now()
		require.NoError(t, s.end())
		require.LessOrEqual(t, time.Since(started), leaveTimeout)
		require.Zero(t, watch.opened(), "open connections")
		for _, p := range s.loop.lookupPeers() {
			require.Equal(t, Disconnected, p.status().State, p.address)
		}
		require.NotContains(t, stacks(), "lookuploop.(*lookupPeer)")
		require.NotContains(t, stacks(), "lookuploop.(*connection)")
	})
}

// stacks returns the stacks of all goroutines.
func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}
