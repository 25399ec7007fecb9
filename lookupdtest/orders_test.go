package lookupdtest

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// frames returns responses as they are on the wire.
func frames(bodies ...string) string {
	var wire []byte
	for _, body := range bodies {
		wire = frame(wire, body)
	}
	return string(wire)
}

// What each order makes of three commands that were sent at once.
func TestOrdersOnTheWire(t *testing.T) {
	const badTopic = "E_BAD_TOPIC REGISTER topic name 'b' is not valid"
	ok := frames("OK")
	for name, tt := range map[string]struct {
		order  Order
		wire   string
		ends   bool
		topics []string // those that were registered
	}{
		"none":                   {Times(1, On("PING", Drop())), ok + ok + ok, false, []string{"a", "b", "c"}},
		"Reject":                 {Reject(badTopic), frames(badTopic), true, nil},
		"Reject the second":      {Once(After(1, Reject(badTopic))), ok + frames(badTopic), true, []string{"a"}},
		"Reject a topic":         {On("REGISTER b", Reject(badTopic)), ok + frames(badTopic), true, []string{"a"}},
		"Reject a channel":       {On("* * d", Reject("E_BAD_CHANNEL")), ok + ok + frames("E_BAD_CHANNEL"), true, []string{"a", "b"}},
		"BadTopic":               {BadTopic(), frames("E_BAD_TOPIC REGISTER topic name 'a' is not valid"), true, nil},
		"BadTopic by pattern":    {On("* [b-z]*", BadTopic()), ok + frames(badTopic), true, []string{"a"}},
		"BadTopic of a channel":  {On("* c", BadTopic()), ok + ok + frames("E_BAD_TOPIC REGISTER topic name 'c' is not valid"), true, []string{"a", "b"}},
		"BadChannel":             {BadChannel(), ok + ok + frames("E_BAD_CHANNEL REGISTER channel name 'd' is not valid"), true, []string{"a", "b"}},
		"BadChannel by pattern":  {On("* * e*", BadChannel()), ok + ok + ok, false, []string{"a", "b", "c"}},
		"Drop by pattern":        {On("REGISTER [b-z]*", Drop()), ok, true, []string{"a"}},
		"no answer":              {On("REGISTER b", Raw(nil)), ok + ok, false, []string{"a", "c"}},
		"Reply":                  {Once(Reply("HELLO")), frames("HELLO") + ok + ok, false, []string{"b", "c"}},
		"Reply with nothing":     {Times(2, Reply("")), frames("", "") + ok, false, []string{"c"}},
		"Raw":                    {On("REGISTER b", Raw([]byte("raw"))), ok + "raw" + ok, false, []string{"a", "c"}},
		"Length -1":              {Once(Length(-1)), "\xff\xff\xff\xff" + ok + ok, false, []string{"b", "c"}},
		"Length 0":               {Once(Length(0)), "\x00\x00\x00\x00" + ok + ok, false, []string{"b", "c"}},
		"Length 2^31-1":          {Once(Length(math.MaxInt32)), "\x7f\xff\xff\xff" + ok + ok, false, []string{"b", "c"}},
		"Length of limit and 1":  {Once(Length(1<<20 + 1)), "\x00\x10\x00\x01" + ok + ok, false, []string{"b", "c"}},
		"Unasked":                {Once(Unasked("NEWS")), ok + frames("NEWS") + ok + ok, false, []string{"a", "b", "c"}},
		"Twice":                  {On("REGISTER b", Twice()), ok + ok + ok + ok, false, []string{"a", "b", "c"}},
		"Drop":                   {Once(After(2, Drop())), ok + ok, true, []string{"a", "b"}},
		"CutReceived 0":          {CutReceived(0), "", true, nil},
		"CutReceived amid":       {CutReceived(len("REGISTER a\nREGI")), ok, true, []string{"a"}},
		"CutReceived at the end": {CutReceived(len("REGISTER a\nREGISTER b\n")), ok + ok, true, []string{"a", "b"}},
		"CutReceived of all":     {CutReceived(len("REGISTER a\nREGISTER b\nREGISTER c d\n")), ok + ok + ok, true, []string{"a", "b", "c"}},
		"CutSent of all":         {CutSent(3 * len(ok)), ok + ok + ok, true, []string{"a", "b", "c"}},
		"CutSent 0":              {CutSent(0), "", true, []string{"a", "b", "c"}},
		"CutSent amid a length":  {CutSent(len(ok) + 3), ok + "\x00\x00\x00", true, []string{"a", "b", "c"}},
		"CutSent amid a body":    {CutSent(len(ok) + 5), ok + ok[:5], true, []string{"a", "b", "c"}},
		"CutSent between":        {CutSent(len(ok)), ok, true, []string{"a", "b", "c"}},
		"two orders":             {Once(Twice()), ok + ok + ok + ok, false, []string{"a", "b", "c"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewNetwork().NewServer("lookupd.test:4160")
			defer s.Close()
			c := dial(t, s)
			c.identify()
			lift := s.Do(tt.order)
			c.send("REGISTER a\nREGISTER b\nREGISTER c d\n")
			if tt.ends {
				got, err := io.ReadAll(c.r)
				require.NoError(t, err, "it was to end in good order")
				require.Equal(t, tt.wire, string(got))
			} else {
				require.Equal(t, tt.wire, readAll(t, c.r, len(tt.wire)))
				lift()
				c.do("PING", "OK")
			}
			require.Equal(t, tt.topics, s.Topics())
			lift()
			lift()
			dial(t, s).identify()
		})
	}
}

// What each order makes of a connection that is new and sends its IDENTIFY.
func TestOrdersOnNewConnections(t *testing.T) {
	half := CutReceived(len("  V1IDENTIFY\n\x00\x00\x00\x6f{"))
	for name, tt := range map[string]struct {
		order Order
		wire  string
	}{
		"Hangup":               {Hangup(), ""},
		"CutReceived 0":        {CutReceived(0), ""},
		"CutReceived 2":        {CutReceived(2), ""},
		"CutReceived amid":     {half, ""},
		"CutSent 2":            {CutSent(2), "\x00\x00"},
		"CutSent amid":         {CutSent(10), frames(`{"broadcast_address":"lookupd.test","hostname":"lookupd.test","http_port":4161,"tcp_port":4160,"version":"1.3.0"}`)[:10]},
		"Reject":               {On("IDENTIFY", Reject("E_BAD_BODY IDENTIFY missing fields")), frames("E_BAD_BODY IDENTIFY missing fields")},
		"Drop":                 {Drop(), ""},
		"SpeakHTTP":            {SpeakHTTP(), "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"},
		"Once":                 {Once(Hangup()), ""},
		"CutReceived only one": {Once(half), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewNetwork().NewServer("lookupd.test:4160")
			defer s.Close()
			before := dial(t, s)
			before.identify()
			lift := s.Do(tt.order)
			c := dial(t, s)
			c.Write([]byte(magicIdentify("broker.test", 4150))) // may come too late
			got, _ := io.ReadAll(c.r)
			require.Equal(t, tt.wire, string(got))
			if tt.order.times == 0 {
				lift()
			}
			dial(t, s).identify()
			if tt.order.at == accepted {
				before.do("PING", "OK")
			}
		})
	}
}

// What nsqlookupd answers to names that are really invalid, BadTopic and BadChannel
// answer to valid ones, and to no other command.
func TestBadNamesAreRefusedAsNsqlookupdDoes(t *testing.T) {
	for command, order := range map[string]Order{
		"REGISTER %s":        BadTopic(),
		"UNREGISTER %s":      BadTopic(),
		"REGISTER %s mail":   BadTopic(),
		"REGISTER news %s":   BadChannel(),
		"UNREGISTER news %s": BadChannel(),
	} {
		s := NewServer()
		defer s.Close()
		refusal := func(name string) string {
			c := dial(t, s)
			c.identify()
			c.do("PING with words", "OK")
			c.send(fmt.Sprintf(command, name) + "\n")
			body, err := c.response()
			require.NoError(t, err)
			c.expectEnd()
			return body
		}
		want := refusal("inv@lid")
		s.Do(order)
		require.Equal(t, want, strings.ReplaceAll(refusal("invalid"), "invalid", "inv@lid"))
	}
}

func TestRefuse(t *testing.T) {
	t.Run("on a Network", func(t *testing.T) {
		s := NewNetwork().NewServer("lookupd.test:4160")
		defer s.Close()
		before := dial(t, s)
		before.identify()
		s.Do(Times(2, Refuse()))
		for range 2 {
			_, err := s.network.Dial(t.Context(), "tcp", s.TCPAddress)
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
		before.do("PING", "OK")
		dial(t, s).identify()
	})
	t.Run("on real TCP", func(t *testing.T) {
		s := NewServer()
		defer s.Close()
		s.Do(Once(Refuse()))
		conn, err := net.Dial("tcp", s.TCPAddress)
		if err == nil {
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1))
		}
		require.ErrorIs(t, err, syscall.ECONNRESET)
		dial(t, s).identify()
	})
}

func TestReset(t *testing.T) {
	for name, s := range map[string]*Server{
		"on a Network": NewNetwork().NewServer("lookupd.test:4160"),
		"on real TCP":  NewServer(),
	} {
		t.Run(name, func(t *testing.T) {
			defer s.Close()
			c := dial(t, s)
			c.identify()
			s.Do(On("REGISTER b", Reset()))
			c.send("REGISTER b\n")
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ECONNRESET)
			require.Empty(t, s.Topics())
		})
	}
}

func TestRestart(t *testing.T) {
	s := NewServer()
	defer s.Close()
	a, b := dial(t, s), dial(t, s)
	a.identify()
	b.identify()
	b.do("REGISTER orders mail", "OK")
	s.Do(On("REGISTER news", Once(Restart())))
	a.send("REGISTER news\n")
	a.expectEnd()
	b.expectEnd()
	eventually(t, s, func() bool { return s.Connections() == 0 })
	require.Empty(t, s.Topics())
	c := dial(t, s)
	c.identify()
	c.do("REGISTER news", "OK")
	require.Equal(t, []string{"news"}, s.Topics())
}

func TestGarbage(t *testing.T) {
	s := NewServer()
	defer s.Close()
	c := dial(t, s)
	c.identify()
	var got []string
	for _, order := range []Order{Garbage(1, 20), Garbage(1, 20), Garbage(2, 20)} {
		s.Do(Once(order))
		c.send("PING\n")
		got = append(got, readAll(t, c.r, 20))
	}
	require.Equal(t, got[0], got[1])
	require.NotEqual(t, got[0], got[2])
	c.do("PING", "OK")
}

// The bytes of an order are the caller's, and the same each time.
func TestRawTwice(t *testing.T) {
	s := NewServer()
	defer s.Close()
	c := dial(t, s)
	c.identify()
	s.Do(On("PING", Raw([]byte("some raw bytes"))))
	for range 2 {
		c.send("PING\n")
		require.Equal(t, "some raw bytes", readAll(t, c.r, len("some raw bytes")))
		c.do("REGISTER orders", "OK")
	}
}

// What an order holds when the connection ends is not carried out.
func TestHeldUntilTheEnd(t *testing.T) {
	for name, order := range map[string]Order{"delay": Delay(time.Hour), "half-open": HalfOpen(), "hang": Hang()} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *Network) {
				s := n.NewServer("lookupd.test:4160")
				defer s.Close()
				c := longDial(t, s)
				c.identify()
				s.Do(order)
				c.send("REGISTER orders\n")
				synctest.Wait()
				s.CloseConnections()
				synctest.Wait()
				require.Zero(t, s.Connections())
				require.Empty(t, s.Topics())
			})
		})
	}
}

func TestObserve(t *testing.T) {
	s := NewServer()
	defer s.Close()
	var mu sync.Mutex
	var got []string
	s.Do(On("REGISTER", Reject("E_INVALID"))) // doesn't hide the command
	s.Do(Observe(func(c Command) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, strings.TrimSpace(c.RemoteAddr+" "+c.String()+" "+string(c.Body)))
	}))
	c := dial(t, s)
	c.identify()
	c.do("PING", "OK")
	c.do("REGISTER orders mail", "E_INVALID")
	local := c.LocalAddr().String()
	_, body, _ := strings.Cut(magicIdentify("broker.test", 4150), "{")
	require.Equal(t, []string{local + " IDENTIFY {" + body, local + " PING", local + " REGISTER orders mail"}, got)
}

// An order's function may use the server, and give orders itself.
func TestObserveMayUseTheServer(t *testing.T) {
	s := NewServer()
	defer s.Close()
	s.Do(Once(On("PING", Observe(func(Command) {
		s.Do(Once(Twice()))
		s.Topics()
		require.NoError(t, s.Wait(t.Context(), func() bool { return s.Connections() == 1 }))
	}))))
	c := dial(t, s)
	c.identify()
	c.do("PING", "OK")
	c.expect("OK")
	c.do("PING", "OK")
	c.do("PING", "OK")
}

// One use is one use, however many connections compete for it.
func TestTimesAmongConnections(t *testing.T) {
	s := NewServer()
	defer s.Close()
	s.Do(On("PING", After(10, Times(5, Unasked("EXTRA")))))
	var wg sync.WaitGroup
	extras := make([]int, 8)
	for i := range extras {
		c := dial(t, s)
		wg.Go(func() {
			io.WriteString(c, "  V1"+strings.Repeat("PING\n", 100))
			for oks := 0; oks < 100; {
				body, err := c.response()
				if err != nil {
					t.Error(err)
					return
				}
				if body == "EXTRA" {
					extras[i]++
				} else {
					oks++
				}
			}
			c.send("HELLO\n") // an EXTRA can come behind the last OK
			for {
				body, err := c.response()
				if err != nil {
					return
				}
				if body == "EXTRA" {
					extras[i]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range extras {
		sum += n
	}
	require.Equal(t, 5, sum)
	require.Empty(t, s.standing(), "what was used up is gone")
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	for _, o := range []Order{Refuse(), Hangup(), Blackhole(), CutSent(1), CutReceived(1)} {
		require.Panics(t, func() { On("PING", o) })
	}
	require.Panics(t, func() { Times(0, Hang()) })
	require.PanicsWithValue(t, `lookupdtest: On("REGISTER bad-[", …): "bad-[": syntax error in pattern`,
		func() { On("REGISTER bad-[", Drop()) })
}

func TestOnMatchesWords(t *testing.T) {
	for _, tt := range []struct {
		pattern, command string
		want             bool
	}{
		{"PING", "PING", true},
		{"PING", "PINGS", false},
		{"", "PING", true},
		{"*", "PING", true},
		{"REGISTER orders", "REGISTER orders", true},
		{"REGISTER orders", "REGISTER orders mail", true},
		{"REGISTER orders", "REGISTER", false},
		{"REGISTER orders", "UNREGISTER orders", false},
		{"REGISTER orders *", "REGISTER orders", false},
		{"REGISTER * mail", "REGISTER orders mail", true},
		{"REGISTER * mail", "REGISTER orders audit", false},
		{"REGISTER bad-*", "REGISTER bad-1 mail", true},
		{"REGISTER bad-*", "REGISTER bad-", true},
		{"REGISTER bad-*", "REGISTER good", false},
		{"REGISTER *-bad", "REGISTER orders-bad", true},
		{"REGISTER *-bad", "REGISTER orders-bad2", false},
		{"REGISTER *#ephemeral", "REGISTER orders#ephemeral", true},
		{"*REGISTER orders", "UNREGISTER orders", true},
		{"*REGISTER * bad-*", "REGISTER orders bad-1", true},
		{"*REGISTER * bad-*", "REGISTER bad-1 orders", false},
		{"REGISTER *[02468]", "REGISTER topic-12", true},
		{"REGISTER *[02468]", "REGISTER topic-13", false},
		{"REGISTER topic-?", "REGISTER topic-12", false},
		{"REGISTER *", "REGISTER not/a/name", true},
		{"REGISTER *", "REGISTER  mail", true}, // an empty word is a word
	} {
		require.Equal(t, tt.want, parseCommand([]byte(tt.command)).matches(strings.Fields(tt.pattern)), tt)
	}
}

func TestDelay(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		lift := s.Do(On("REGISTER", Delay(time.Second)))
		start := time.Now()
		c.send("PING\nREGISTER a\nREGISTER b\nREGISTER c\n")
		c.expect("OK")
		require.Zero(t, time.Since(start), "the answer before isn't kept back")
		c.expect("OK", "OK")
		require.Equal(t, 2*time.Second, time.Since(start))
		lift()
		c.expect("OK")
		require.Equal(t, 2*time.Second, time.Since(start))
	})
}

func TestDrip(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		lift := s.Do(Drip(time.Second))
		start := time.Now()
		c.send("PING\n")
		for i := range 6 {
			readAll(t, c.r, 1)
			require.Equal(t, time.Duration(i+1)*time.Second, time.Since(start))
		}
		c.send("PING\n")
		readAll(t, c.r, 1)
		lift()
		require.Equal(t, "\x00\x00\x02OK", readAll(t, c.r, 5))
		require.Equal(t, 7*time.Second, time.Since(start))
	})
}

func TestHang(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetBuffer(100)
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		c.do("REGISTER before", "OK")
		lift := s.Do(Hang())
		c.send(strings.Repeat("REGISTER orders\n", 1000)) // is read, or it would wait
		c.mute(time.Hour)
		fresh := longDial(t, s)
		fresh.send(magicIdentify("broker.test", 4150))
		fresh.mute(time.Hour)
		require.Equal(t, []string{"before"}, s.Topics())
		lift()
		for range 1000 {
			c.expect("OK")
		}
		require.Equal(t, []string{"before", "orders"}, s.Topics())
		_, err := fresh.response()
		require.NoError(t, err)

		s.Do(Hang())
		c.send("REGISTER late\n")
		synctest.Wait()
		c.Close()
		synctest.Wait()
		require.Equal(t, 1, s.Connections(), "a hung connection that the client closes is forgotten")
		require.Empty(t, s.Producers("orders", ""))
		require.Equal(t, []string{"before", "orders"}, s.Topics())
	})
}

// A connection that hangs takes no more memory than hangLimit.
func TestHangIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		lift := s.Do(Hang())
		go func() {
			for {
				if _, err := c.Write([]byte(strings.Repeat("PING\n", 10_000))); err != nil {
					return
				}
			}
		}()
		synctest.Wait()
		for c := range s.conns {
			require.Less(t, len(c.held), hangLimit+2*maxLine)
			require.GreaterOrEqual(t, len(c.held), hangLimit)
		}
		lift()
		for range 1000 {
			c.expect("OK")
		}
	})
}

func TestHalfOpen(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		n.SetBuffer(100)
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		c := longDial(t, s)
		c.identify()
		c.do("REGISTER orders", "OK")
		s.Do(HalfOpen())
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Hour)))
		written, err := io.WriteString(c, strings.Repeat("PING\n", 10_000))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Less(t, written, maxLine+200)
		c.mute(time.Hour)
		c.Close()
		synctest.Wait()
		require.Equal(t, []string{"broker.test:4150"}, s.Producers("orders", ""), "nobody noticed")
	})
}

func TestBlackhole(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		present := longDial(t, s)
		present.identify()
		lift := s.Do(Blackhole())
		present.send("PING\n")
		present.mute(time.Hour)
		dialing := func(timeout time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			conn, err := n.Dial(ctx, "tcp", s.TCPAddress)
			if err == nil {
				conn.Close()
			}
			return err
		}
		start := time.Now()
		require.ErrorIs(t, dialing(time.Minute), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))

		time.AfterFunc(time.Minute, lift)
		start = time.Now()
		require.NoError(t, dialing(time.Hour))
		require.Equal(t, time.Minute, time.Since(start))
		present.expect("OK")

		s.Do(Blackhole())
		time.AfterFunc(time.Minute, s.Stop)
		require.ErrorIs(t, dialing(time.Hour), syscall.ECONNREFUSED)
	})
}

func TestBlackholeOnRealTCP(t *testing.T) {
	s := NewServer()
	defer s.Close()
	lift := s.Do(Blackhole())
	c := dial(t, s)
	eventually(t, s, func() bool { return s.Connections() == 1 })
	c.send(magicIdentify("broker.test", 4150))
	require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.response()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	lift()
	_, err = c.response()
	require.NoError(t, err)
}

// longDial connects without a deadline.
func longDial(t *testing.T, s *Server) *client {
	c := dial(t, s)
	require.NoError(t, c.SetDeadline(time.Time{}))
	return c
}

// mute expects that nothing is read for so long.
func (c *client) mute(d time.Duration) {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(d)))
	_, err := c.r.ReadByte()
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
	require.NoError(c.t, c.SetReadDeadline(time.Time{}))
}
