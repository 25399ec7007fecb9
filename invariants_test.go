package lookuploop

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// TestPersistMetadataAfterAWriteThatWasNotSynced is about a Loop that could
// replace nsqd.dat but not sync the directory, and the one that follows: it
// finds the new file, which a crash would still take back.
func TestPersistMetadataAfterAWriteThatWasNotSynced(t *testing.T) {
	const orders = `{"topics":[{"name":"orders","paused":false,"channels":[]}],"version":"0.1.0"}`
	const nothing = `{"topics":[],"version":"0.1.0"}`
	for name, tt := range map[string]struct {
		before    string
		change    Event
		after     string
		atLoading error // of syncing the directory
	}{
		"the disk is fine again":              {nothing, TopicCreated("orders"), orders, nil},
		"it can't be synced either":           {nothing, TopicCreated("orders"), orders, syscall.EIO},
		"nothing is left and can't be synced": {orders, TopicDeleted("orders"), nothing, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				disk := nsqdattest.NewDisk(map[string]string{"nsqd.dat": tt.before})
				load := func() *Loop {
					loop := newLoop(t, func(o *Options) { o.DataPath = "data" })
					loop.disk = disk
					_, err := loop.LoadMetadata()
					require.NoError(t, err)
					return loop
				}
				failToSync := func(err error) {
					disk.Order(func(step string) (f nsqdattest.Fault) {
						if step == "sync directory" {
							f.Err = err
						}
						return f
					})
				}
				first := load()
				require.NoError(t, first.Notify(tt.change))
				failToSync(syscall.EIO)
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				require.ErrorIs(t, first.Run(ended), syscall.EIO)

				failToSync(tt.atLoading)
				second := load()
				failToSync(nil)
				running, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				go second.Run(running)
				require.NoError(t, second.PersistMetadata(t.Context()))
				for _, outcome := range disk.AfterCrash() {
					require.Equal(t, tt.after, outcome.Files()["nsqd.dat"])
				}
			})
		})
	}
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
				require.NoError(t, s.loop.SetMetadata(manyChannels(tt.commands/99, 99)))
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
