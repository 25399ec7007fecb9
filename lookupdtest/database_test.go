package lookupdtest

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestInactiveProducersAreHidden(t *testing.T) {
	withClient(t, func(t *testing.T, s *Server, c *client) {
		c.do("REGISTER orders", "OK")
		shown := func() bool {
			_, lookup := ask(t, s, "GET", "/lookup?topic=orders")
			_, nodes := ask(t, s, "GET", "/nodes")
			require.Equal(t, strings.Contains(lookup, "broker.test"), strings.Contains(nodes, "broker.test"))
			return strings.Contains(lookup, "broker.test")
		}
		time.Sleep(300 * time.Second)
		require.True(t, shown())
		time.Sleep(time.Second)
		require.False(t, shown())
		require.Equal(t, []string{"broker.test:4150"}, s.Producers("orders", ""))
		c.do("REGISTER orders", "OK") // doesn't help
		require.False(t, shown())
		c.do("PING", "OK")
		require.True(t, shown())
	})
}

func TestTombstonesLast45Seconds(t *testing.T) {
	withClient(t, func(t *testing.T, s *Server, c *client) {
		c.do("REGISTER orders", "OK")
		shown := func() bool {
			_, body := ask(t, s, "GET", "/lookup?topic=orders")
			return strings.Contains(body, "broker.test")
		}
		status, _ := ask(t, s, "POST", "/topic/tombstone?topic=orders&node=broker.test:4151")
		require.Equal(t, 200, status)
		require.False(t, shown())
		time.Sleep(45*time.Second - 1)
		c.do("REGISTER orders", "OK") // doesn't help
		require.False(t, shown())
		time.Sleep(1)
		require.True(t, shown())
	})
}

func TestProducersAreConnections(t *testing.T) {
	s := NewServer()
	defer s.Close()
	a, b, other := dial(t, s), dial(t, s), dial(t, s)
	a.identify()
	b.identify()
	other.send(magicIdentify("another.test", 5150))
	_, err := other.response()
	require.NoError(t, err)
	for _, c := range []*client{a, b, other} {
		c.do("REGISTER orders mail", "OK")
		c.do("REGISTER orders mail", "OK") // again changes nothing
	}
	want := []string{"another.test:5150", "broker.test:4150", "broker.test:4150"}
	require.Equal(t, want, s.Producers("orders", ""))
	require.Equal(t, want, s.Producers("orders", "mail"))
	require.Equal(t, []string{"mail"}, s.Channels("orders"))

	a.do("UNREGISTER orders", "OK") // and from its channels
	require.Equal(t, want[:2], s.Producers("orders", ""))
	require.Equal(t, want[:2], s.Producers("orders", "mail"))
	other.do("UNREGISTER orders mail", "OK") // not from the topic
	require.Equal(t, want[:2], s.Producers("orders", ""))
	require.Equal(t, want[1:2], s.Producers("orders", "mail"))
	b.Close()
	eventually(t, s, func() bool { return s.Connections() == 2 })
	require.Equal(t, want[:1], s.Producers("orders", ""))
	require.Empty(t, s.Producers("orders", "mail"))
	require.Equal(t, []string{"mail"}, s.Channels("orders"), "keys stay")
	require.Empty(t, s.Producers("none", ""))
	require.Empty(t, s.Producers("none", "none"))
}

func TestEphemeralsGoOnlyWhenUnregistered(t *testing.T) {
	s := NewServer()
	defer s.Close()
	a, b := dial(t, s), dial(t, s)
	a.identify()
	b.identify()
	a.do("REGISTER t#ephemeral c#ephemeral", "OK")
	b.do("REGISTER t#ephemeral c#ephemeral", "OK")
	a.do("UNREGISTER t#ephemeral c#ephemeral", "OK")
	require.Equal(t, []string{"c#ephemeral"}, s.Channels("t#ephemeral"), "b is left")
	b.do("UNREGISTER t#ephemeral c#ephemeral", "OK")
	require.Empty(t, s.Channels("t#ephemeral"))

	a.do("REGISTER t#ephemeral c#ephemeral", "OK")
	a.do("UNREGISTER t#ephemeral", "OK")
	require.Equal(t, []string{"t#ephemeral"}, s.Topics(), "b is left")
	b.do("UNREGISTER t#ephemeral", "OK")
	require.Empty(t, s.Topics())
	require.Equal(t, []string{"c#ephemeral"}, s.Channels("t#ephemeral"), "a topic's end leaves the keys of its channels")

	a.do("REGISTER gone#ephemeral", "OK")
	a.Close()
	eventually(t, s, func() bool { return s.Connections() == 1 })
	require.Equal(t, []string{"gone#ephemeral"}, s.Topics())
}

func TestDeletedByHTTPWhileRegistered(t *testing.T) {
	s := NewServer()
	defer s.Close()
	c := dial(t, s)
	c.identify()
	c.do("REGISTER orders mail", "OK")
	c.do("REGISTER orders audit", "OK")
	status, _ := ask(t, s, "POST", "/channel/delete?topic=orders&channel=mail")
	require.Equal(t, 200, status)
	require.Equal(t, []string{"audit"}, s.Channels("orders"))
	c.do("UNREGISTER orders mail", "OK")
	status, _ = ask(t, s, "POST", "/topic/delete?topic=orders")
	require.Equal(t, 200, status)
	require.Empty(t, s.Topics())
	require.Empty(t, s.Channels("orders"))
	c.do("UNREGISTER orders", "OK")
	require.Empty(t, s.Topics())
	c.do("REGISTER orders mail", "OK")
	require.Equal(t, []string{"broker.test:4150"}, s.Producers("orders", "mail"))
}

// nsqlookupd finds by pattern, and HTTP lets the pattern in. A producer comes once.
func TestStarIsAllTopics(t *testing.T) {
	s := NewServer()
	defer s.Close()
	c := dial(t, s)
	c.identify()
	c.do("REGISTER a", "OK")
	c.do("REGISTER b", "OK")
	_, body := ask(t, s, "GET", "/lookup?topic=*")
	require.Equal(t, 1, strings.Count(body, "broker.test"))
}

// TestManyUseAServerAtOnce is for the race detector.
func TestManyUseAServerAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, n *Network) {
		s := n.NewServer("lookupd.test:4160")
		defer s.Close()
		get := func(method, path string) func() {
			return func() {
				req, _ := http.NewRequestWithContext(t.Context(), method, "http://"+s.HTTPAddress+path, nil)
				if resp, err := n.Client().Do(req); err == nil { // it may be stopped
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}
		}
		talk := func() {
			conn, err := n.Dial(t.Context(), "tcp", s.TCPAddress)
			if err != nil {
				return
			}
			defer conn.Close()
			io.WriteString(conn, magicIdentify("broker.test", 4150)+"REGISTER orders mail\nREGISTER live#ephemeral\nUNREGISTER live#ephemeral\nUNREGISTER orders mail\nPING\n")
			c := newClient(t, conn)
			for range 6 {
				c.response()
				runtime.Gosched()
			}
		}
		rough := [][]func(){
			{func() { defer s.Do(On("PING", Restart()))(); talk() }},
			{func() { s.Do(On("REGISTER", Once(Reset())))() }, s.CloseConnections, func() { n.Reset(s.TCPAddress) }},
			{s.Stop, s.Start},
		}
		calm := [][]func(){
			{talk},
			{get("GET", "/lookup?topic=orders"), get("GET", "/nodes"), get("GET", "/topics"), get("GET", "/channels?topic=orders"), get("GET", "/debug")},
			{get("POST", "/topic/create?topic=made"), get("POST", "/channel/create?topic=made&channel=mail"), get("POST", "/topic/tombstone?topic=orders&node=broker.test:4151")},
			{get("POST", "/channel/delete?topic=made&channel=mail"), get("POST", "/topic/delete?topic=made")},
			{func() { s.Topics() }, func() { s.Channels("orders") }, func() { s.Producers("orders", "mail") }, func() { s.Connections() }, func() { s.summary() }},
			{func() { n.Partition(s.HTTPAddress)() }, func() { n.SetHosts("other.test", "10.0.0.1") }, func() { n.SetSRV("srv.test", s.TCPAddress) }},
			{func() { n.LookupHost(t.Context(), "other.test") }, func() { n.LookupSRV(t.Context(), "", "", "srv.test") }, func() { n.NewServer(fmt.Sprintf("lookupd%p.test:4160", new(int))).Close() }},
		}
		for _, callers := range [][][]func(){calm, append(rough, calm...)} {
			var all sync.WaitGroup
			for _, calls := range append(callers, callers...) {
				all.Go(func() {
					for range 20 {
						for _, call := range calls {
							call()
							runtime.Gosched()
						}
					}
				})
			}
			all.Wait()
		}
		s.Start()
		s.CloseConnections()
		eventually(t, s, func() bool { return s.Connections() == 0 && len(s.Producers("orders", "")) == 0 })
	})
}
