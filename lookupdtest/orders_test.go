package lookupdtest

import (
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

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
