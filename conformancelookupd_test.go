package lookuploop_test

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// patience is how long a test waits for what is to happen; only a red test does.
const patience = 20 * time.Second

// lookupd is a running lookupd, seen through its HTTP API.
type lookupd struct {
	tcp, http string
	isProcess bool
	restart   func(t *testing.T) // at the same addresses, with nothing in it

	keepsEphemeralTopics bool // as nsqlookupd before 1.2.0
}

func startLookupdtest(t *testing.T) *lookupd { return startServer(t, lookupdtest.NewServer()) }

func startOldLookupdtest(t *testing.T) *lookupd {
	s := lookupdtest.NewUnstartedServer()
	s.KeepEphemeralTopics = true
	s.Start()
	return startServer(t, s)
}

func startServer(t *testing.T, s *lookupdtest.Server) *lookupd {
	t.Cleanup(s.Close)
	return &lookupd{tcp: s.TCPAddress, http: s.HTTPAddress, keepsEphemeralTopics: s.KeepEphemeralTopics, restart: func(*testing.T) {
		s.Stop()
		s.Start()
	}}
}

func startNSQLookupd(t *testing.T, binary string) *lookupd {
	l := &lookupd{tcp: freeAddress(t), http: freeAddress(t), isProcess: true}
	var process *exec.Cmd
	var output bytes.Buffer // written by one process after the other, read after the last
	begin := func(t *testing.T) {
		process = exec.Command(binary, "-tcp-address", l.tcp, "-http-address", l.http, "-broadcast-address", "127.0.0.1")
		process.Stderr = &output
		require.NoError(t, process.Start())
		eventually(t, func() bool {
			response, err := httpClient.Get("http://" + l.http + "/ping")
			if err == nil {
				response.Body.Close()
			}
			return err == nil
		})
	}
	kill := func() {
		process.Process.Kill()
		process.Wait()
	}
	begin(t)
	version := l.version(t)
	l.keepsEphemeralTopics = strings.HasPrefix(version, "1.0.") || strings.HasPrefix(version, "1.1.")
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	l.restart = func(t *testing.T) {
		kill()
		begin(t)
	}
	return l
}

// freeAddress returns an address on loopback where nobody listens.
func freeAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// httpClient keeps no connection for later.
var httpClient = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

// get asks the HTTP API, and decodes the answer into body.
func (l *lookupd) get(t *testing.T, path string, body any) {
	t.Helper()
	response, err := httpClient.Get("http://" + l.http + path)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode, path)
	require.NoError(t, json.NewDecoder(response.Body).Decode(body))
}

func (l *lookupd) post(t *testing.T, path string) {
	t.Helper()
	response, err := httpClient.Post("http://"+l.http+path, "", nil)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode, path)
}

func (l *lookupd) topics(t *testing.T) []string {
	var answer struct{ Topics []string }
	l.get(t, "/topics", &answer)
	return sorted(answer.Topics)
}

// requireTopics wants these names and, of the ephemeral ones that were there, those
// that an old lookupd keeps.
func (l *lookupd) requireTopics(t *testing.T, want []string, ephemeral ...string) {
	t.Helper()
	if l.keepsEphemeralTopics {
		want = append(want, ephemeral...)
	}
	require.ElementsMatch(t, want, l.topics(t), "names stay unless they are ephemeral")
}

func (l *lookupd) channels(t *testing.T, topic string) []string {
	var answer struct{ Channels []string }
	l.get(t, "/channels?topic="+escape(topic), &answer)
	return sorted(answer.Channels)
}

// producer is a broker as /lookup and /nodes show it.
type producer struct {
	BroadcastAddress string `json:"broadcast_address"`
	Hostname         string `json:"hostname"`
	TCPPort          int    `json:"tcp_port"`
	HTTPPort         int    `json:"http_port"`
	Version          string `json:"version"`
}

type lookupAnswer struct {
	Channels  []string
	Producers []producer
}

func (l *lookupd) lookup(t *testing.T, topic string) (answer lookupAnswer) {
	l.get(t, "/lookup?topic="+escape(topic), &answer)
	return answer
}

type node struct {
	producer
	Topics []string
}

func (l *lookupd) nodes(t *testing.T) []node {
	var answer struct{ Producers []node }
	l.get(t, "/nodes", &answer)
	return answer.Producers
}

// announced returns the topics that have a producer, whichever.
func (l *lookupd) announced(t *testing.T) (topics []string) {
	for _, n := range l.nodes(t) {
		topics = append(topics, n.Topics...)
	}
	return slices.Compact(sorted(topics))
}

// lastUpdate returns when lookupd saw the last sign of life of its only broker.
func (l *lookupd) lastUpdate(t *testing.T) time.Time {
	var answer map[string][]struct {
		LastUpdate int64 `json:"last_update"`
	}
	l.get(t, "/debug", &answer)
	require.Len(t, answer["client::"], 1)
	return time.Unix(0, answer["client::"][0].LastUpdate)
}

func (l *lookupd) version(t *testing.T) string {
	var answer struct{ Version string }
	l.get(t, "/info", &answer)
	return answer.Version
}

func escape(name string) string { return strings.ReplaceAll(name, "#", "%23") }

// sorted sorts names in place; without any it returns an empty list.
func sorted(names []string) []string {
	slices.Sort(names)
	return append([]string{}, names...)
}

// eventually asks until cond is true.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-pause.C {
		require.True(t, time.Now().Before(deadline), "it did not come true")
	}
}
