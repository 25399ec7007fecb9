package wire

import (
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// A lookupd can answer before it has read, so that no answer is due amid a write.
func TestWriteIsBoundedThoughNoAnswerIsDue(t *testing.T) {
	for name, readsOn := range map[string]bool{"lookupd reads no more": false, "lookupd reads on": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				ours, theirs := net.Pipe() // no buffer: what isn't read isn't written
				defer theirs.Close()
				k := &talk{Conn: NewConn[int]("lookupd.test:4160", ours, time.Second, 1024)}
				k.read(t)
				go func() {
					theirs.Read(make([]byte, 1))
					io.WriteString(theirs, frame("OK"))
					if readsOn {
						time.Sleep(time.Second / 2)
						io.Copy(io.Discard, theirs)
					}
				}()

				started := time.Now()
				err := k.Send(batchOf("REGISTER a"))
				if readsOn {
					require.NoError(t, err)
					time.Sleep(time.Hour) // nothing is due any more
					k.Close()
					<-k.Done()
					require.ErrorContains(t, k.Err(), "connection lost: ")
				} else {
					require.ErrorIs(t, err, io.ErrClosedPipe)
					<-k.Done()
					require.EqualError(t, k.Err(), "lookuploop: lookupd.test:4160: commands not taken within 1s: read pipe: i/o timeout")
					require.Equal(t, time.Second, time.Since(started))
					require.False(t, k.Severed(), "nothing was refused")
				}
				require.Equal(t, 1, k.n)
			})
		})
	}
}

func TestDeadlineIsForEachAnswerAndNotForSilence(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		time.Sleep(time.Hour) // nothing was asked

		lift := k.lookupd.Do(lookupdtest.Drip(150 * time.Millisecond)) // 0.9 s for each answer
		k.say(t, "REGISTER a", "REGISTER b", "PING", "REGISTER c")
		time.Sleep(3*time.Second + 600*time.Millisecond)
		lift()
		k.say(t, "REGISTER d")
		synctest.Wait()
		require.Zero(t, k.NumInFlight())

		time.Sleep(time.Hour)
		k.lookupd.Do(lookupdtest.Hang())
		started := time.Now()
		k.say(t, "REGISTER e")
		time.Sleep(600 * time.Millisecond)
		k.say(t, "REGISTER f") // which doesn't give the first more time
		<-k.Done()
		require.ErrorIs(t, k.Err(), os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(started))
		require.Equal(t, 4, k.n)
	})
}

// What handle takes, as when it waits for a lock, is no fault of lookupd's: its
// answers may lie there, or it may wait until it gets rid of them.
func TestTimeThatHandleTakesIsNotLookupds(t *testing.T) {
	for name, buffer := range map[string]int{"answers lie there": 1 << 10, "answers find no room": 8} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				_, err := k.Identify(identity)
				require.NoError(t, err)
				k.network.SetLatency(10 * time.Millisecond)
				k.network.SetBuffer(buffer)
				handled := make(chan Answers[int], 100)
				go k.ReadAnswers(func(a Answers[int]) {
					time.Sleep(10 * time.Second)
					handled <- a
				})
				defer func() {
					k.Close()
					<-k.Done()
				}()

				window := k.Room()
				k.say(t, "REGISTER a")
				time.Sleep(5 * time.Second) // the answer is being handled
				k.say(t, "REGISTER b", "PING", "REGISTER c")
				for n := 0; n < 3; {
					select {
					case a := <-handled:
						n += a.N
						require.LessOrEqual(t, a.RTT, 100*time.Millisecond)
						require.GreaterOrEqual(t, a.RTT, time.Duration(0))
					case <-k.Done():
						t.Fatal(k.Err())
					}
				}
				synctest.Wait()
				require.Equal(t, window+4, k.Room(), "no answer was late")
			})
		})
	}
}

// sleepyConn sleeps through the first Read with a deadline, and beyond that.
type sleepyConn struct {
	net.Conn
	deadline time.Time
	slept    bool
}

func (c *sleepyConn) SetReadDeadline(t time.Time) error {
	c.deadline = t
	return c.Conn.SetReadDeadline(t)
}

func (c *sleepyConn) Read(p []byte) (int, error) {
	if !c.slept && !c.deadline.IsZero() {
		time.Sleep(time.Until(c.deadline) + time.Second)
		c.slept = true
	}
	return c.Conn.Read(p)
}

// A process can be stopped for longer than the timeout. When it goes on, the
// time is over though the answer has come.
func TestAnswerThatCameInTimeIsReadThoughTheDeadlineIsOver(t *testing.T) {
	for name, tt := range map[string]struct {
		order lookupdtest.Order
		want  string // error; empty: none
	}{
		"all of it":  {lookupdtest.Reply("OK"), ""},
		"half of it": {lookupdtest.Length(3), "no answer within 1s"},
		"nothing":    {lookupdtest.Hang(), "no answer within 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				_, err := k.Identify(identity)
				require.NoError(t, err)
				k.socket.Conn = &sleepyConn{Conn: k.socket.Conn}
				k.lookupd.Do(tt.order)
				k.say(t, "REGISTER a")
				started := time.Now()
				k.read(t)
				if tt.want == "" {
					time.Sleep(time.Hour)
					require.Zero(t, k.NumInFlight())
					return
				}
				<-k.Done()
				require.ErrorContains(t, k.Err(), tt.want)
				require.ErrorIs(t, k.Err(), os.ErrDeadlineExceeded)
				require.Equal(t, 2*time.Second+lastLook, time.Since(started))
			})
		})
	}
}
