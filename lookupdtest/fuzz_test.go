package lookupdtest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

// scripted is a connection whose client sent everything already.
type scripted struct {
	net.Conn
	io.Reader
	sent bytes.Buffer
}

func (c *scripted) Read(p []byte) (int, error)  { return c.Reader.Read(p) }
func (c *scripted) Write(p []byte) (int, error) { return c.sent.Write(p) }
func (c *scripted) RemoteAddr() net.Addr        { return name("client.test:1") }
func (c *scripted) Close() error                { return nil }

func recorded(f *testing.F) (r recording) {
	data, err := os.ReadFile("testdata/nsqlookupd-1.3.0.json")
	require.NoError(f, err)
	require.NoError(f, json.Unmarshal(data, &r))
	return r
}

// Whatever a client sends, it gets responses, an error as the last if any; nothing but
// valid names reaches the database; and nothing of the client is left there.
func FuzzCommands(f *testing.F) {
	for _, conv := range recorded(f).Conversations {
		var all string
		for _, step := range conv.Steps {
			send, err := strconv.Unquote(step.Send)
			require.NoError(f, err)
			all += send
		}
		f.Add([]byte(all))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		s := NewUnstartedServer()
		s.setDefaults()
		raw := &scripted{Reader: bytes.NewReader(input)}
		newConn(s, s.db, raw).serve()

		r := &raw.sent
		var last string
		for r.Len() > 0 {
			require.False(t, strings.HasPrefix(last, "E_"), "%q was not the last answer", last)
			size := r.Next(4)
			require.Len(t, size, 4)
			body := r.Next(int(binary.BigEndian.Uint32(size)))
			require.Len(t, body, int(binary.BigEndian.Uint32(size)))
			last = string(body)
			require.True(t, last == "OK" || last == s.identity() || strings.HasPrefix(last, "E_"), last)
		}
		checkDatabase(t, s.db)
		require.Empty(t, s.db.peers.producers)
	})
}

// Whatever is asked by HTTP, the answer is one of nsqlookupd's kind, and nothing but
// valid names reaches the database.
func FuzzHTTP(f *testing.F) {
	for _, r := range recorded(f).HTTP {
		u, err := url.Parse(r.Path)
		require.NoError(f, err)
		f.Add(r.Method, u.Path, u.RawQuery)
	}
	f.Fuzz(func(t *testing.T, method, path, query string) {
		s := NewUnstartedServer()
		s.setDefaults()
		p, refusal := s.db.identify("client.test:1", []byte(`{"broadcast_address":"b","tcp_port":1,"http_port":1,"version":"1"}`))
		require.Empty(t, refusal)
		s.db.register(p, "orders", "mail")

		w := httptest.NewRecorder()
		s.serveHTTP(w, &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}})
		switch w.Code {
		case http.StatusOK:
		case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed:
			var fault struct{ Message string }
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &fault))
			require.NotEmpty(t, fault.Message)
		default:
			t.Fatalf("status %d", w.Code)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
			require.True(t, json.Valid(w.Body.Bytes()), w.Body)
		}
		checkDatabase(t, s.db)
	})
}

// checkDatabase holds the parts of a database against each other.
func checkDatabase(t *testing.T, db *database) {
	t.Helper()
	check := func(r *registration) {
		for i, p := range r.producers {
			require.Equal(t, i, p.place)
			require.Same(t, p, p.peer.registered[r])
		}
	}
	check(&db.peers)
	registrations := map[*registration]bool{&db.peers: true}
	for topic, r := range db.topics {
		require.True(t, nsq.IsValidTopicName(topic), topic)
		require.Equal(t, topic, r.topic)
		require.Empty(t, r.channel)
		registrations[r] = true
		check(r)
	}
	for topic, channels := range db.channels {
		require.NotEmpty(t, channels)
		for channel, r := range channels {
			require.True(t, nsq.IsValidTopicName(topic), topic)
			require.True(t, nsq.IsValidChannelName(channel), channel)
			require.Equal(t, []string{topic, channel}, []string{r.topic, r.channel})
			registrations[r] = true
			check(r)
		}
	}
	for _, client := range db.peers.producers {
		for r := range client.peer.registered {
			require.True(t, registrations[r], "a peer is left under a registration that was deleted")
		}
	}
}
