package membroker

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTopicKeepsMessagesUntilItHasAChannel(t *testing.T) {
	top := newTopic("t", 10)
	require.NoError(t, top.publish(texts(2)))
	top.channels["c"] = newChannel("c", false, newAlarms())
	top.resume()
	require.Empty(t, top.backlog)
	require.NoError(t, top.publish(texts(1)))
	require.Equal(t, 3, top.channels["c"].held())

	top.channels["late"] = newChannel("late", false, newAlarms())
	top.resume()
	require.Zero(t, top.channels["late"].held(), "only the first channel gets what was before it")
	require.NoError(t, top.publish(texts(1)))
	require.Equal(t, 1, top.channels["late"].held())
	require.Equal(t, 4, top.channels["c"].held())
}

func TestTopicKeepsMessages(t *testing.T) {
	for name, set := range map[string]func(t *topic, hold bool){
		"paused":   func(t *topic, hold bool) { t.paused = hold },
		"starting": func(t *topic, hold bool) { t.starting = hold },
	} {
		t.Run(name, func(t *testing.T) {
			top := newTopic("t", 10)
			top.channels["c"] = newChannel("c", false, newAlarms())
			set(top, true)
			require.NoError(t, top.publish(texts(2)))
			require.Zero(t, top.channels["c"].held())
			set(top, false)
			top.resume()
			require.Equal(t, 2, top.channels["c"].held())
		})
	}
}

func TestTopicRefusesWhatAnyChannelHasNoRoomFor(t *testing.T) {
	top := newTopic("t", 5)
	full, free := newChannel("full", false, newAlarms()), newChannel("free", false, newAlarms())
	top.channels["full"], top.channels["free"] = full, free
	require.NoError(t, top.publish(texts(3)))
	s, _ := newConsumer(free, 3)
	for _, h := range free.take(s, 3) {
		require.NoError(t, free.finish(s, h.id))
	}

	require.ErrorIs(t, top.publish(texts(3)), errFull)
	require.Zero(t, free.held(), "all or nothing")
	require.EqualValues(t, 3, top.messageCount)
	require.NoError(t, top.publish(texts(2)))

	s, _ = newConsumer(full, 1)
	m := full.take(s, 1)[0]
	require.ErrorIs(t, top.publish(texts(1)), errFull, "a message in flight is held too")
	require.NoError(t, full.finish(s, m.id))
	require.NoError(t, top.publish(texts(1)))
}

func TestPausedTopicTakesNoMoreThanItsChannelsWill(t *testing.T) {
	top := newTopic("t", 5)
	c := newChannel("c", false, newAlarms())
	top.channels["c"] = c
	require.NoError(t, top.publish(texts(3)))
	top.paused = true
	require.NoError(t, top.publish(texts(2)))
	require.ErrorIs(t, top.publish(texts(1)), errFull)
	top.paused = false
	top.resume()
	require.Equal(t, 5, c.held())
	require.Equal(t, 5, top.outstanding())
}

func TestTopicEmptyLeavesTheChannels(t *testing.T) {
	top := newTopic("t", 5)
	top.channels["c"] = newChannel("c", false, newAlarms())
	require.NoError(t, top.publish(texts(1)))
	top.paused = true
	require.NoError(t, top.publish(texts(2)))
	top.empty()
	require.Equal(t, 1, top.outstanding())
}

// TestManyUseATopicAndAChannelAtOnce is for the race detector.
func TestManyUseATopicAndAChannelAtOnce(t *testing.T) {
	top := newTopic("t", 1_000_000)
	c := newChannel("c", false, newAlarms())
	top.channels["c"] = c
	other := newChannel("other", false, c.alarms)
	top.channels["other"] = other
	otherConsumer, _ := newConsumer(other, 10)
	empty := newTopic("without channels", 1_000_000)
	var all sync.WaitGroup
	for _, use := range []func(s *consumer){
		func(*consumer) { top.publish(texts(9)); empty.publish(texts(9)) },
		func(*consumer) { top.empty(); empty.empty() },
		func(*consumer) { top.outstanding(); empty.outstanding() },
		func(*consumer) { top.stats("", true); empty.stats("", true) },
		func(*consumer) { c.requeueDue(time.Now().Add(time.Hour)); other.requeueDue(time.Now().Add(time.Hour)) },
		func(*consumer) { c.alarms.waiting() },
		func(*consumer) { c.setPaused(true); c.setPaused(false) },
		func(*consumer) { c.empty(); other.take(otherConsumer, 1); other.empty() },
		func(s *consumer) {
			for i, h := range c.take(s, 9) {
				switch i % 3 {
				case 0:
					c.touch(s, h.id)
				case 1:
					c.requeue(s, h.id, 0)
				default:
					c.finish(s, h.id)
				}
				c.idle(s)
			}
		},
		func(*consumer) { c.stats(true) },
		func(s *consumer) { c.leave(s) },
		func(s *consumer) { c.join(s); c.setReady(s, 10) },
		func(s *consumer) { c.stopFeeding(s) },
	} {
		for range 2 {
			s, _ := newConsumer(c, 10)
			all.Go(func() {
				for range 300 {
					use(s)
					runtime.Gosched()
				}
			})
		}
	}
	all.Go(c.close)
	all.Wait()
	top.empty()
	c.empty()
	other.empty()
	require.Zero(t, top.outstanding())
}
