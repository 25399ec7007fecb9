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
