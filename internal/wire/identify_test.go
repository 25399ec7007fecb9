package wire

import (
	"bytes"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// cannedConn answers with what was prepared, whatever is said.
type cannedConn struct {
	net.Conn // nil: nothing else is called
	answers  io.Reader
}

func (c cannedConn) Read(p []byte) (int, error)  { return c.answers.Read(p) }
func (c cannedConn) Write(p []byte) (int, error) { return len(p), nil }

func (c cannedConn) SetReadDeadline(time.Time) error  { return nil }
func (c cannedConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzIdentifyAnswer holds Identify against any stream that it may be answered with.
func FuzzIdentifyAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 512
		c := NewConn[int]("lookupd.test:4160", cannedConn{answers: bytes.NewReader(stream)}, time.Second, limit)
		got, err := c.Identify(map[string]any{"tcp_port": 4150})

		body, _, frameErr := cutFrame(stream, limit)
		switch {
		case frameErr != nil:
			require.ErrorIs(t, err, frameErr)
			require.Nil(t, got)
		case strings.HasPrefix(string(body), "E_"):
			var answer *AnswerError[int]
			require.ErrorAs(t, err, &answer)
			require.Equal(t, &AnswerError[int]{Address: "lookupd.test:4160", Verb: Identify, Text: string(body)}, answer)
			require.Nil(t, got)
		case string(body) == "OK":
			require.NoError(t, err)
			require.Nil(t, got)
		default:
			require.NoError(t, err)
			require.NotNil(t, got)
			require.Equal(t, string(body), string(got))
		}
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "lookuploop: lookupd.test:4160: IDENTIFY"), err)
		}
	})
}

func TestIdentifyReturnsWhatLookupdSaysOfItself(t *testing.T) {
	for name, tt := range map[string]struct {
		answer lookupdtest.Order
		want   string // nil if empty
		after  time.Duration
	}{
		"something": {lookupdtest.Reply(`{"tcp_port":1}`), `{"tcp_port":1}`, 0},
		"no JSON":   {lookupdtest.Reply("hello"), "hello", 0}, // which isn't our business
		"OK":        {lookupdtest.Reply("OK"), "", 0},
		"in time": {
			lookupdtest.Delay(900 * time.Millisecond),
			`{"broadcast_address":"lookupd.test","hostname":"lookupd.test","http_port":4161,"tcp_port":4160,"version":"1.3.0"}`, 900 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				k.lookupd.Do(tt.answer)
				started := time.Now()
				answer, err := k.Identify(identity)
				require.NoError(t, err)
				require.Equal(t, tt.after, time.Since(started))
				if tt.want == "" {
					require.Nil(t, answer)
				} else if tt.after == 0 {
					require.Equal(t, tt.want, string(answer))
				} else {
					require.JSONEq(t, tt.want, string(answer))
				}
			})
		})
	}
}

func TestIdentifyFailsWithAnErrorThatSaysWhatHappened(t *testing.T) {
	for name, tt := range map[string]struct {
		answer lookupdtest.Order
		want   string
		is     error
		after  time.Duration
	}{
		"an error":         {lookupdtest.Reject("E_BAD_BODY no port"), `"E_BAD_BODY no port"`, nil, 0},
		"an endless one":   {lookupdtest.Length(1 << 30), "lookuploop: response too large", ErrTooLarge, 0},
		"a negative one":   {lookupdtest.Length(-1), "negative response length", errNegativeLength, 0},
		"that of an nsqd":  {lookupdtest.Reject("\x00\x00\x00\x01E_BAD_PROTOCOL"), `this is no nsqlookupd: an nsqd answered "E_BAD_PROTOCOL": name nsqlookupd's TCP port (4160)`, errStranger, 0},
		"an nsqd's OK":     {lookupdtest.Reject("\x00\x00\x00\x00"), `this is no nsqlookupd: an nsqd answered`, errStranger, 0},
		"none":             {lookupdtest.Hang(), "no answer within 1s", os.ErrDeadlineExceeded, time.Second},
		"a dripping one":   {lookupdtest.Drip(30 * time.Millisecond), "no answer within 1s", os.ErrDeadlineExceeded, time.Second},
		"the end":          {lookupdtest.Drop(), "EOF (is this nsqlookupd's TCP port, and without TLS?)", io.EOF, 0},
		"the end too soon": {lookupdtest.CutSent(10), "unexpected EOF", io.ErrUnexpectedEOF, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				k.lookupd.Do(tt.answer)
				started := time.Now()
				_, err := k.Identify(identity)
				require.Equal(t, tt.after, time.Since(started))
				require.ErrorContains(t, err, "lookuploop: lookupd.test:4160: IDENTIFY: "+tt.want)
				if tt.is != nil {
					require.ErrorIs(t, err, tt.is)
				}
			})
		})
	}
}
