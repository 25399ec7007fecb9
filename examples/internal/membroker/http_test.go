package membroker

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// do sends one request, as curl does, and returns status and body.
func (b *Broker) do(t testing.TB, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+b.HTTPAddress()+path, strings.NewReader(body))
	require.NoError(t, err)
	r.Close = true // no connection outlives the test
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, "nsq; version=1.0", answer.Header.Get("X-NSQ-Content-Type"))
	return answer.StatusCode, string(got)
}

func TestHTTP(t *testing.T) {
	b := start(t, Options{MemQueueSize: 4})
	long := strings.Repeat("x", maxMsgSize+1)
	const invalid = "a/b"
	for _, test := range []struct {
		method, path, body string
		status             int
		answer             string
	}{
		{"GET", "/ping", "", 200, "OK"},
		{"POST", "/ping", "", 405, `{"message":"METHOD_NOT_ALLOWED"}`},
		{"GET", "/nothing", "", 404, `{"message":"NOT_FOUND"}`},
		{"GET", "/pub?topic=t", "", 405, `{"message":"METHOD_NOT_ALLOWED"}`},

		{"POST", "/topic/create?topic=t", "", 200, ""},
		{"POST", "/topic/create?topic=t", "", 200, ""},
		{"POST", "/topic/create", "", 400, `{"message":"MISSING_ARG_TOPIC"}`},
		{"POST", "/topic/create?topic=" + invalid, "", 400, `{"message":"INVALID_TOPIC"}`},
		{"POST", "/topic/create?topic=%zz", "", 400, `{"message":"INVALID_REQUEST"}`},
		{"POST", "/channel/create?topic=t&channel=c", "", 200, ""},
		{"POST", "/channel/create?topic=x&channel=c", "", 404, `{"message":"TOPIC_NOT_FOUND"}`},
		{"POST", "/channel/create?channel=c", "", 400, `{"message":"MISSING_ARG_TOPIC"}`},
		{"POST", "/channel/create?topic=t", "", 400, `{"message":"MISSING_ARG_CHANNEL"}`},
		{"POST", "/channel/create?topic=" + invalid + "&channel=c", "", 400, `{"message":"INVALID_ARG_TOPIC"}`},
		{"POST", "/channel/create?topic=t&channel=" + invalid, "", 400, `{"message":"INVALID_ARG_CHANNEL"}`},

		{"POST", "/pub?topic=t", "one", 200, "OK"},
		{"POST", "/pub?topic=t&defer=1000", "two", 200, "OK"},
		{"POST", "/pub?topic=t&defer=-1", "two", 400, `{"message":"INVALID_DEFER"}`},
		{"POST", "/pub?topic=t&defer=3600001", "two", 400, `{"message":"INVALID_DEFER"}`},
		{"POST", "/pub?topic=t", "", 400, `{"message":"MSG_EMPTY"}`},
		{"POST", "/pub", "x", 400, `{"message":"MISSING_ARG_TOPIC"}`},
		{"POST", "/pub?topic=" + invalid, "x", 400, `{"message":"INVALID_TOPIC"}`},
		{"POST", "/pub?topic=t", long, 413, `{"message":"MSG_TOO_BIG"}`},
		{"POST", "/pub?topic=t", strings.Repeat("x", maxMsgSize+2*maxBodySize), 413, `{"message":"MSG_TOO_BIG"}`},
		{"POST", "/mpub?topic=t", "three\n\n" + long[1:] + "\n", 200, "OK"},
		{"POST", "/mpub?topic=t", "five", 503, `{"message":"QUEUE_FULL"}`},
		{"POST", "/mpub?topic=" + invalid, strings.Repeat("x\n", 5), 503, `{"message":"QUEUE_FULL"}`}, // before the lines are held
		{"POST", "/mpub?topic=t", long, 413, `{"message":"MSG_TOO_BIG"}`},
		{"POST", "/mpub?topic=t", strings.Repeat(long, 5), 413, `{"message":"BODY_TOO_BIG"}`},
		{"POST", "/mpub?topic=binary&binary=true", batchOf("\x00\x00\x00\x02", "a\nb", "c")[4:], 200, "OK"},
		{"POST", "/mpub?topic=binary&binary=true", "\x00\x00\x00\x02", 413, `{"message":"BAD_MESSAGE"}`},
		{"POST", "/mpub?topic=binary&binary=true", "\x00\x00\x00\x09", 413, `{"message":"BAD_BODY"}`},
		{"POST", "/mpub?topic=binary&binary=true", batchOf("\x00\x00\x00\x01", "a", "b")[4:], 413, `{"message":"BAD_BODY"}`},

		{"POST", "/topic/pause?topic=t", "", 200, ""},
		{"POST", "/channel/pause?topic=t&channel=c", "", 200, ""},
		{"POST", "/topic/pause?topic=x", "", 404, `{"message":"TOPIC_NOT_FOUND"}`},
		{"POST", "/channel/pause?topic=t&channel=x", "", 404, `{"message":"CHANNEL_NOT_FOUND"}`},
		{"POST", "/channel/empty?topic=t&channel=c", "", 200, ""},
		{"POST", "/topic/empty?topic=binary", "", 200, ""},
		{"POST", "/topic/empty?topic=" + invalid, "", 400, `{"message":"INVALID_TOPIC"}`},
		{"POST", "/topic/delete?topic=binary", "", 200, ""},
		{"POST", "/topic/delete?topic=binary", "", 404, `{"message":"TOPIC_NOT_FOUND"}`},

		{"GET", "/config/nsqlookupd_tcp_addresses", "", 200, `[]`},
		{"PUT", "/config/nsqlookupd_tcp_addresses", `["nowhere"]`, 400, `{"message":"INVALID_VALUE"}`},
		{"PUT", "/config/nsqlookupd_tcp_addresses", `"127.0.0.1:1"`, 400, `{"message":"INVALID_VALUE"}`},
		{"PUT", "/config/log_level", `debug`, 400, `{"message":"INVALID_OPTION"}`},
	} {
		status, answer := b.do(t, test.method, test.path, test.body)
		require.Equal(t, test.status, status, "%s %s %.40q: %s", test.method, test.path, test.body, answer)
		require.Equal(t, test.answer, answer, "%s %s", test.method, test.path)
	}
	require.Equal(t, []string{"t true", "t/c true"}, b.names())
	require.Equal(t, b.names(), namesOf(b.loop.Metadata()))
	b.do(t, "POST", "/topic/unpause?topic=t", "")
	b.do(t, "POST", "/channel/unpause?topic=t&channel=c", "")
	require.Equal(t, []string{"t false", "t/c false"}, b.names())
	b.do(t, "POST", "/channel/delete?topic=t&channel=c", "")
	require.Equal(t, []string{"t false"}, b.names())
}

func TestHTTPStats(t *testing.T) {
	b := start(t, Options{})
	b.do(t, "POST", "/topic/create?topic=t", "")
	b.do(t, "POST", "/topic/create?topic=u", "")
	b.do(t, "POST", "/channel/create?topic=t&channel=c", "")
	b.do(t, "POST", "/pub?topic=t", "12345")
	var answer string
	require.Eventually(t, func() bool { // until the topic has handed the message on
		_, answer = b.do(t, "GET", "/stats?format=json&topic=t&include_clients=false", "")
		return strings.Contains(answer, `"channel_name":"c","depth":1`)
	}, patience, time.Millisecond)
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(answer), &got))
	delete(got, "start_time")
	want := `{"version":"` + Version + `","health":"OK","topics":[{"topic_name":"t","depth":0,"backend_depth":0,"message_count":1,
		"message_bytes":5,"paused":false,"e2e_processing_latency":{"count":0,"percentiles":null},"channels":[{"channel_name":"c",
		"depth":1,"backend_depth":0,"in_flight_count":0,"deferred_count":0,"message_count":1,"requeue_count":0,"timeout_count":0,
		"client_count":0,"clients":[],"paused":false,"e2e_processing_latency":{"count":0,"percentiles":null}}]}]}`
	text, err := json.Marshal(got)
	require.NoError(t, err)
	require.JSONEq(t, want, string(text))
}

func TestHTTPInfo(t *testing.T) {
	b := start(t, Options{})
	_, answer := b.do(t, "GET", "/info", "")
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(answer), &got))
	require.Equal(t, Version, got["version"])
	require.Equal(t, "127.0.0.1", got["broadcast_address"])
	require.Equal(t, b.TCPAddress(), fmt.Sprintf("127.0.0.1:%v", got["tcp_port"]))
	require.Equal(t, b.HTTPAddress(), fmt.Sprintf("127.0.0.1:%v", got["http_port"]))
}

// The runtime swap, as nsqd's users do it with curl.
func TestHTTPSwapsLookupds(t *testing.T) {
	before, after := lookupdtest.NewServer(), lookupdtest.NewServer()
	defer before.Close()
	defer after.Close()
	b := start(t, Options{LookupdTCPAddresses: []string{before.TCPAddress}})
	b.do(t, "POST", "/topic/create?topic=t", "")
	b.waitRegistered(t)
	require.Equal(t, []string{"t"}, before.Topics())

	status, answer := b.do(t, "PUT", "/config/nsqlookupd_tcp_addresses", `["`+after.TCPAddress+`"]`)
	require.Equal(t, 200, status)
	require.JSONEq(t, `["`+after.TCPAddress+`"]`, answer)
	b.waitRegistered(t)
	require.Len(t, after.Producers("t", ""), 1)
	require.NoError(t, before.Wait(t.Context(), func() bool { return len(before.Producers("t", "")) == 0 }))
	_, answer = b.do(t, "GET", "/config/nsqlookupd_tcp_addresses", "")
	require.JSONEq(t, `["`+after.TCPAddress+`"]`, answer)
}

func TestHTTPReady(t *testing.T) {
	up, down := lookupdtest.NewServer(), lookupdtest.NewServer()
	defer up.Close()
	defer down.Close()
	down.Stop()
	b := start(t, Options{LookupdTCPAddresses: []string{up.TCPAddress, down.TCPAddress}})
	b.do(t, "POST", "/topic/create?topic=t", "")
	require.NoError(t, b.loop.WaitRegistered(t.Context(), 1))

	ready := func(query string) string {
		answer := httptest.NewRecorder()
		b.handleReady(answer, httptest.NewRequest("GET", "/ready"+query, nil))
		return fmt.Sprint(answer.Code, " ", answer.Body)
	}
	require.Equal(t, "200 ready\n", ready("?n=1"))
	for _, query := range []string{"", "?n=2"} {
		require.Regexp(t, "^503 .*not registered: "+down.TCPAddress+" is", ready(query))
	}
	for _, query := range []string{"?n=0", "?n=all", "?n="} {
		require.Equal(t, "400 INVALID_N\n", ready(query))
	}

	down.Start()
	b.waitRegistered(t)
	require.Equal(t, "200 ready\n", ready(""))
	require.Regexp(t, "^503 .*3 wanted, 2 configured", ready("?n=3"))

	// A lookupd that doesn't answer knows less than the broker has.
	defer up.Do(lookupdtest.Hang())()
	b.do(t, "POST", "/topic/create?topic=u", "")
	require.Regexp(t, "^503 .*"+up.TCPAddress, ready(""))
}

func TestHTTPShowsTheLoop(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := start(t, Options{LookupdTCPAddresses: []string{lookupd.TCPAddress}})
	b.do(t, "POST", "/topic/create?topic=t", "")
	b.waitRegistered(t)

	r, err := http.NewRequest(http.MethodGet, "http://"+b.HTTPAddress()+"/debug/lookuploop?topic=t", nil)
	require.NoError(t, err)
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	var got struct {
		Lookupds []struct {
			Address    string
			TopicState string `json:"topic_state"`
		}
	}
	require.NoError(t, json.NewDecoder(answer.Body).Decode(&got))
	require.Len(t, got.Lookupds, 1)
	require.Equal(t, lookupd.TCPAddress, got.Lookupds[0].Address)
	require.Equal(t, "registered", got.Lookupds[0].TopicState)
}
