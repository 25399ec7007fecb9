package wire

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// With 50 ms for a round trip, one command at a time would take 500 s.
func TestWindowGrowsWithTheAnswersUpToItsBound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		k.network.SetLatency(time.Millisecond)
		k.network.SetBuffer(1 << 20)
		for sent := 0; sent < MaxWindow; {
			n := k.Room()
			require.Equal(t, FirstWindow+sent, n)
			k.say(t, strings.Split(strings.Repeat("REGISTER a\n", n), "\n")[:n]...)
			require.Zero(t, k.Room())
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			sent += n
		}
		require.Equal(t, MaxWindow, k.Room())
	})
}

// While an answer is late nothing more is sent, so that a PING that becomes
// due doesn't wait behind a long queue.
func TestNothingIsSentWhileAnAnswerIsLate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		time.Sleep(time.Hour) // which is no answer's delay
		lift := k.lookupd.Do(lookupdtest.Hang())
		k.say(t, "REGISTER a")
		require.Equal(t, FirstWindow-1, k.Room())
		time.Sleep(k.timeout / 4)
		require.Equal(t, FirstWindow-1, k.Room())
		time.Sleep(time.Millisecond)
		require.Zero(t, k.Room())
		lift()
		synctest.Wait()
		require.Equal(t, 1, k.Room(), "one in that time was one too many, but there is no less")
	})
}

// So that a PING never waits for long, there is no more under way than is
// answered in time; and no less, or the line would not be used.
func TestLateAnswersMakeTheWindowAsLargeAsIsAnsweredInTime(t *testing.T) {
	for _, delay := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond} {
		inBubble(t, func(t *testing.T) {
			k := newTalk(t).identified(t)
			k.lookupd.Do(lookupdtest.Delay(delay))
			inTime := int(k.late / delay)
			k.say(t, slices.Repeat([]string{"REGISTER a"}, inTime+100)...)
			synctest.Wait()
			for range inTime + 100 {
				time.Sleep(delay)
				synctest.Wait()
			}
			require.Equal(t, inTime, k.Room())
		})
	}
}
