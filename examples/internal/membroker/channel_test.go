package membroker

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// newConsumer joins a consumer with the default message timeout that wants n messages.
func newConsumer(c *channel, n int) (*consumer, chan struct{}) {
	wake := make(chan struct{}, 1)
	s := &consumer{client: clientInfo{msgTimeout: time.Minute}, channel: c, wake: wake, gone: make(chan struct{})}
	c.join(s)
	c.setReady(s, n)
	<-wake
	return s, wake
}

func bodies(taken []handout) []string {
	got := []string{}
	for _, h := range taken {
		got = append(got, string(h.body))
	}
	return got
}

func TestChannelGivesEachMessageToOneConsumer(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	first, woken := newConsumer(c, 2)
	second, _ := newConsumer(c, 10)
	c.put(texts(4))

	require.Len(t, woken, 1, "a message wakes who wants one")
	require.Equal(t, []string{"0", "1"}, bodies(c.take(first, 10)), "no more than RDY")
	require.Equal(t, []string{"2"}, bodies(c.take(second, 1)), "no more than asked for")
	require.Equal(t, []string{"3"}, bodies(c.take(second, 10)))
	require.Empty(t, c.take(second, 10))
}

func TestChannelWakesAConsumerThatCanTakeMore(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	s, woken := newConsumer(c, 3)
	c.put(texts(3))
	<-woken
	c.take(s, 2)
	require.Len(t, woken, 1)
	<-woken
	c.take(s, 2)
	require.Empty(t, woken)
}

func TestChannelFinish(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	s, _ := newConsumer(c, 1)
	other, _ := newConsumer(c, 1)
	c.put(texts(2))
	m := c.take(s, 1)[0]

	require.ErrorIs(t, c.finish(other, m.id), errNotYours)
	require.Empty(t, c.take(s, 1), "RDY is used up")
	require.NoError(t, c.finish(s, m.id))
	require.ErrorIs(t, c.finish(s, m.id), errNotInFlight)
	require.Equal(t, []string{"1"}, bodies(c.take(s, 1)))
	require.Equal(t, 1, c.held())
}

func TestChannelRequeue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChannel("c", false, newAlarms())
		s, _ := newConsumer(c, 1)
		c.put(texts(1))

		m := c.take(s, 1)[0]
		require.NoError(t, c.requeue(s, m.id, 0))
		m = c.take(s, 1)[0]
		require.EqualValues(t, 2, m.attempts, "taken a second time at once")

		require.NoError(t, c.requeue(s, m.id, time.Second))
		require.ErrorIs(t, c.requeue(s, m.id, 0), errNotInFlight)
		require.Equal(t, 1, c.stats(false).DeferredCount)
		time.Sleep(time.Second - 1)
		c.requeueDue(time.Now())
		require.Empty(t, c.take(s, 1), "not before its delay is over")
		time.Sleep(1)
		c.requeueDue(time.Now())
		require.EqualValues(t, 3, c.take(s, 1)[0].attempts)
		require.EqualValues(t, 2, c.stats(false).RequeueCount)
		require.Zero(t, c.stats(false).TimeoutCount)
	})
}

func TestChannelRequeueIsForAnyConsumer(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	s, _ := newConsumer(c, 1)
	c.put(texts(1))
	m := c.take(s, 1)[0]
	other, woken := newConsumer(c, 1)
	c.stopFeeding(s)
	require.NoError(t, c.requeue(s, m.id, 0))
	require.Len(t, woken, 1)
	require.Len(t, c.take(other, 1), 1)
}

func TestChannelTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChannel("c", false, newAlarms())
		s, woken := newConsumer(c, 1)
		c.put(texts(1))
		<-woken
		m := c.take(s, 1)[0]

		time.Sleep(time.Minute)
		c.requeueDue(time.Now())
		require.Len(t, woken, 1)
		require.ErrorIs(t, c.finish(s, m.id), errNotInFlight, "it came too late")
		require.EqualValues(t, 1, c.stats(false).TimeoutCount)
		require.EqualValues(t, 2, c.take(s, 1)[0].attempts)
	})
}

func TestChannelTouch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChannel("c", false, newAlarms())
		s, _ := newConsumer(c, 1)
		c.put(texts(1))
		m := c.take(s, 1)[0]

		start := time.Now()
		for time.Since(start) < maxMsgTimeout {
			require.NoError(t, c.touch(s, m.id), "after %v", time.Since(start))
			time.Sleep(time.Minute - 1)
			c.requeueDue(time.Now())
		}
		require.ErrorIs(t, c.touch(s, m.id), errNotInFlight, "not for longer than maxMsgTimeout")
	})
}

func TestChannelDeferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChannel("c", false, newAlarms())
		s, woken := newConsumer(c, 1)
		c.put([]*message{newMessage([]byte("later"), time.Second)})
		require.Empty(t, c.take(s, 1))
		time.Sleep(time.Second)
		c.requeueDue(time.Now())
		require.Len(t, woken, 1)
		require.EqualValues(t, 1, c.take(s, 1)[0].attempts)
	})
}

func TestChannelRequeuesWhatALeavingConsumerHad(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	gone, _ := newConsumer(c, 2)
	stays, woken := newConsumer(c, 3)
	c.put(texts(3))
	c.take(gone, 2)
	c.take(stays, 1)
	<-woken

	require.Equal(t, 1, c.leave(gone))
	require.Len(t, woken, 1)
	require.ElementsMatch(t, []string{"0", "1"}, bodies(c.take(stays, 3)))
	require.Equal(t, 0, c.leave(stays))
	require.Equal(t, 3, c.held())
}

func TestChannelPaused(t *testing.T) {
	c := newChannel("c", true, newAlarms())
	s, woken := newConsumer(c, 1)
	c.put(texts(1))
	require.Empty(t, woken)
	require.Empty(t, c.take(s, 1))
	c.setPaused(false)
	require.Len(t, woken, 1)
	require.Len(t, c.take(s, 1), 1)
}

func TestChannelStopFeeding(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	s, _ := newConsumer(c, 2)
	c.put(texts(2))
	m := c.take(s, 1)[0]
	require.True(t, c.stopFeeding(s))
	require.False(t, c.stopFeeding(s))
	c.setReady(s, 5)
	require.Empty(t, c.take(s, 5))
	require.False(t, c.idle(s))
	require.NoError(t, c.finish(s, m.id), "what is in flight may be finished")
	require.True(t, c.idle(s))
}

func TestChannelEmpty(t *testing.T) {
	c := newChannel("c", false, newAlarms())
	s, _ := newConsumer(c, 1)
	c.put(append(texts(2), newMessage([]byte("deferred"), time.Hour)))
	m := c.take(s, 1)[0]
	c.empty()
	require.Zero(t, c.held())
	require.ErrorIs(t, c.finish(s, m.id), errNotInFlight)
	c.put(texts(1))
	require.Len(t, c.take(s, 1), 1, "what was in flight doesn't count any more")
}

func TestAttemptsStayAtTheHighest(t *testing.T) {
	d := &delivery{attempts: math.MaxUint16 - 1}
	d.attempt()
	d.attempt()
	require.EqualValues(t, math.MaxUint16, d.attempts)
}
