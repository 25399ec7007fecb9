package lookupdtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestServerKeepsItsAddressesAndNothingElse(t *testing.T) {
	s := NewServer()
	defer s.Close()
	tcp, http := s.TCPAddress, s.HTTPAddress
	c := dial(t, s)
	c.identify()
	c.do("REGISTER orders mail", "OK")
	require.Equal(t, []string{"orders"}, s.Topics())

	s.Stop()
	c.expectEnd()
	require.Empty(t, s.Topics())
	require.Zero(t, s.Connections())
	_, err := net.Dial("tcp", tcp)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	s.Stop() // does nothing

	s.Start()
	s.Start() // does nothing
	require.Equal(t, tcp, s.TCPAddress)
	require.Equal(t, http, s.HTTPAddress)
	require.Empty(t, s.Topics())
	dial(t, s).identify()
}

func TestServerListensWhereItIsTold(t *testing.T) {
	first := NewServer()
	tcp, http := first.TCPAddress, first.HTTPAddress
	first.Close()
	first.Close() // does nothing
	require.PanicsWithValue(t, "lookupdtest: Start after Close", first.Start)

	s := NewUnstartedServer()
	s.TCPAddress, s.HTTPAddress, s.Version = tcp, http, "9.9.9"
	s.Start()
	defer s.Close()
	require.Equal(t, tcp, s.TCPAddress)
	status, body := ask(t, s, "GET", "/info")
	require.Equal(t, 200, status)
	require.Equal(t, `{"version":"9.9.9"}`, body)

	for _, set := range []func(*Server){
		func(s *Server) { s.TCPAddress = "no address" },
		func(s *Server) { s.HTTPAddress = "no address" },
	} {
		s := NewUnstartedServer()
		set(s)
		require.Panics(t, s.Start)
		s.Close()
	}
}

func TestDefaults(t *testing.T) {
	hostname, err := os.Hostname()
	require.NoError(t, err)
	s := NewServer()
	defer s.Close()
	require.Equal(t, "127.0.0.1", s.BroadcastAddress)
	require.Equal(t, hostname, s.Hostname)
	require.Equal(t, "1.3.0", s.Version)
	require.Equal(t, 300*time.Second, s.InactiveProducerTimeout)
	require.Equal(t, 45*time.Second, s.TombstoneLifetime)

	s = NewNetwork().NewServer("lookupd.test:4160")
	defer s.Close()
	require.Equal(t, "lookupd.test:4160", s.TCPAddress)
	require.Equal(t, "lookupd.test:4161", s.HTTPAddress)
	require.Equal(t, "lookupd.test", s.BroadcastAddress)
	require.Equal(t, "lookupd.test", s.Hostname)
}

func TestCloseNeverStarted(t *testing.T) {
	NewUnstartedServer().Close()
}

func TestStopEndsWhatIsHeld(t *testing.T) {
	for name, order := range map[string]Order{
		"hang": Hang(), "half-open": HalfOpen(), "blackhole": Blackhole(), "delay": Delay(time.Hour), "drip": Drip(time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			s := NewServer()
			defer s.Close()
			s.Do(order)
			c := dial(t, s)
			c.send(magicIdentify("broker.test", 4150))
			eventually(t, s, func() bool { return s.Connections() == 1 })
			s.Stop()
			c.expectEnd()
		})
	}
}

func TestStopWaitsForHTTP(t *testing.T) {
	s := NewUnstartedServer()
	entered, left := make(chan struct{}), make(chan struct{})
	s.WrapHTTP = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(entered)
			<-r.Context().Done()
			close(left)
		})
	}
	s.Start()
	defer s.Close()
	answered := make(chan error, 1)
	go func() {
		_, err := httpClient(s).Get("http://" + s.HTTPAddress + "/topics")
		answered <- err
	}()
	<-entered
	s.Stop()
	select {
	case <-left:
	default:
		t.Error("Stop returned before the handler")
	}
	require.Error(t, <-answered)
}

func TestStartAndStopFromManyGoroutines(t *testing.T) {
	s := NewServer()
	defer s.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				s.Stop()
				s.Start()
			}
		})
		wg.Go(func() {
			for range 10 {
				if conn, err := net.Dial("tcp", s.TCPAddress); err == nil {
					conn.Close()
				}
				s.Topics()
				s.CloseConnections()
			}
		})
	}
	wg.Wait()
	s.Start()
	dial(t, s).identify()
}

func TestCloseConnections(t *testing.T) {
	s := NewServer()
	defer s.Close()
	a, b := dial(t, s), dial(t, s)
	a.identify()
	b.identify()
	a.do("REGISTER orders", "OK")
	require.Equal(t, []string{"broker.test:4150"}, s.Producers("orders", ""))
	s.CloseConnections()
	a.expectEnd()
	b.expectEnd()
	eventually(t, s, func() bool { return s.Connections() == 0 })
	require.Empty(t, s.Producers("orders", ""))
	require.Equal(t, []string{"orders"}, s.Topics())
	dial(t, s).identify()
}

func TestWait(t *testing.T) {
	s := NewServer()
	defer s.Close()
	c := dial(t, s)
	c.identify()

	asked := make(chan struct{}, 1000)
	done := make(chan error, 1)
	go func() {
		done <- s.Wait(t.Context(), func() bool {
			asked <- struct{}{}
			return len(s.Topics()) == 2
		})
	}()
	<-asked // at once
	c.do("REGISTER a", "OK")
	<-asked
	status, _ := ask(t, s, "POST", "/topic/create?topic=b")
	require.Equal(t, 200, status)
	require.NoError(t, <-done)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Wait(ended, func() bool { return true }))
	require.ErrorIs(t, s.Wait(ended, func() bool { return false }), context.Canceled)
}

// A change that comes while the condition is asked is not missed.
func TestWaitSaysWhatTheServerKnows(t *testing.T) {
	s := NewNetwork().NewServer("lookupd.test:4160")
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	never := func() bool { return false }
	says := func(what string) {
		t.Helper()
		err := s.Wait(ctx, never)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "lookupdtest: lookupd.test:4160: the condition that was waited for did not come true: "+
			"context canceled; the server "+what)
	}
	says("has connections: 0, standing orders: 0, registered: none")
	a, b := dial(t, s), dial(t, s)
	a.identify()
	b.identify()
	a.do("REGISTER orders mail", "OK")
	b.do("REGISTER orders", "OK")
	b.do("REGISTER news", "OK")
	b.do("UNREGISTER news", "OK")
	s.Do(On("REGISTER", Hang()))
	says("has connections: 2, standing orders: 1, registered: news by [none], " +
		"orders by [broker.test:4150, broker.test:4150], orders mail by [broker.test:4150]")
	for i := range 100 {
		s.database().create(fmt.Sprintf("topic-%03d", i), "")
	}
	require.ErrorContains(t, s.Wait(ctx, never), "topic-006 by [none] and 93 more")
	s.Stop()
	says("is stopped")
}

func TestServerLiteral(t *testing.T) {
	s := new(Server)
	for name, f := range map[string]func(){
		"Start": s.Start, "Stop": s.Stop, "Close": s.Close, "CloseConnections": s.CloseConnections,
		"Do":          func() { s.Do(Hang()) },
		"Connections": func() { s.Connections() },
		"Topics":      func() { s.Topics() },
		"Channels":    func() { s.Channels("orders") },
		"Producers":   func() { s.Producers("orders", "") },
		"Wait":        func() { s.Wait(t.Context(), func() bool { return true }) },
	} {
		require.PanicsWithValue(t, "lookupdtest: a Server literal: make it with NewServer, NewUnstartedServer or those of a Network", f, name)
	}
}

func TestWaitSeesWhatChangesMeanwhile(t *testing.T) {
	s := NewUnstartedServer()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	asked := 0
	require.NoError(t, s.Wait(ctx, func() bool {
		if asked++; asked == 1 {
			s.Do(Hang())
			return false
		}
		return true
	}))
	require.Equal(t, 2, asked)
}

// Each of these makes a condition true that someone waits for.
func TestWaitSeesEveryChange(t *testing.T) {
	s := NewServer()
	defer s.Close()
	wait := func(cond func() bool) (result chan error) {
		asked := make(chan struct{})
		ask := sync.OnceFunc(func() { close(asked) })
		result = make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		go func() {
			defer cancel()
			result <- s.Wait(ctx, func() bool {
				ok := cond()
				ask()
				return ok
			})
		}()
		<-asked
		return result
	}
	var mu sync.Mutex
	seen := make(map[string]int)
	lift := s.Do(Observe(func(c Command) {
		mu.Lock()
		defer mu.Unlock()
		seen[c.Name]++
	}))
	count := func(name string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[name]
	}

	connected := wait(func() bool { return s.Connections() == 1 })
	c := dial(t, s)
	require.NoError(t, <-connected)

	pinged := wait(func() bool { return count("PING") == 1 })
	c.identify()
	c.do("PING", "OK")
	require.NoError(t, <-pinged)
	lift()

	registered := wait(func() bool { return len(s.Producers("orders", "mail")) == 1 })
	c.do("REGISTER orders mail", "OK")
	require.NoError(t, <-registered)

	unregistered := wait(func() bool { return len(s.Producers("orders", "mail")) == 0 })
	c.do("UNREGISTER orders mail", "OK")
	require.NoError(t, <-unregistered)

	gone := wait(func() bool { return s.Connections() == 0 })
	c.Close()
	require.NoError(t, <-gone)

	stopped := wait(func() bool { return len(s.Topics()) == 0 })
	s.Stop()
	require.NoError(t, <-stopped)
}

func TestManyWaitersMissNothing(t *testing.T) {
	s := NewServer()
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for n := range 100 {
				err := s.Wait(ctx, func() bool { return len(s.Topics()) > n })
				if err != nil {
					t.Errorf("waiter %d: topic %d: %v", i, n, err)
					return
				}
			}
		})
	}
	c := dial(t, s)
	c.identify()
	for i := range 100 {
		c.do(fmt.Sprintf("REGISTER topic-%d", i), "OK")
	}
	wg.Wait()
}

func TestTLS(t *testing.T) {
	s := NewUnstartedServer()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
	s.Start()
	defer s.Close()
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, network, address)
	}
	c := dialWith(t, dial, s.TCPAddress)
	c.identify()
	c.do("REGISTER orders", "OK")
	require.Equal(t, []string{"orders"}, s.Topics())

	lift := s.Do(Hang())
	c.send("PING\n")
	eventually(t, s, func() bool { return s.Connections() == 1 })
	lift()
	c.expect("OK")

	s.Do(Once(CutSent(3)))
	c.send("PING\n")
	rest, _ := io.ReadAll(c.r)
	require.Equal(t, "\x00\x00\x00", string(rest))
	c.Close()
	eventually(t, s, func() bool { return s.Connections() == 0 })
}

// certificate returns one for TestTLS.
func certificate(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestInputIsBounded(t *testing.T) {
	s := NewServer()
	defer s.Close()
	for name, tt := range map[string]struct{ send, answer string }{
		"negative body":  {"  V1IDENTIFY\n\xff\xff\xff\xff", "E_BAD_BODY IDENTIFY body size -1 is not valid"},
		"huge body":      {"  V1IDENTIFY\n\x7f\xff\xff\xff", "E_BAD_BODY IDENTIFY body size 2147483647 is not valid"},
		"no end of line": {"  V1" + strings.Repeat("x", maxLine), "E_INVALID command too long"},
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, s)
			c.send(tt.send)
			c.expect(tt.answer)
			c.expectEnd()
		})
	}
}

func TestIdentifyCutShort(t *testing.T) {
	s := NewServer()
	defer s.Close()
	for _, tt := range []struct{ send, answer string }{
		{"  V1IDENTIFY\n\x00\x00", "E_BAD_BODY IDENTIFY failed to read body size"},
		{"  V1IDENTIFY\n\x00\x00\x00\x09{", "E_BAD_BODY IDENTIFY failed to read body"},
	} {
		c := dial(t, s)
		c.send(tt.send)
		require.NoError(t, c.Conn.(*net.TCPConn).CloseWrite())
		c.expect(tt.answer)
		c.expectEnd()
	}
}
