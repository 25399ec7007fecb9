package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

const (
	l1 = "lookupd1.test:4161"
	l2 = "lookupd2.test:4161"
)

func set(name string, value any) func(map[string]any) {
	return func(identity map[string]any) { identity[name] = value }
}

func TestHealthyBrokersAreWell(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		for _, host := range []string{"a.test", "b.test"} {
			d := s.nsqd(host)
			d.connect(1)
			d.connect(2)
		}
		started := time.Now()
		require.Empty(t, s.findings(exitWell))
		require.Empty(t, s.findings(exitWell, "-nsqd-http-address", "a.test:4151"))
		require.Zero(t, time.Since(started), "there is no need to look twice")
	})
}

func TestEachKindOfFinding(t *testing.T) {
	for name, tt := range map[string]struct {
		act  func(s *scene, d *nsqd)
		want []string
	}{
		"topic deleted": {
			func(s *scene, d *nsqd) { s.post(2, "/topic/delete?topic=orders") },
			[]string{"not listed | " + l2 + " | a.test:4150 | orders"},
		},
		"not connected": {
			func(s *scene, d *nsqd) { s.lookupds[0].CloseConnections() },
			[]string{"not listed | " + l1 + " | a.test:4150 | "},
		},
		"tombstoned": {
			func(s *scene, d *nsqd) { s.post(2, "/topic/tombstone?topic=orders&node=a.test:4151") },
			[]string{"tombstoned | " + l2 + " | a.test:4150 | orders"},
		},
		"half-open connection": {
			func(s *scene, d *nsqd) { d.connect(1) },
			[]string{"listed twice | " + l1 + " | a.test:4150 | "},
		},
		"another address": {
			func(s *scene, d *nsqd) {
				s.lookupds[0].CloseConnections()
				s.lookupds[1].CloseConnections()
				d.connect(1, set("tcp_port", 5150))
				d.connect(2, set("http_port", 5151))
			},
			[]string{"listed elsewhere | " + l1 + " | a.test:4150 | ", "listed elsewhere | " + l2 + " | a.test:4150 | "},
		},
		"another version": {
			func(s *scene, d *nsqd) {
				s.lookupds[0].CloseConnections()
				d.connect(1, set("version", "1.2.1"))
			},
			[]string{"other version | " + l1 + " | a.test:4150 | "},
		},
		"somebody else at the address": {
			func(s *scene, d *nsqd) { d.connect(2, set("hostname", "other")) },
			[]string{"address shared | " + l2 + " | a.test:4150 | "},
		},
		"channel deleted": {
			func(s *scene, d *nsqd) { s.post(1, "/channel/delete?topic=orders&channel=mail") },
			[]string{"channel missing | " + l1 + " | a.test:4150 | orders/mail"},
		},
		"stale": {
			func(s *scene, d *nsqd) { delete(d.topics, "invoices") },
			[]string{"stale | " + l1 + " | a.test:4150 | invoices", "stale | " + l2 + " | a.test:4150 | invoices"},
		},
		"not resolvable": {
			func(s *scene, d *nsqd) {
				s.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					if address == "a.test:4150" {
						return nil, &net.DNSError{Err: "no such host", Name: "a.test"}
					}
					return s.network.Dial(ctx, network, address)
				}
			},
			[]string{"not resolvable |  | a.test:4150 | "},
		},
		"not reachable": {
			func(s *scene, d *nsqd) {
				s.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					if address == "a.test:4150" {
						<-ctx.Done() // a firewall
						return nil, ctx.Err()
					}
					return s.network.Dial(ctx, network, address)
				}
			},
			[]string{"not reachable |  | a.test:4150 | "},
		},
		"names differ": {
			func(s *scene, d *nsqd) { s.post(2, "/topic/create?topic=old") },
			[]string{"names differ | " + l1 + " |  | old"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 2)
				d := s.nsqd("a.test")
				d.connect(1)
				d.connect(2)
				tt.act(s, d)
				require.Equal(t, tt.want, s.findings(exitWrong, "-nsqd-http-address", "a.test:4151"))
			})
		})
	}
}

// A change that happens while lookupcheck looks is no finding, whichever side
// tells of it first.
func TestWhatChangesMeanwhileIsNoFinding(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		d := s.nsqd("a.test")
		conn := d.connect(1)
		d.topics["new"] = []string{"c"} // not registered yet
		delete(d.topics, "invoices")    // not unregistered yet
		time.AfterFunc(time.Second, func() {
			d.send(conn, nsq.Register("new", "c"))
			d.send(conn, nsq.UnRegister("invoices", ""))
		})
		require.Empty(t, s.findings(exitWell))
	})
}

// Without HTTP, a broker's address can be dialled all the same.
func TestWhoCannotBeAskedIsToldAndTheOthersAreChecked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 3)
		d := s.nsqd("a.test")
		for i := range s.lookupds {
			d.connect(i + 1)
		}
		gone := &nsqd{s: s, host: "gone.test"}
		gone.connect(1)
		s.post(1, "/topic/delete?topic=orders")
		s.post(1, "/topic/create?topic=old")
		s.post(2, "/topic/create?topic=old")
		s.network.Partition(s.lookupds[2].HTTPAddress)
		started := time.Now()
		require.Equal(t, []string{
			"not listed | " + l1 + " | a.test:4150 | orders",
			"not reachable |  | gone.test:4150 | ",
		}, s.findings(exitNotAsked, "-http-client-request-timeout", "3s"))
		require.Equal(t, 3*time.Second+pause+3*time.Second, time.Since(started))
		require.Contains(t, s.stdout.String(), `{"address":"lookupd3.test:4161","brokers":0,"topics":0,"error":"Get \"http://lookupd3.test:4161/info\": `)
		require.Contains(t, s.stdout.String(), `{"http_address":"gone.test:4151","topics":0,"channels":0,"error":"Get \"http://gone.test:4151/info\": dial `)
	})
}

// What fails in the second look only was not confirmed, and is told.
func TestWhoFailsTheSecondTimeIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.nsqd("a.test").connect(1)
		s.post(1, "/topic/delete?topic=orders")
		time.AfterFunc(time.Second, func() { s.network.Partition(s.lookupds[0].HTTPAddress) })
		require.Empty(t, s.findings(exitNotAsked))
		require.Contains(t, s.stdout.String(), "deadline exceeded")

		s = newScene(t, 1)
		s.nsqd("a.test").connect(1)
		s.post(1, "/topic/delete?topic=orders")
		time.AfterFunc(time.Second, func() { s.network.Partition("a.test:4151") })
		require.Empty(t, s.findings(exitNotAsked, "-nsqd-http-address", "a.test:4151"))
		require.Contains(t, s.stdout.String(), "deadline exceeded")
	})
}

// wrapped adds a lookupd whose HTTP side is behind the handler.
func (s *scene) wrapped(handle func(inner http.Handler, w http.ResponseWriter, r *http.Request)) {
	lookupd := s.network.NewUnstartedServer(fmt.Sprintf("lookupd%d.test:4160", len(s.lookupds)+1))
	lookupd.WrapHTTP = func(inner http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(inner, w, r) })
	}
	lookupd.Start()
	s.t.Cleanup(lookupd.Close)
	s.lookupds = append(s.lookupds, lookupd)
}

func TestALookupThatFailsIsTold(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.wrapped(func(inner http.Handler, w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/lookup" {
				panic(http.ErrAbortHandler)
			}
			inner.ServeHTTP(w, r)
		})
		d := s.nsqd("a.test")
		d.connect(1)
		d.connect(2)
		require.Empty(t, s.findings(exitNotAsked))
		require.Contains(t, s.stdout.String(), `/lookup?topic=`)
	})
}

func TestLookupdsAreAskedThemselves(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.wrapped(func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+l1+r.URL.Path, http.StatusFound)
		})
		require.Empty(t, s.findings(exitNotAsked))
		require.Contains(t, s.stdout.String(), "HTTP status 302 Found")
	})
}

// The second look costs no more than what it is for, and an address that is given
// twice nothing.
func TestOnlyWhatSeemsWrongIsLookedAtAgain(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0)
		var mu sync.Mutex
		var asked []string
		s.wrapped(func(inner http.Handler, w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			asked = append(asked, r.URL.RequestURI())
			mu.Unlock()
			inner.ServeHTTP(w, r)
		})
		s.nsqd("a.test").connect(1)
		s.post(1, "/topic/delete?topic=orders")
		asked = nil
		require.Equal(t, []string{"not listed | " + l1 + " | a.test:4150 | orders"}, s.findings(exitWrong, "-lookupd-http-address", l1))
		slices.Sort(asked)
		require.Equal(t, []string{"/info", "/info", "/lookup?topic=invoices", "/lookup?topic=orders", "/lookup?topic=orders",
			"/nodes", "/nodes", "/topics", "/topics"}, asked)
	})
}

func TestWatchLooksUntilInterrupted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.nsqd("a.test").connect(1)
		time.AfterFunc(25*time.Second, func() { s.post(1, "/topic/delete?topic=orders") })
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		require.Equal(t, exitWrong, s.runContext(ctx, "-watch", "10s", "-json"), "that of the last look")
		lines := strings.Split(strings.TrimSpace(s.stdout.String()), "\n")
		require.Len(t, lines, 4)
		require.Contains(t, lines[2], `"findings":[]`)
		require.Contains(t, lines[3], `"kind":"not listed"`)
	})
}

func TestInterruptedBeforeTheEndIsNotAsked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.Partition()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.Equal(t, exitNotAsked, s.runContext(ctx))
		require.Empty(t, s.stdout.String())
	})
}

func TestWrongUsage(t *testing.T) {
	lookupd := []string{"-lookupd-http-address", "127.0.0.1:1"}
	for name, tt := range map[string]struct {
		args   []string
		status int
		want   string
	}{
		"help":          {[]string{"-help"}, exitWell, "-nsqd-http-address address"},
		"nobody to ask": {nil, exitNotAsked, "name a lookupd with -lookupd-http-address"},
		"unknown flag":  {[]string{"-x"}, exitNotAsked, "not defined: -x"},
		"no flag":       {append(lookupd, "orders"), exitNotAsked, `"orders" is no flag`},
		"URL":           {[]string{"-lookupd-http-address", "http://l:4161"}, exitNotAsked, "write host:port"},
		"no port":       {[]string{"-nsqd-http-address", "l"}, exitNotAsked, "write host:port"},
		"no time":       {append(lookupd, "-http-client-request-timeout", "0s"), exitNotAsked, "the timeout not 0"},
		"negative":      {append(lookupd, "-watch", "-1s"), exitNotAsked, "can't be negative"},
	} {
		t.Run(name, func(t *testing.T) {
			dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("not to be called") }
			var stdout, stderr strings.Builder
			require.Equal(t, tt.status, run(t.Context(), tt.args, dial, output{&stdout, false}, output{&stderr, false}))
			require.Contains(t, stderr.String(), tt.want)
			require.Empty(t, stdout.String())
		})
	}
}

// Scripts tell them apart, by what the README says.
func TestExitStatusIsThatOfTheREADME(t *testing.T) {
	require.Equal(t, []int{0, 1, 2}, []int{exitWell, exitWrong, exitNotAsked})
}
