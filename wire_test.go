package lookuploop

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// frame is a response as it comes over the network.
func frame(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func TestResponsesAreReadWholeAndBounded(t *testing.T) {
	const limit = 10_000
	long := strings.Repeat("x", limit)
	for name, tt := range map[string]struct {
		stream string
		want   []string // bodies before the error
		err    error
	}{
		"nothing":              {"", nil, io.EOF},
		"one":                  {frame("OK"), []string{"OK"}, io.EOF},
		"several":              {frame("OK") + frame("E_INVALID") + frame("OK"), []string{"OK", "E_INVALID", "OK"}, io.EOF},
		"empty body":           {frame("") + frame("OK"), []string{"", "OK"}, io.EOF},
		"as long as may be":    {frame(long) + frame("OK"), []string{long, "OK"}, io.EOF},
		"one byte too long":    {frame("OK") + frame(long+"x"), []string{"OK"}, ErrResponseTooLarge},
		"the largest length":   {"\x7f\xff\xff\xff", nil, ErrResponseTooLarge},
		"length -1":            {"\xff\xff\xff\xff", nil, errNegativeLength},
		"the least length":     {"\x80\x00\x00\x00" + long, nil, errNegativeLength},
		"cut amid the length":  {frame("OK") + "\x00\x00\x00", []string{"OK"}, io.ErrUnexpectedEOF},
		"cut after the length": {"\x00\x00\x00\x02", nil, io.ErrUnexpectedEOF},
		"cut amid the body":    {frame("OK")[:5], nil, io.ErrUnexpectedEOF},
		"cut amid a long body": {frame(long)[:9000], nil, io.ErrUnexpectedEOF},
		"no NSQ at all":        {"HTTP/1.1 400 Bad Request\r\n\r\n", nil, ErrResponseTooLarge},
	} {
		for how, source := range map[string]func(io.Reader) io.Reader{
			"at once":         func(r io.Reader) io.Reader { return r },
			"in single bytes": iotest.OneByteReader,
			"end with data":   iotest.DataErrReader,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				r := bufio.NewReaderSize(source(strings.NewReader(tt.stream)), readBufferSize)
				for _, want := range tt.want {
					body, err := readResponse(r, limit)
					require.NoError(t, err)
					require.Equal(t, want, string(body))
				}
				_, err := readResponse(r, limit)
				require.ErrorIs(t, err, tt.err)
			})
		}
	}
}

// A length that a server only claims must not cost memory.
func TestTooLongAResponseIsNotReadIntoMemory(t *testing.T) {
	stream := []byte("\x7f\xff\xff\xff" + strings.Repeat("x", 100))
	r := bufio.NewReader(bytes.NewReader(stream))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readResponse(r, 1<<20)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, ErrResponseTooLarge)
	require.ErrorContains(t, err, "2147483647 bytes, MaxResponseSize is 1048576")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func FuzzReadResponse(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte, limit uint16, single bool) {
		source := &countingReader{r: bytes.NewReader(stream)}
		if single {
			source.r = iotest.OneByteReader(source.r)
		}
		r := bufio.NewReaderSize(source, 64)
		for {
			read, has := source.n, hasResponse(r)
			body, err := readResponse(r, int(limit))
			if has {
				require.Equal(t, read, source.n, "it was there, so reading it must not wait")
			}
			want, rest, wantErr := cutFrame(stream, int(limit))
			if wantErr != nil {
				require.ErrorIs(t, err, wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, string(want), string(body))
			stream = rest
		}
	})
}

// cutFrame is what readResponse should do, for those who have the whole stream.
func cutFrame(stream []byte, limit int) (body, rest []byte, err error) {
	switch {
	case len(stream) == 0:
		return nil, nil, io.EOF
	case len(stream) < 4:
		return nil, nil, io.ErrUnexpectedEOF
	}
	size := int(int32(binary.BigEndian.Uint32(stream)))
	switch {
	case size < 0:
		return nil, nil, errNegativeLength
	case size > limit:
		return nil, nil, ErrResponseTooLarge
	case size > len(stream)-4:
		return nil, nil, io.ErrUnexpectedEOF
	}
	return stream[4 : 4+size], stream[4+size:], nil
}

type countingReader struct {
	r io.Reader
	n int // calls of Read
}

func (c *countingReader) Read(p []byte) (int, error) {
	c.n++
	return c.r.Read(p)
}

// cannedConn answers with what was prepared, whatever is said.
type cannedConn struct {
	net.Conn // nil: nothing else is called
	answers  io.Reader
}

func (c cannedConn) Read(p []byte) (int, error)  { return c.answers.Read(p) }
func (c cannedConn) Write(p []byte) (int, error) { return len(p), nil }
func (c cannedConn) SetDeadline(time.Time) error { return nil }

func FuzzIdentifyAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte) {
		const limit = 512
		c := newConnection("lookupd.test:4160", cannedConn{answers: bytes.NewReader(stream)}, time.Second, limit)
		info, err := c.identify(map[string]any{"tcp_port": 4150})

		body, _, frameErr := cutFrame(stream, limit)
		var answer *ResponseError
		switch {
		case frameErr != nil:
			require.ErrorIs(t, err, frameErr)
			require.Zero(t, info)
		case strings.HasPrefix(string(body), "E_"):
			require.ErrorAs(t, err, &answer)
			require.Equal(t, "IDENTIFY", answer.Command)
			require.Equal(t, "lookupd.test:4160", answer.Address)
			require.True(t, strings.HasPrefix(string(body), answer.Code))
			require.True(t, strings.HasSuffix(string(body), answer.Message))
		case err != nil:
			require.Zero(t, info)
			require.NotErrorIs(t, err, ErrResponseTooLarge)
		}
		if err != nil {
			require.True(t, strings.HasPrefix(err.Error(), "lookuploop: lookupd.test:4160: IDENTIFY"), err)
			require.Less(t, len(err.Error()), 2*limit, "an error is no place for a whole answer")
		}
	})
}

// talk is a connection to a lookupd on a Network, and what came of it.
type talk struct {
	*connection
	network *lookupdtest.Network
	lookupd *lookupdtest.Server
	logged  int // valid once done is closed, as are the following
	last    command
	pings   []time.Duration
}

func newTalk(t *testing.T) *talk {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	t.Cleanup(lookupd.Close)
	conn, err := network.Dial(t.Context(), "tcp", lookupd.TCPAddress)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &talk{
		connection: newConnection(lookupd.TCPAddress, conn, time.Second, 1024),
		network:    network,
		lookupd:    lookupd,
	}
}

// identified identifies and begins to read.
func (k *talk) identified(t *testing.T) *talk {
	_, err := k.identify(newLoop(t).opts.identity())
	require.NoError(t, err)
	go k.readAnswers(func(a answers) {
		if a.logged > 0 {
			k.logged += a.logged
			k.last = a.last
		}
		if a.ping {
			k.pings = append(k.pings, a.rtt)
		}
	})
	t.Cleanup(func() {
		k.close()
		<-k.done
	})
	return k
}

// say sends commands, given as "PING", "REGISTER topic" or "REGISTER topic channel".
func (k *talk) say(t *testing.T, lines ...string) {
	var b batch
	for i, line := range lines {
		words := strings.Fields(line)
		cmd := command{ackTo: uint64(i + 1)}
		switch words[0] {
		case "PING":
			cmd.verb = ping
		case "REGISTER":
			cmd.verb = register
		case "UNREGISTER":
			cmd.verb = unregister
		}
		if len(words) > 1 {
			cmd.topic = &entry{key: key{name: words[1]}}
		}
		if len(words) > 2 {
			cmd.channel = &entry{key: key{cmd.topic, words[2]}}
		}
		b.add(cmd)
	}
	require.NoError(t, k.send(&b))
}

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
		"an unexpected answer":       {lookupdtest.On("REGISTER b", lookupdtest.Reply("WHAT?")), `REGISTER: unexpected answer "WHAT?"`, nil, false, 1, 0},
		"an answer that begins well": {lookupdtest.On("REGISTER b", lookupdtest.Reply("OKAY")), `unexpected answer "OKAY"`, nil, false, 1, 0},
		"an empty answer":            {lookupdtest.On("REGISTER b", lookupdtest.Reply("")), `unexpected answer ""`, nil, false, 1, 0},
		"a long unexpected answer":   {lookupdtest.On("REGISTER b", lookupdtest.Reply(strings.Repeat("x", 1000))), strings.Repeat("x", 64) + `"`, nil, false, 1, 0},
		"an answer of 1025 bytes":    {lookupdtest.On("REGISTER b", lookupdtest.Reply(strings.Repeat("x", 1025))), "1025 bytes, MaxResponseSize is 1024", ErrResponseTooLarge, false, 1, 0},
		"a negative length":          {lookupdtest.On("REGISTER b", lookupdtest.Length(-1)), "negative response length: -1", errNegativeLength, false, 1, 0},
		"a web server":               {lookupdtest.On("REGISTER b", lookupdtest.SpeakHTTP()), "response too large", ErrResponseTooLarge, false, 1, 0},
		"no answer":                  {lookupdtest.On("REGISTER b", lookupdtest.Hang()), "REGISTER: no answer within 1s", os.ErrDeadlineExceeded, false, 1, time.Second},
		"half an answer":             {lookupdtest.On("REGISTER b", lookupdtest.Length(3)), "REGISTER: unexpected answer", nil, false, 1, 0}, // which the next answer completes
		"half the last answer":       {lookupdtest.On("REGISTER c", lookupdtest.Length(3)), "REGISTER: no answer within 1s", os.ErrDeadlineExceeded, false, 2, time.Second},
		"a dripping answer":          {lookupdtest.On("REGISTER b", lookupdtest.Drip(200*time.Millisecond)), "REGISTER: no answer within 1s", os.ErrDeadlineExceeded, false, 1, time.Second},
		"an orderly end":             {lookupdtest.On("REGISTER b", lookupdtest.Drop()), "REGISTER: EOF", io.EOF, true, 1, 0},
		"an end amid an answer":      {lookupdtest.CutSent(6 + 3), "REGISTER: unexpected EOF", io.ErrUnexpectedEOF, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t).identified(t)
				k.lookupd.Do(tt.order)
				started := time.Now()
				k.say(t, "REGISTER a", "REGISTER b", "REGISTER c")
				<-k.done
				require.ErrorContains(t, k.err, "lookuploop: lookupd.test:4160: ")
				require.ErrorContains(t, k.err, tt.want)
				if tt.is != nil {
					require.ErrorIs(t, k.err, tt.is)
				}
				require.Equal(t, tt.severed, k.severed)
				require.Equal(t, tt.logged, k.logged, "good answers count, whatever comes after them")
				require.Equal(t, tt.logged, int(k.last.ackTo))
				require.Equal(t, tt.after, time.Since(started))
				time.Sleep(time.Second) // the lookupd that drips notices when it sends on
				synctest.Wait()
				require.Zero(t, k.lookupd.Connections(), "the connection is closed")
			})
		})
	}
}

// A lookupd can answer before it has read, so that no answer is due amid a write.
func TestWriteIsBoundedThoughNoAnswerIsDue(t *testing.T) {
	for name, readsOn := range map[string]bool{"lookupd reads no more": false, "lookupd reads on": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				ours, theirs := net.Pipe() // no buffer: what isn't read isn't written
				defer theirs.Close()
				k := &talk{connection: newConnection("lookupd.test:4160", ours, time.Second, 1024)}
				go k.readAnswers(func(a answers) { k.logged += a.logged })
				go func() {
					theirs.Read(make([]byte, 1))
					io.WriteString(theirs, frame("OK"))
					if readsOn {
						time.Sleep(time.Second / 2)
						io.Copy(io.Discard, theirs)
					}
				}()

				started := time.Now()
				var b batch
				b.add(command{verb: register, topic: &entry{key: key{name: "a"}}, ackTo: 1})
				err := k.send(&b)
				if readsOn {
					require.NoError(t, err)
					time.Sleep(time.Hour) // nothing is due any more
					k.close()
					<-k.done
					require.ErrorContains(t, k.err, "connection lost: ")
				} else {
					require.ErrorIs(t, err, io.ErrClosedPipe)
					<-k.done
					require.EqualError(t, k.err, "lookuploop: lookupd.test:4160: commands not taken within 1s: read pipe: i/o timeout")
					require.Equal(t, time.Second, time.Since(started))
					require.False(t, k.severed, "nothing was refused")
				}
				require.Equal(t, 1, k.logged)
			})
		})
	}
}

func TestConnectionResetIsSevered(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		k.lookupd.CloseConnections()
		<-k.done
		require.ErrorContains(t, k.err, "lookuploop: lookupd.test:4160: connection lost: ")
		require.True(t, k.severed)
	})
}

func TestErrorAnswerSaysWhichCommandItIsAbout(t *testing.T) {
	for line, want := range map[string]ResponseError{
		"REGISTER a b":   {Command: "REGISTER", Topic: "a", Channel: "b"},
		"REGISTER a":     {Command: "REGISTER", Topic: "a"},
		"UNREGISTER a b": {Command: "UNREGISTER", Topic: "a", Channel: "b"},
		"PING":           {Command: "PING"},
	} {
		t.Run(line, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t).identified(t)
				k.lookupd.Do(lookupdtest.On(line, lookupdtest.Reject("E_BAD_CHANNEL it's not you")))
				k.say(t, "REGISTER first", line)
				<-k.done
				want.Address, want.Code, want.Message = "lookupd.test:4160", "E_BAD_CHANNEL", "it's not you"
				var answer *ResponseError
				require.ErrorAs(t, k.err, &answer)
				require.Equal(t, &want, answer)
				require.False(t, k.severed)
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
		require.Zero(t, k.numInFlight())

		time.Sleep(time.Hour)
		k.lookupd.Do(lookupdtest.Hang())
		started := time.Now()
		k.say(t, "REGISTER e")
		time.Sleep(600 * time.Millisecond)
		k.say(t, "REGISTER f") // which doesn't give the first more time
		<-k.done
		require.ErrorIs(t, k.err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(started))
		require.Equal(t, 4, k.logged)
	})
}

func TestPingTellsTheRoundTripTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		k.network.SetLatency(30 * time.Millisecond)
		k.say(t, "PING", "REGISTER a")
		time.Sleep(100 * time.Millisecond)
		k.close()
		<-k.done
		require.Equal(t, []time.Duration{60 * time.Millisecond}, k.pings)
		require.Equal(t, 1, k.logged)
	})
}

func TestIdentifyTakesAnyPeerInfoAndNothingElse(t *testing.T) {
	for name, tt := range map[string]struct {
		answer lookupdtest.Order
		info   PeerInfo
		want   string // error; empty: none
		after  time.Duration
	}{
		"all": {
			lookupdtest.Reply(`{"tcp_port":1,"http_port":2,"version":"v","hostname":"h","broadcast_address":"b","new":[]}`),
			PeerInfo{TCPPort: 1, HTTPPort: 2, Version: "v", Hostname: "h", BroadcastAddress: "b"}, "", 0,
		},
		"nothing":          {lookupdtest.Reply(`{}`), PeerInfo{}, "", 0},
		"OK":               {lookupdtest.Reply("OK"), PeerInfo{}, "", 0}, // of a lookupd that can't describe itself
		"in time":          {lookupdtest.Delay(900 * time.Millisecond), PeerInfo{4160, 4161, "1.3.0", "lookupd.test", "lookupd.test"}, "", 900 * time.Millisecond},
		"no JSON":          {lookupdtest.Reply("hello"), PeerInfo{}, `IDENTIFY: answer "hello" is no peer info`, 0},
		"other JSON":       {lookupdtest.Reply(`{"tcp_port":"1"}`), PeerInfo{}, `IDENTIFY: answer "{\"tcp_port\":\"1\"}" is no peer info`, 0},
		"an error":         {lookupdtest.Reject("E_BAD_BODY no port"), PeerInfo{}, "IDENTIFY: E_BAD_BODY no port", 0},
		"an endless one":   {lookupdtest.Length(1 << 30), PeerInfo{}, "IDENTIFY: lookuploop: response too large", 0},
		"a negative one":   {lookupdtest.Length(-1), PeerInfo{}, "IDENTIFY: negative response length", 0},
		"none":             {lookupdtest.Hang(), PeerInfo{}, "IDENTIFY: no answer within 1s", time.Second},
		"a dripping one":   {lookupdtest.Drip(100 * time.Millisecond), PeerInfo{}, "IDENTIFY: no answer within 1s", time.Second},
		"the end":          {lookupdtest.Drop(), PeerInfo{}, "IDENTIFY: EOF", 0},
		"the end too soon": {lookupdtest.CutSent(10), PeerInfo{}, "IDENTIFY: unexpected EOF", 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				k := newTalk(t)
				k.lookupd.Do(tt.answer)
				started := time.Now()
				info, err := k.identify(newLoop(t).opts.identity())
				require.Equal(t, tt.after, time.Since(started))
				require.Equal(t, tt.info, info)
				if tt.want == "" {
					require.NoError(t, err)
					return
				}
				require.ErrorContains(t, err, "lookuploop: lookupd.test:4160: "+tt.want)
				var answer *ResponseError
				if errors.As(err, &answer) {
					require.Equal(t, &ResponseError{Address: "lookupd.test:4160", Command: "IDENTIFY", Code: "E_BAD_BODY", Message: "no port"}, answer)
				} else {
					require.NotEqual(t, "an error", name)
				}
			})
		})
	}
}

// What lookupd does not read stays with us: only so many commands are sent
// before their answers.
func TestCommandsInFlightAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		require.NoError(t, s.loop.SetMetadata(manyTopics(5000)))
		lift := s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Hang()))
		s.run()
		time.Sleep(900 * time.Millisecond)
		sent := s.loop.Status().Lookupds[0].Commands
		require.LessOrEqual(t, sent, uint64(1+firstWindow+1), "IDENTIFY, the window, and a chunk may run one over")
		require.Greater(t, sent, uint64(firstWindow-chunkSize))
		require.Equal(t, 10_000, s.loop.Status().Lookupds[0].Pending, "topics and channels")
		lift()
		s.registered()
		require.Len(t, s.lookupds[0].Topics(), 5000)
		require.EqualValues(t, 1, s.loop.Status().Lookupds[0].Connects)
	})
}

// With 50 ms for a round trip, one command at a time would take 500 s.
func TestWindowGrowsWithTheAnswersUpToItsBound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		k.network.SetLatency(time.Millisecond)
		k.network.SetBuffer(1 << 20)
		for sent := 0; sent < maxWindow; {
			n := k.room()
			require.Equal(t, firstWindow+sent, n)
			k.say(t, strings.Split(strings.Repeat("REGISTER a\n", n), "\n")[:n]...)
			require.Zero(t, k.room())
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			sent += n
		}
		require.Equal(t, maxWindow, k.room())
	})
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(25 * time.Millisecond)
		s.network.SetBuffer(1 << 20)
		require.NoError(t, s.loop.SetMetadata(manyTopics(10_000)))
		s.run()
		started := time.Now()
		s.registered()
		require.Less(t, time.Since(started), 500*time.Millisecond)
	})
}

// While an answer is late nothing more is sent, so that a PING that becomes
// due doesn't wait behind a long queue.
func TestNothingIsSentWhileAnAnswerIsLate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		k := newTalk(t).identified(t)
		lift := k.lookupd.Do(lookupdtest.Hang())
		k.say(t, "REGISTER a")
		require.Equal(t, firstWindow-1, k.room())
		time.Sleep(k.timeout / 4)
		require.Equal(t, firstWindow-1, k.room())
		time.Sleep(time.Millisecond)
		require.Zero(t, k.room())
		lift()
		synctest.Wait()
		require.Equal(t, 1, k.room(), "one in that time was one too many, but there is no less")
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
			require.Equal(t, inTime, k.room())
		})
	}
}

// A lookupd that must get rid of an answer before it reads on, with buffers
// that hold one answer, gets everything all the same.
func TestTinyBuffersDoNotDeadlock(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetBuffer(8)
		require.NoError(t, s.loop.SetMetadata(manyTopics(1000)))
		s.run()
		s.registered()
		require.Len(t, s.lookupds[0].Topics(), 1000)
		require.Zero(t, s.loop.Status().Lookupds[0].Failures)
	})
}

// The same over real TCP, with a lookupd that reads nothing ahead, and three
// times as many answers as find room in the buffers.
func TestTinySocketBuffersDoNotDeadlock(t *testing.T) {
	t.Parallel() // it waits for TCP's timers
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan int, 1)
	go func() { served <- serveWordForWord(listener) }()

	loop := newLoop(t, addresses(listener.Addr().String()), func(o *Options) {
		o.ResponseTimeout = patience // TCP may take its time to find out that there is room again
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				err = errors.Join(conn.(*net.TCPConn).SetReadBuffer(smallBuffer), conn.(*net.TCPConn).SetWriteBuffer(smallBuffer))
			}
			return conn, err
		}
	})
	m := manyTopics(3000)
	for i := range m.Topics {
		m.Topics[i].Name = strings.Repeat("x", 64-len(m.Topics[i].Name)) + m.Topics[i].Name
	}
	require.NoError(t, loop.SetMetadata(m))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(ctx, 1))
	require.Zero(t, loop.Status().Lookupds[0].Failures)
	cancel()
	require.NoError(t, <-ran)
	require.Equal(t, 1+3000, <-served)
	require.NoError(t, listener.Close())
}

const smallBuffer = 6000

// serveWordForWord accepts one connection, reads a command, writes its answer,
// and so on to the end. It returns how many commands that were.
func serveWordForWord(listener net.Listener) (commands int) {
	conn, err := listener.Accept()
	if err != nil {
		return 0
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetReadBuffer(smallBuffer)
	conn.(*net.TCPConn).SetWriteBuffer(smallBuffer)
	r := bufio.NewReaderSize(conn, 16)
	r.Discard(len("  V1"))
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return commands
		}
		if line == "IDENTIFY\n" {
			var size [4]byte
			io.ReadFull(r, size[:])
			io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint32(size[:])))
		}
		io.WriteString(conn, frame("OK"))
		if line != "PING\n" {
			commands++
		}
	}
}

// tls.Conn.Close would try for 5 s to say goodbye to a lookupd that is gone.
func TestConnectionWithTLSIsClosedAtOnce(t *testing.T) {
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	certificate := certificates.TLS.Certificates[0]
	certificates.Close()

	inBubble(t, func(t *testing.T) {
		network := lookupdtest.NewNetwork()
		lookupd := network.NewUnstartedServer("lookupd.test:4160")
		lookupd.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
		lookupd.Start()
		t.Cleanup(lookupd.Close)
		s := &scene{t: t, network: network, lookupds: []*lookupdtest.Server{lookupd}}
		s.loop = newLoop(t, addresses(lookupd.TCPAddress), func(o *Options) {
			o.Dial = func(ctx context.Context, kind, address string) (net.Conn, error) {
				conn, err := network.Dial(ctx, kind, address)
				if err != nil {
					return nil, err
				}
				secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				return wrappedConn{secure}, secure.HandshakeContext(ctx)
			}
		})
		s.run()
		s.notify(TopicCreated("orders"))
		s.registered()
		require.Equal(t, []string{"orders"}, announced(lookupd))

		network.SetBuffer(1) // no room for the goodbye
		heal := network.Partition()
		time.Sleep(time.Millisecond)
		started := time.Now()
		require.NoError(t, s.end())
		require.Zero(t, time.Since(started))
		heal()
	})
}

// wrappedConn is what a Dial may return that counts or logs around TLS.
type wrappedConn struct{ net.Conn }

func (c wrappedConn) NetConn() net.Conn { return c.Conn }

func TestQueueOfCommandsAgreesWithASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var want []uint64
		pushed := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				require.Equal(t, len(want), q.len())
				if len(want) > 0 {
					require.Equal(t, want[0], q.first().ackTo)
				}
			},
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					pushed++
					q.push(command{ackTo: pushed})
					want = append(want, pushed)
				}
			},
			"pop": func(t *rapid.T) {
				for range rapid.IntRange(0, len(want)).Draw(t, "n") {
					require.Equal(t, want[0], q.first().ackTo)
					q.pop()
					want = want[1:]
				}
			},
		})
	})
}

func TestQueueOfCommandsKeepsNoMemoryItDoesNotNeed(t *testing.T) {
	var q queue
	for range 10 {
		q.push(command{})
	}
	for range 100_000 { // never empty
		q.push(command{})
		q.pop()
	}
	require.Less(t, cap(q.items), 100)
	for range maxWindow {
		q.push(command{})
	}
	for q.len() > 0 {
		q.pop()
		q.trim()
	}
	require.Zero(t, cap(q.items))
}
