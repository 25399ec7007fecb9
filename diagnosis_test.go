package lookuploop_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// The README's table "When consumers don't find your broker" names what is to
// be seen for each cause. Each test here produces the cause, finds those words
// where the table says, and in the table.

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// requireSeen checks that words are in what was seen and in the README's table.
func requireSeen(t *testing.T, seen, words string) {
	t.Helper()
	require.Contains(t, seen, words)
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(readme), "## When consumers don't find your broker")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	require.Contains(t, section, words)
}

// diagnose runs a Loop that has the topic orders until condition holds for its
// first lookupd, and returns that one's status and the log.
func diagnose(t *testing.T, opts lookuploop.Options, condition func(lookuploop.LookupdStatus) bool) (lookuploop.LookupdStatus, string) {
	t.Helper()
	var log logBuffer
	opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
	changed := make(chan struct{}, 1)
	opts.OnStateChange = func(lookuploop.LookupdStatus) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	loop, stop := start(opts)
	defer func() { require.NoError(t, stop()) }()
	require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders")))
	for {
		if s := loop.Status().Lookupds[0]; condition(s) {
			return s, log.String()
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			require.Fail(t, "it didn't come to that", "%+v", loop.Status())
		}
	}
}

func hasError(s lookuploop.LookupdStatus) bool { return s.LastError != nil }

func TestDiagnosisBroadcastAddress(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	opts := brokerOptions(lookupd)
	opts.BroadcastAddress = "nobody.invalid"
	status, log := diagnose(t, opts, func(s lookuploop.LookupdStatus) bool { return s.State == lookuploop.Connected })
	require.NoError(t, status.LastError)
	requireSeen(t, log, "announced as")
	require.Contains(t, log, "nobody.invalid:4150")
}

func TestDiagnosisNoHTTPPort(t *testing.T) {
	opts := brokerOptions()
	opts.BroadcastHTTPPort = 0
	_, err := lookuploop.New(opts)
	requireSeen(t, err.Error(), "BroadcastHTTPPort 0: set it to 1..65535")
}

func TestDiagnosisRefusedName(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	lookupd.Do(lookupdtest.On("REGISTER orders", lookupdtest.Reject("E_BAD_TOPIC REGISTER topic name 'orders' is not valid")))
	status, log := diagnose(t, brokerOptions(lookupd), func(s lookuploop.LookupdStatus) bool { return len(s.Refused) > 0 && s.State == lookuploop.Connected })
	requireSeen(t, status.Refused[0].Error(), "REGISTER orders: E_BAD_TOPIC")
	requireSeen(t, log, "REGISTER orders: E_BAD_TOPIC")
}

func TestDiagnosisLookupdHangs(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	lookupd.Do(lookupdtest.Hang())
	status, log := diagnose(t, brokerOptions(lookupd), hasError)
	requireSeen(t, status.LastError.Error(), "no answer within 1s")
	requireSeen(t, log, "no answer within 1s")
}

func TestDiagnosisWrongAddress(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	lookupd.Close()
	status, log := diagnose(t, brokerOptions(lookupd), hasError)
	for _, words := range []string{"dial: ", "connection refused"} {
		requireSeen(t, status.LastError.Error(), words)
		requireSeen(t, log, words)
	}
}

func TestDiagnosisHTTPPort(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	opts := brokerOptions()
	opts.LookupdTCPAddresses = []string{lookupd.HTTPAddress}
	status, _ := diagnose(t, opts, hasError)
	requireSeen(t, status.LastError.Error(), "name nsqlookupd's TCP port (4160), not its HTTP port (4161)")
}

func TestDiagnosisUnresolvableName(t *testing.T) {
	opts := brokerOptions()
	opts.LookupdTCPAddresses = []string{"lookupd.test:4160"}
	opts.ResolveInterval = time.Hour
	opts.Resolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no DNS server")
	}}
	loop, stop := start(opts)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, loop.WaitRegistered(ctx, 0), context.DeadlineExceeded)
	requireSeen(t, loop.Status().Lookupds[0].ResolveError.Error(), "resolve: ")
	require.NoError(t, stop())
}

func TestDiagnosisAllLookupdsDown(t *testing.T) {
	opts := brokerOptions()
	opts.LookupdTCPAddresses = []string{"127.0.0.1:1", "127.0.0.1:2"}
	opts.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	loop, stop := start(opts)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err := loop.WaitRegistered(ctx, 1)
	requireSeen(t, err.Error(), "not registered: ")
	for _, s := range loop.Status().Lookupds {
		require.Contains(t, err.Error(), s.Address)
	}
	require.NoError(t, stop())
	requireSeen(t, loop.Status().Lookupds[0].State.String(), "disconnected")
}

func TestDiagnosisTombstone(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	defer stop()
	require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders")))
	require.NoError(t, loop.WaitRegistered(t.Context(), 0))
	order(t, lookupd, "/topic/tombstone?topic=orders&node=broker.example.com:4151")
	require.Contains(t, ask(t, lookupd, "/lookup?topic=orders"), `"producers":[]`)
	requireSeen(t, ask(t, lookupd, "/nodes"), `"tombstones":[true]`)
	require.NoError(t, loop.Status().Lookupds[0].LastError)
}

func TestDiagnosisDeletedAtLookupd(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	defer stop()
	require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders")))
	require.NoError(t, loop.WaitRegistered(t.Context(), 0))
	order(t, lookupd, "/topic/delete?topic=orders")
	requireSeen(t, ask(t, lookupd, "/lookup?topic=orders"), "TOPIC_NOT_FOUND")
	require.NoError(t, loop.Notify(lookuploop.TopicDeleted("orders"), lookuploop.TopicCreated("orders")))
	require.NoError(t, loop.WaitRegistered(t.Context(), 0))
	require.Len(t, lookupd.Producers("orders", ""), 1)
}

// oneShot keeps no connection, which would outlive the test.
var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func ask(t *testing.T, lookupd *lookupdtest.Server, path string) string {
	t.Helper()
	response, err := oneShot.Get("http://" + lookupd.HTTPAddress + path)
	require.NoError(t, err)
	return read(t, response)
}

func order(t *testing.T, lookupd *lookupdtest.Server, path string) {
	t.Helper()
	response, err := oneShot.Post("http://"+lookupd.HTTPAddress+path, "", nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)
	read(t, response)
}

func read(t *testing.T, response *http.Response) string {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}
