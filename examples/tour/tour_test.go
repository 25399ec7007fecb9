package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", "16"); err != nil { // tours wait more than they work
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func TestTour(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	tour, err := newTour(nil, &out)
	require.NoError(t, err)
	require.DirExists(t, tour.options.DataPath)

	require.NoError(t, tour.run(t.Context()), out.String())
	require.NoDirExists(t, tour.options.DataPath)
	for i, s := range steps {
		require.Contains(t, out.String(), fmt.Sprintf("\n%d. %s\n", i+1, s.title))
	}
	for _, finding := range []string{
		"tombstoned: tour-orders at lookupd 1\n                  an administrator hid the topic there: wait",
		"not listed: tour-returns at lookupd 1\n                  seen: the lookupd doesn't know the topic\n                  consumers",
		"not reachable\n                  seen: dial tcp [::1]:",
		"ms  a verification found it and announced it again\n",
		"ms  the next verification finds nothing\n",
	} {
		require.Contains(t, out.String(), finding)
	}
	require.NotContains(t, out.String(), " \n", "nothing is shown where there is nothing to show")
	require.NotContains(t, out.String(), "skipped")
	require.Contains(t, out.String(), fmt.Sprintf("All %d checks passed", strings.Count(out.String(), "\n  ok ")))
}

func TestTourUsesRunningLookupds(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 2; n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			t.Parallel()
			var args []string
			var lookupds []*lookupdtest.Server
			for range n {
				l := lookupdtest.NewServer()
				defer l.Close()
				lookupds, args = append(lookupds, l), append(args, flagsFor(l)...)
			}
			for range 2 { // the first leaves nothing that disturbs the second
				var out bytes.Buffer
				require.NoError(t, run(t.Context(), args, &out), out.String())
				require.Equal(t, 2, strings.Count(out.String(), "skipped:"), out.String())
				for _, l := range lookupds {
					require.Contains(t, out.String(), l.TCPAddress)
					require.Empty(t, l.Topics())
				}
			}
		})
	}
}

func TestTourFails(t *testing.T) {
	t.Parallel()
	const refusal = "E_BAD_TOPIC REGISTER it is not welcome"
	for _, test := range []struct {
		name  string
		spoil func(*tour)
		step  int
		check string
		seen  string
	}{
		{"a lookupd refuses a topic", func(t *tour) {
			t.lookupds[2].server.Do(lookupdtest.On("REGISTER "+returns, lookupdtest.Reject(refusal)))
		}, 1, "every lookupd has acknowledged", refusal},
		{"a lookupd can't be reached", func(t *tour) {
			t.lookupds[1].server.Do(lookupdtest.Hangup())
		}, 1, "every lookupd has acknowledged", " (IDENTIFY: "}, // which is disconnected, or connecting again
		{"a lookupd loses a topic", func(t *tour) {
			t.lookupds[1].server.Do(lookupdtest.On("REGISTER "+returns, lookupdtest.Reply("OK")))
		}, 2, "every lookupd's HTTP answers are what the broker has", "lookupd 2: /lookup?topic=tour-returns"},
		{"a lookupd loses a channel", func(t *tour) {
			t.lookupds[1].server.Do(lookupdtest.On("REGISTER "+returns+" exchange", lookupdtest.Reply("OK")))
		}, 2, "every lookupd's HTTP answers are what the broker has", "lacks the channel exchange"},
		{"a message is lost", func(t *tour) {
			t.messages.published = 1
		}, 3, "messages arrive: all 2 until now", "message 1 of 2 has not come"},
		{"a lookupd doesn't forget a topic", func(t *tour) {
			t.lookupds[0].server.Do(lookupdtest.On("UNREGISTER "+returns, lookupdtest.Reply("OK")))
		}, 4, "every lookupd's HTTP answers are what the broker has", "lookupd 1: /nodes"},
		{"a lookupd that comes back refuses a topic", func(t *tour) {
			t.lookupds[0].server.Do(lookupdtest.On("REGISTER "+news, lookupdtest.Reject(refusal)))
		}, 5, "it knows everything again", refusal},
		{"a second lookupd hangs", func(t *tour) {
			t.lookupds[1].server.Do(lookupdtest.On("REGISTER "+alerts, lookupdtest.Hang()))
		}, 6, "the others have acknowledged", "not registered"},
		{"more is wrong than is to be found", func(t *tour) {
			t.when("\n9. ", func() {
				t.lookupds[1].server.Do(lookupdtest.On("REGISTER "+orders, lookupdtest.Reply("OK")))
			})
		}, 9, "Verify finds all three", `"not listed: tour-orders at lookupd 2"`},
		{"something is wrong at the right address", func(t *tour) {
			t.when("\n10. ", func() {
				t.lookupds[0].server.Do(lookupdtest.On("REGISTER "+returns, lookupdtest.Reply("OK")))
			})
		}, 10, "Verify finds nothing", `"not listed: tour-returns at lookupd 1"`},
		{"a lookupd loses again what is announced to it again", func(t *tour) {
			t.when("\n10. ", func() {
				t.when("POST /topic/delete", func() {
					t.lookupds[0].server.Do(lookupdtest.On("REGISTER "+returns, lookupdtest.Reply("OK")))
				})
				t.when("announced it again", func() { t.patience = time.Second / 2 })
			})
		}, 10, "every lookupd's HTTP answers are what the broker has", "lookupd 1: /lookup?topic=tour-returns"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			tour, err := newTour(nil, &out)
			require.NoError(t, err)
			if test.step < 9 { // Verify takes a second
				hurry(tour, test.step)
			}
			test.spoil(tour)

			err = tour.run(t.Context())
			require.ErrorContains(t, err, fmt.Sprintf("step %d: %s: ", test.step, test.check), out.String())
			require.ErrorContains(t, err, test.seen)
			require.Contains(t, out.String(), "FAILED after ")
			require.Contains(t, out.String(), test.seen)
			require.NotContains(t, out.String(), fmt.Sprintf("\n%d. ", test.step+1), "it went on")
			require.NoDirExists(t, tour.options.DataPath)
		})
	}
}

func TestMessagesThatTheBrokerRefusesAreNoticed(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, nobody.Close())
	producer, err := nsq.NewProducer(nobody.Addr().String(), nsq.NewConfig())
	require.NoError(t, err)
	producer.SetLogger(nil, nsq.LogLevelMax)
	defer producer.Stop()

	var m messages
	m.publish(t.Context(), producer)
	require.ErrorIs(t, m.arrived(1), syscall.ECONNREFUSED)
}

func TestTourDoubtsHTTP(t *testing.T) {
	t.Parallel()
	l := lookupdtest.NewUnstartedServer()
	l.WrapHTTP = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "{}") })
	}
	l.Start()
	defer l.Close()
	var out bytes.Buffer
	tour, err := newTour(flagsFor(l), &out)
	require.NoError(t, err)
	hurry(tour, 2)
	require.ErrorContains(t, tour.run(t.Context()), "step 2: every lookupd's HTTP answers")
}

func TestTourKeepsAwayFromOthersTopics(t *testing.T) {
	t.Parallel()
	l := lookupdtest.NewServer()
	defer l.Close()
	other, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: []string{l.TCPAddress},
		BroadcastAddress:    "other.test",
		BroadcastTCPPort:    1,
		BroadcastHTTPPort:   1,
		Logger:              slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- other.Run(ctx) }()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
	}()
	require.NoError(t, other.Notify(lookuploop.TopicCreated(alerts)))
	require.NoError(t, other.WaitRegistered(ctx, 1))

	var out bytes.Buffer
	require.ErrorContains(t, run(ctx, flagsFor(l), &out), "other.test")
	require.Equal(t, []string{alerts}, l.Topics())
	require.Equal(t, []string{"other.test:1"}, l.Producers(alerts, ""))
}

func TestTourIsInterrupted(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"lookuploop registers", "is killed", "messages arrive", "answers nothing any more", "the producer has stopped", "POST /topic/tombstone"} {
		ctx, cancel := context.WithCancel(t.Context())
		var out bytes.Buffer
		tour, err := newTour(nil, writerFunc(func(p []byte) (int, error) {
			if strings.Contains(string(p), moment) {
				cancel()
			}
			return out.Write(p)
		}))
		require.NoError(t, err)
		require.ErrorIs(t, tour.run(ctx), errInterrupted, moment)
		require.NotContains(t, out.String(), "FAILED")
		require.NoDirExists(t, tour.options.DataPath)
	}
}

func TestTextsAreBrokenBetweenWords(t *testing.T) {
	for width, want := range map[int][]string{
		20: {"  wait, or delete it"},
		19: {"  wait, or delete", "  it"},
		10: {"  wait, or", "  delete", "  it"},
		1:  {"  wait,", "  or", "  delete", "  it"},
	} {
		require.Equal(t, want, wrap("wait, or delete it", "  ", width), width)
	}
}

func TestFlags(t *testing.T) {
	for args, fault := range map[string]string{
		"-lookupd-tcp-address 127.0.0.1:1":                                  "1 -lookupd-tcp-address and 0 -lookupd-http-address",
		"-lookupd-http-address 127.0.0.1:1":                                 "0 -lookupd-tcp-address and 1 -lookupd-http-address",
		"-lookupd-tcp-address 127.0.0.1:1 -lookupd-tcp-address 127.0.0.1:1": "given twice",
		"orders": "unexpected argument",
		"-x":     "not defined",
	} {
		require.ErrorContains(t, run(t.Context(), strings.Fields(args), io.Discard), fault)
	}
	require.NoError(t, run(t.Context(), []string{"-h"}, io.Discard))
}

func flagsFor(l *lookupdtest.Server) []string {
	return []string{"-lookupd-tcp-address", l.TCPAddress, "-lookupd-http-address", l.HTTPAddress}
}

// hurry makes a tour wait less in the step that is to fail.
func hurry(t *tour, step int) {
	t.when(fmt.Sprintf("\n%d. ", step), func() { t.patience = time.Second })
}

// when calls do each time before something that contains moment is written.
func (t *tour) when(moment string, do func()) {
	out := t.out
	t.out = writerFunc(func(p []byte) (int, error) {
		if strings.Contains(string(p), moment) {
			do()
		}
		return out.Write(p)
	})
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
