package wire

import (
	"io"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestConnectionEndsWithAnErrorThatSaysWhatHappened(t *testing.T) {
	for name, tt := range map[string]struct {
		order   lookupdtest.Order
		want    string
		is      error
		severed bool
		logged  int // good answers before
		after   time.Duration
	}{
		"an answer nobody asked for": {lookupdtest.On("REGISTER c", lookupdtest.Unasked("OK")), `"OK": answer without a command`, nil, false, 3, 0},
		"an answer twice":            {lookupdtest.On("REGISTER c", lookupdtest.Twice()), "answer without a command", nil, false, 3, 0},
		"an unexpected answer":       {lookupdtest.On("REGISTER b", lookupdtest.Reply("WHAT?")), `REGISTER: unexpected answer "WHAT?"`, nil, true, 1, 0},
		"an answer that begins well": {lookupdtest.On("REGISTER b", lookupdtest.Reply("OKAY")), `unexpected answer "OKAY"`, nil, true, 1, 0},
		"an empty answer":            {lookupdtest.On("REGISTER b", lookupdtest.Reply("")), `unexpected answer ""`, nil, true, 1, 0},
		"a long unexpected answer":   {lookupdtest.On("REGISTER b", lookupdtest.Reply(strings.Repeat("x", 1000))), strings.Repeat("x", 64) + `"`, nil, true, 1, 0},
		"an answer of 1025 bytes":    {lookupdtest.On("REGISTER b", lookupdtest.Reply(strings.Repeat("x", 1025))), "1025 bytes, MaxResponseSize is 1024", ErrTooLarge, false, 1, 0},
		"a negative length":          {lookupdtest.On("REGISTER b", lookupdtest.Length(-1)), "negative response length: -1", errNegativeLength, false, 1, 0},
		"a web server":               {lookupdtest.On("REGISTER b", lookupdtest.SpeakHTTP()), "an HTTP server answered", errStranger, false, 1, 0},
		"no answer":                  {lookupdtest.On("REGISTER b", lookupdtest.Hang()), "REGISTER: no answer within 1s", os.ErrDeadlineExceeded, true, 1, time.Second},
		"half an answer":             {lookupdtest.On("REGISTER b", lookupdtest.Length(3)), "REGISTER: unexpected answer", nil, true, 1, 0}, // which the next answer completes
		"half the last answer":       {lookupdtest.On("REGISTER c", lookupdtest.Length(3)), "REGISTER: no answer within 1s", os.ErrDeadlineExceeded, true, 2, time.Second},
		"a dripping answer":          {lookupdtest.On("REGISTER b", lookupdtest.Drip(200*time.Millisecond)), "REGISTER: no answer within 1s", os.ErrDeadlineExceeded, true, 1, time.Second},
		"an orderly end":             {lookupdtest.On("REGISTER b", lookupdtest.Drop()), "REGISTER: EOF", io.EOF, true, 1, 0},
		"an end amid an answer":      {lookupdtest.CutSent(6 + 3), "REGISTER: unexpected EOF", io.ErrUnexpectedEOF, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t).identified(t)
				k.lookupd.Do(tt.order)
				started := time.Now()
				k.say(t, "REGISTER a", "REGISTER b", "REGISTER c")
				<-k.Done()
				require.ErrorContains(t, k.Err(), "lookuploop: lookupd.test:4160: ")
				require.ErrorContains(t, k.Err(), tt.want)
				if tt.is != nil {
					require.ErrorIs(t, k.Err(), tt.is)
				}
				require.Equal(t, tt.severed, k.Severed())
				require.Equal(t, tt.logged, k.n, "good answers count, whatever comes after them")
				require.Equal(t, tt.logged, k.last)
				require.Equal(t, tt.after, time.Since(started))
				time.Sleep(time.Second) // the lookupd that drips notices when it sends on
				synctest.Wait()
				require.Zero(t, k.lookupd.Connections(), "the connection is closed")
			})
		})
	}
}

func TestConnectionResetIsSevered(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		k.lookupd.CloseConnections()
		<-k.Done()
		require.ErrorContains(t, k.Err(), "lookuploop: lookupd.test:4160: connection lost: ")
		require.True(t, k.Severed())
	})
}

func TestErrorAnswerSaysWhichCommandItIsAbout(t *testing.T) {
	for line, want := range map[string]AnswerError[int]{
		"REGISTER a b":   {Verb: "REGISTER", Tag: 2},
		"REGISTER a":     {Verb: "REGISTER", Tag: 2},
		"UNREGISTER a b": {Verb: "UNREGISTER", Tag: 2},
		"PING":           {Verb: "PING"},
	} {
		t.Run(line, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t).identified(t)
				k.lookupd.Do(lookupdtest.On(line, lookupdtest.Reject("E_BAD_CHANNEL it's not you")))
				k.say(t, "REGISTER first", line)
				<-k.Done()
				want.Address, want.Text = "lookupd.test:4160", "E_BAD_CHANNEL it's not you"
				var answer *AnswerError[int]
				require.ErrorAs(t, k.Err(), &answer)
				require.Equal(t, &want, answer)
				require.False(t, k.Severed())
			})
		})
	}
}

func TestTextOfAnErrorAnswerIsBounded(t *testing.T) {
	stream := frame("E_INVALID " + strings.Repeat("x", 1<<20))
	c := NewConn[int]("lookupd.test:4160", cannedConn{answers: strings.NewReader(stream)}, time.Second, 2<<20)
	_, err := c.Identify(identity)
	var answer *AnswerError[int]
	require.ErrorAs(t, err, &answer)
	require.Equal(t, "E_INVALID "+strings.Repeat("x", maxErrorText-len("E_INVALID ")), answer.Text)
}

func TestPingTellsTheRoundTripTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		k.network.SetLatency(30 * time.Millisecond)
		for range 2 { // however old the connection is
			k.say(t, "PING", "REGISTER a")
			time.Sleep(100 * time.Millisecond)
		}
		k.Close()
		<-k.Done()
		require.Equal(t, []time.Duration{60 * time.Millisecond, 60 * time.Millisecond}, k.pings)
		require.Equal(t, 2, k.n)
	})
}
