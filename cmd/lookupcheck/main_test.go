package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inBubble is synctest.Test on one thread: two that look at due timers of one
// bubble at the same time can crash the race detector
// (https://github.com/golang/go/issues/78156).
func inBubble(t *testing.T, f func(*testing.T)) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, f)
}

// scene is lookupds and brokers on a network in memory.
type scene struct {
	t        *testing.T
	network  *lookupdtest.Network
	dial     dialer                // the network's, unless a test says otherwise
	lookupds []*lookupdtest.Server // at lookupd1.test:4160 and so on
	stdout   bytes.Buffer
	stderr   bytes.Buffer
}

func newScene(t *testing.T, lookupds int) *scene {
	s := &scene{t: t, network: lookupdtest.NewNetwork()}
	s.dial = s.network.Dial
	for i := range lookupds {
		lookupd := s.network.NewServer(fmt.Sprintf("lookupd%d.test:4160", i+1))
		t.Cleanup(lookupd.Close)
		s.lookupds = append(s.lookupds, lookupd)
	}
	return s
}

// run runs lookupcheck with all lookupds and further arguments.
func (s *scene) run(args ...string) int {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
	defer cancel()
	return s.runContext(ctx, args...)
}

func (s *scene) runContext(ctx context.Context, args ...string) int {
	for _, l := range s.lookupds {
		args = append(args, "-lookupd-http-address", l.HTTPAddress)
	}
	s.stdout.Reset()
	s.stderr.Reset()
	defer synctest.Wait() // connections that were closed, too
	return run(ctx, args, s.dial, output{&s.stdout, false}, output{&s.stderr, false})
}

// findings runs lookupcheck -json and returns each finding as "kind | lookupd |
// broker | topic/channel".
func (s *scene) findings(status int, args ...string) (found []string) {
	s.t.Helper()
	got := s.run(append(args, "-json")...)
	require.Equal(s.t, status, got, "%s%s", &s.stdout, &s.stderr)
	var r struct {
		Findings []struct{ Kind, Lookupd, Broker, Topic, Channel, Advice string }
	}
	require.NoError(s.t, json.Unmarshal(s.stdout.Bytes(), &r))
	for _, f := range r.Findings {
		require.NotEmpty(s.t, f.Advice)
		found = append(found, strings.Join([]string{f.Kind, f.Lookupd, f.Broker, strings.TrimSuffix(f.Topic+"/"+f.Channel, "/")}, " | "))
	}
	return found
}

// post sends an administrator's order to a lookupd, by number.
func (s *scene) post(lookupd int, path string) {
	s.t.Helper()
	response, err := s.network.Client().Post("http://"+s.lookupds[lookupd-1].HTTPAddress+path, "", nil)
	require.NoError(s.t, err)
	response.Body.Close()
	require.Equal(s.t, http.StatusOK, response.StatusCode)
}

// nsqd is what lookupcheck sees of a broker: a TCP port that accepts, and nsqd's
// HTTP API at the next port.
type nsqd struct {
	s      *scene
	host   string
	topics map[string][]string // shown by /stats
}

func (s *scene) nsqd(host string) *nsqd {
	d := &nsqd{s, host, map[string][]string{"orders": {"mail"}, "invoices": {}}}
	server := s.network.NewUnstartedServer(host + ":4150")
	server.WrapHTTP = func(http.Handler) http.Handler { return http.HandlerFunc(d.serveHTTP) }
	server.Start()
	s.t.Cleanup(server.Close)
	return d
}

// serveHTTP answers as nsqd 1.3.0 does.
func (d *nsqd) serveHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/info":
		json.NewEncoder(w).Encode(d.identity())
	case "/stats":
		type channel struct {
			Name string `json:"channel_name"`
		}
		type topic struct {
			Name     string    `json:"topic_name"`
			Channels []channel `json:"channels"`
		}
		topics := []topic{}
		for name, channels := range d.topics {
			t := topic{name, []channel{}}
			for _, c := range channels {
				t.Channels = append(t.Channels, channel{c})
			}
			topics = append(topics, t)
		}
		json.NewEncoder(w).Encode(map[string]any{"version": "1.3.0", "health": "OK", "topics": topics, "producers": nil})
	default:
		http.Error(w, `{"message":"INVALID_OPTION"}`, http.StatusBadRequest)
	}
}

func (d *nsqd) identity() map[string]any {
	return map[string]any{"version": "1.3.0", "broadcast_address": d.host, "hostname": d.host + "-name", "http_port": 4151, "tcp_port": 4150}
}

// connect registers all topics at a lookupd, by number, and stays connected.
func (d *nsqd) connect(lookupd int, edits ...func(identity map[string]any)) net.Conn {
	d.s.t.Helper()
	identity := d.identity()
	for _, edit := range edits {
		edit(identity)
	}
	conn, err := d.s.network.Dial(d.s.t.Context(), "tcp", d.s.lookupds[lookupd-1].TCPAddress)
	require.NoError(d.s.t, err)
	d.s.t.Cleanup(func() { conn.Close() })
	_, err = conn.Write(nsq.MagicV1)
	require.NoError(d.s.t, err)
	identify, err := nsq.Identify(identity)
	require.NoError(d.s.t, err)
	commands := []*nsq.Command{identify}
	for topic, channels := range d.topics {
		commands = append(commands, nsq.Register(topic, ""))
		for _, channel := range channels {
			commands = append(commands, nsq.Register(topic, channel))
		}
	}
	for _, c := range commands {
		d.send(conn, c)
	}
	return conn
}

func (d *nsqd) send(conn net.Conn, c *nsq.Command) {
	d.s.t.Helper()
	_, err := c.WriteTo(conn)
	require.NoError(d.s.t, err)
	answer, err := nsq.ReadResponse(conn)
	require.NoError(d.s.t, err)
	require.NotContains(d.s.t, string(answer), "E_")
}
