package listing

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handle makes a client all of whose requests the handler answers, with no
// network between.
func handle(handler http.HandlerFunc) *Client {
	return &Client{&http.Client{Transport: handlerTransport(handler)}, 1000}
}

type handlerTransport http.HandlerFunc

func (h handlerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := httptest.NewRecorder()
	h(w, r)
	return w.Result(), nil
}

type failingTransport struct{ err error }

func (f failingTransport) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// answer answers paths with bodies, others with 404.
func answer(bodies map[string]string) *Client {
	return handle(func(w http.ResponseWriter, r *http.Request) {
		body, ok := bodies[r.URL.RequestURI()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"message":"NOT_FOUND"}`
		}
		fmt.Fprint(w, body)
	})
}

// The bodies are those of nsqlookupd 1.0.0-compat; later versions add fields.
func TestLookupdsAnswersAreUnderstood(t *testing.T) {
	c := answer(map[string]string{
		"/lookup?topic=orders%23ephemeral": `{"channels":["mail"],"producers":[{"remote_address":"10.0.0.1:5000","hostname":"host-a","broadcast_address":"a.test","tcp_port":4150,"http_port":4151,"version":"1.0.0-compat","topology_zone":"z"}]}`,
		"/nodes":                           `{"producers":[{"remote_address":"10.0.0.1:5000","hostname":"host-a","broadcast_address":"a.test","tcp_port":4150,"http_port":4151,"version":"1.0.0-compat","tombstones":[false,true],"topics":["orders","hidden","short"]},null]}`,
		"/topics":                          `{"topics":["orders"]}`,
		"/channels?topic=orders":           `{"channels":["mail"]}`,
		"/info":                            `{"version":"1.0.0-compat"}`,
	})
	a := Producer{"10.0.0.1:5000", "host-a", "a.test", 4150, 4151, "1.0.0-compat"}
	topic, err := c.Lookup(t.Context(), "l:4161", "orders#ephemeral")
	require.NoError(t, err)
	require.Equal(t, Topic{true, []string{"mail"}, []Producer{a}}, topic)

	nodes, err := c.Nodes(t.Context(), "l:4161")
	require.NoError(t, err)
	require.Equal(t, []Node{{a, map[string]bool{"orders": false, "hidden": true, "short": false}}, {Topics: map[string]bool{}}}, nodes)

	nodes, err = answer(map[string]string{"/nodes": `{"producers":[]}`}).Nodes(t.Context(), "l:4161")
	require.NoError(t, err)
	require.Equal(t, []Node{}, nodes, "a View without nodes has nil")

	topics, err := c.Topics(t.Context(), "l:4161")
	require.NoError(t, err)
	require.Equal(t, []string{"orders"}, topics)

	channels, err := c.Channels(t.Context(), "l:4161", "orders")
	require.NoError(t, err)
	require.Equal(t, []string{"mail"}, channels)

	version, err := c.Version(t.Context(), "l:4161")
	require.NoError(t, err)
	require.Equal(t, "1.0.0-compat", version)
}

func TestUnknownTopicIsNoError(t *testing.T) {
	c := handle(func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "application/vnd.nsq; version=1.0", r.Header.Get("Accept"), "nsqlookupd 0.3 answers in another format without")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"message":"TOPIC_NOT_FOUND"}`)
	})
	topic, err := c.Lookup(t.Context(), "l:4161", "orders")
	require.NoError(t, err)
	require.Equal(t, Topic{}, topic)
	_, err = answer(nil).Lookup(t.Context(), "l:4161", "orders")
	require.EqualError(t, err, "HTTP status 404 Not Found NOT_FOUND", "not the answer of a lookupd")
}

func TestAnswersAreBoundedAndHarmless(t *testing.T) {
	for name, tt := range map[string]struct{ body, want string }{
		"no JSON":    {"hello \x1b[31m", `answer "hello \x1b[31m": invalid character`},
		"other JSON": {`{"topics":1}`, "cannot unmarshal number"},
		"cut":        {`{"topics":["`, "unexpected end of JSON input"},
		"too large":  {`{"topics":[]}` + strings.Repeat(" ", 16000-12), "answer too large: more than 16000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := answer(map[string]string{"/topics": tt.body}).Topics(t.Context(), "l:4161")
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, name == "too large", errors.Is(err, ErrTooLarge))
		})
	}
	fits := `{"topics":["` + strings.Repeat("é", 300) + "\x1b" + `\u001b","\u202eorders"]}`
	fits = strings.ReplaceAll(fits, "\x1b", "")
	topics, err := answer(map[string]string{"/topics": fits + strings.Repeat(" ", 16000-len(fits))}).Topics(t.Context(), "l:4161")
	require.NoError(t, err)
	require.Equal(t, []string{strings.Repeat("é", 256), "\ufffdorders"}, topics)

	_, err = handle(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprint(w, `{"message":"\u001b[31m`+strings.Repeat("x", 600)+`"}`)
	}).Version(t.Context(), "l:4161")
	require.EqualError(t, err, "HTTP status 418 I'm a teapot \ufffd[31m"+strings.Repeat("x", 512-5))

	hostile := errors.New("\x1b" + strings.Repeat("x", 600))
	_, err = (&Client{&http.Client{Transport: failingTransport{hostile}}, 1000}).Version(t.Context(), "l:4161")
	require.ErrorIs(t, err, hostile)
	require.Len(t, err.Error(), 512+2, "two more for what replaces one byte")

	_, err = answer(nil).Version(t.Context(), "a b/c")
	require.ErrorContains(t, err, "invalid")
}

func TestBrokersAnswersAreUnderstood(t *testing.T) {
	const (
		info  = `{"version":"1.3.0","broadcast_address":"a.test","hostname":"host-a","http_port":4151,"tcp_port":4150,"start_time":1}`
		stats = `{"version":"1.3.0","health":"OK","topics":[{"topic_name":"orders","channels":[{"channel_name":"mail"},{"channel_name":"ship"}],"depth":0},{"topic_name":"invoices","channels":null}],"producers":null}`
		path  = "/stats?format=json&include_clients=false&include_mem=false"
	)
	want := Broker{
		Producer{"", "host-a", "a.test", 4150, 4151, "1.3.0"},
		map[string][]string{"orders": {"mail", "ship"}, "invoices": {}},
	}
	got, err := answer(map[string]string{"/info": info, path: stats}).Broker(t.Context(), "a:4151")
	require.NoError(t, err)
	require.Equal(t, want, got)

	// nsqd's /info has the ports where it listens, not those that it announces.
	want.TCPPort, want.HTTPPort = 1, 30151
	got, err = answer(map[string]string{
		"/info": info, path: stats, "/config/broadcast_tcp_port": "1", "/config/broadcast_http_port": "30151",
	}).Broker(t.Context(), "a:4151")
	require.NoError(t, err)
	require.Equal(t, want, got)

	// A port of 0 means none was set.
	want.TCPPort, want.HTTPPort = 4150, 4151
	got, err = answer(map[string]string{
		"/info": info, path: stats, "/config/broadcast_tcp_port": "0", "/config/broadcast_http_port": "{}",
	}).Broker(t.Context(), "a:4151")
	require.NoError(t, err)
	require.Equal(t, want, got)

	_, err = answer(map[string]string{"/info": info}).Broker(t.Context(), "a:4151")
	require.EqualError(t, err, "HTTP status 404 Not Found NOT_FOUND")
	_, err = answer(map[string]string{"/info": `{"version":"1.3.0"}`, path: stats}).Broker(t.Context(), "a:4151")
	require.EqualError(t, err, "its /info has no broadcast_address, so it isn't a broker")
}

func TestALookupdIsAskedAboutFourTopicsAtATime(t *testing.T) {
	// On one thread, as two that look at due timers of one bubble at the same time
	// can crash the race detector (https://github.com/golang/go/issues/78156).
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		var now, asked atomic.Int64
		c := handle(func(w http.ResponseWriter, r *http.Request) {
			if now.Inc() > 4 {
				t.Error("more than 4 requests at a time")
			}
			time.Sleep(time.Second)
			now.Dec()
			fmt.Fprintf(w, `{"channels":[%q]}`, r.URL.Query().Get("topic"))
		})
		started := time.Now()
		got, err := c.Lookups(t.Context(), "l:4161", []string{"a", "b", "c", "d", "e", "f"}, func() { asked.Inc() })
		require.NoError(t, err)
		require.Len(t, got, 6)
		require.Equal(t, Topic{true, []string{"e"}, nil}, got["e"])
		require.EqualValues(t, 6, asked.Load())
		require.Equal(t, 2*time.Second, time.Since(started))
	})
}

func TestTheFirstFailureEndsTheLookups(t *testing.T) {
	var mu sync.Mutex
	requests := 0
	c := handle(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests++
		mu.Unlock()
		w.WriteHeader(http.StatusInternalServerError)
	})
	topics := make([]string, 1000)
	_, err := c.Lookups(t.Context(), "l:4161", topics, func() {})
	require.EqualError(t, err, "HTTP status 500 Internal Server Error")
	require.LessOrEqual(t, requests, maxRequests)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Lookups(ctx, "l:4161", topics, func() {})
	require.ErrorIs(t, err, context.Canceled)
}

func TestAddressThatConsumersCannotUseIsFound(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want []Finding
	}{
		{nil, nil},
		{&net.DNSError{Err: "no such host", Name: "a.test"}, []Finding{{Kind: NotResolvable, Broker: "a.test:4150", Detail: "dial tcp: lookup a.test: no such host"}}},
		{errors.New("connection\nrefused"), []Finding{{Kind: NotReachable, Broker: "a.test:4150", Detail: "dial tcp: connection\ufffdrefused"}}},
	} {
		dial := func(_ context.Context, network, address string) (net.Conn, error) {
			require.Equal(t, "tcp a.test:4150", network+" "+address)
			if tt.err != nil {
				return nil, &net.OpError{Op: "dial", Net: "tcp", Err: tt.err}
			}
			conn, other := net.Pipe()
			return conn, other.Close()
		}
		require.Equal(t, tt.want, Reach(t.Context(), dial, orders.Producer))
	}
}
