package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// request sends one HTTP request and returns the answer's body.
func request(t *testing.T, method, url, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return string(text)
}

// start runs the broker with an nsqlookupd of its own and returns the URLs of
// both. stop ends it.
func start(t *testing.T, args ...string) (lookupd, broker string, stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"-tcp-address", "127.0.0.1:0", "-http-address", "127.0.0.1:0"}, args...), w)
	}()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })

	// It says where it listens: first the embedded lookupd, then the broker.
	out := bufio.NewReader(r)
	var urls []string
	for range 2 {
		line, err := out.ReadString('\n')
		require.NoError(t, err)
		urls = append(urls, regexp.MustCompile(`http://[0-9.:]+`).FindString(line))
	}
	return urls[0], urls[1], stop
}

func TestRun(t *testing.T) {
	lookupd, broker, stop := start(t, "-data-path", t.TempDir())
	require.Equal(t, "OK", request(t, "POST", broker+"/pub?topic=orders", "hello"))
	var found struct {
		Producers []struct {
			BroadcastAddress string `json:"broadcast_address"`
		} `json:"producers"`
	}
	require.Eventually(t, func() bool {
		return strings.Contains(request(t, "GET", lookupd+"/topics", ""), "orders")
	}, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, json.Unmarshal([]byte(request(t, "GET", lookupd+"/lookup?topic=orders", "")), &found))
	require.Len(t, found.Producers, 1)
	require.Equal(t, "127.0.0.1", found.Producers[0].BroadcastAddress)
	require.Equal(t, "ready\n", request(t, "GET", broker+"/ready", ""))
	require.Contains(t, request(t, "GET", broker+"/debug/lookuploop", ""), `"topics": 1`)
	require.Contains(t, request(t, "GET", broker+"/metrics", ""), "lookuploop_topics 1\n")

	require.Contains(t, request(t, "GET", broker+"/debug/lookuploop", ""), `"verification": null`)

	began := time.Now()
	require.NoError(t, stop())
	require.Less(t, time.Since(began), 2*time.Second)
}

// What an administrator deletes at the lookupd is found, shown and announced again.
func TestVerifyInterval(t *testing.T) {
	lookupd, broker, stop := start(t, "-verify-interval", "20ms")
	isListed := func() bool {
		return strings.Contains(request(t, "GET", lookupd+"/nodes", ""), "orders")
	}
	request(t, "POST", broker+"/topic/create?topic=orders", "")
	require.Eventually(t, isListed, 10*time.Second, 10*time.Millisecond)
	request(t, "POST", lookupd+"/topic/delete?topic=orders", "")
	require.Eventually(t, isListed, 10*time.Second, 10*time.Millisecond)
	require.Eventually(t, func() bool {
		return strings.Contains(request(t, "GET", broker+"/metrics", ""), "lookuploop_verification_announced_topics_total 1\n")
	}, 10*time.Second, 10*time.Millisecond)
	require.Contains(t, request(t, "GET", broker+"/debug/lookuploop", ""), `"announced": 1`)
	require.NoError(t, stop())
}

func TestFlags(t *testing.T) {
	opts, err := parseFlags([]string{
		"-lookupd-tcp-address", "a:4160", "--lookupd-tcp-address=b:4160", "-tcp-address", ":1", "-http-address", ":2",
		"-broadcast-address", "me", "-data-path", "/data", "-verify-interval", "10m", "-mem-queue-size", "5", "-max-connections", "6",
	})
	require.NoError(t, err)
	require.Equal(t, []string{"a:4160", "b:4160"}, opts.LookupdTCPAddresses)
	require.Equal(t, [5]any{":1", ":2", "me", "/data", 5}, [5]any{opts.TCPAddress, opts.HTTPAddress, opts.BroadcastAddress, opts.DataPath, opts.MemQueueSize})
	require.Equal(t, 10*time.Minute, opts.VerifyInterval)
	require.Equal(t, 6, opts.MaxConnections)
}

func TestBadFlagsAreErrors(t *testing.T) {
	for _, args := range [][]string{{"stray"}, {"-nonsense"}, {"-mem-queue-size", "many"}} {
		require.Error(t, run(t.Context(), args, io.Discard), args)
	}
	require.NoError(t, run(t.Context(), []string{"-help"}, io.Discard))
	_, err := parseFlags([]string{"-help"})
	require.ErrorIs(t, err, flag.ErrHelp)
	for _, args := range [][]string{{"-mem-queue-size", "-1"}, {"-verify-interval", "-1s"}, {"-max-connections", "-1"}, {"-tcp-address", "nowhere"}, {"-lookupd-tcp-address", "nowhere"}} {
		require.Error(t, run(t.Context(), append([]string{"-tcp-address", "127.0.0.1:0", "-http-address", "127.0.0.1:0"}, args...), io.Discard), args)
	}
}
