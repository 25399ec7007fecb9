package lookupdtest

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"
)

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

func TestClaimsAtOnce(t *testing.T) {
	o := standing{Order: After(500, Times(1000, Drop()))}
	var wg sync.WaitGroup
	var acted, ended atomic.Int64
	for range 8 {
		wg.Go(func() {
			for range 500 {
				acts, last := o.claim()
				if acts {
					acted.Inc()
				}
				if last {
					ended.Inc()
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1000, acted.Load())
	require.EqualValues(t, 1, ended.Load())
}

// Orders that are given and lifted at the same time don't replace each other.
func TestOrdersAtOnce(t *testing.T) {
	s := NewUnstartedServer()
	lifts := make(chan func(), 8)
	var givers, lifters sync.WaitGroup
	for range 4 {
		givers.Go(func() {
			for range 3000 {
				lifts <- s.Do(Drop())
			}
		})
		lifters.Go(func() {
			for lift := range lifts {
				lift()
			}
		})
	}
	givers.Wait()
	require.LessOrEqual(t, len(s.standing()), 8+4)
	close(lifts)
	lifters.Wait()
	require.Empty(t, s.standing())
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	for _, o := range []Order{Refuse(), Hangup(), Blackhole(), CutSent(1), CutReceived(1), CloseIdle(1)} {
		require.Panics(t, func() { On("PING", o) })
	}
	require.Panics(t, func() { Times(0, Hang()) })
	require.Panics(t, func() { Rate(0) })
	for what, order := range map[string]func(time.Duration) Order{"Delay": Delay, "Drip": Drip, "CloseIdle": CloseIdle} {
		require.PanicsWithValue(t, "lookupdtest: "+what+"(-1ns): a duration can't be negative", func() { order(-1) })
	}
	for _, verb := range []string{"register", "REGSTER", "FIN"} {
		require.PanicsWithValue(t, `lookupdtest: On("`+verb+` orders", …): no command is called "`+verb+`"; there are IDENTIFY, REGISTER, UNREGISTER and PING`,
			func() { On(verb+" orders", Drop()) })
	}
	for _, empty := range []Order{{}, Once(Order{}), On("PING", Order{})} {
		require.PanicsWithValue(t, "lookupdtest: Do of an empty Order: make it with a function such as Hang",
			func() { NewUnstartedServer().Do(empty) })
	}
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
