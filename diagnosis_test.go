package lookuploop_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
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
	requireSeen(t, log, "announced_as")
	require.Contains(t, log, "nobody.invalid:4150")
}

func TestDiagnosisNoHTTPPort(t *testing.T) {
	opts := brokerOptions()
	opts.LookupdTCPAddresses, opts.BroadcastHTTPPort = []string{"lookupd.test:4160"}, 0
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
	t.Parallel() // it waits for a lookupd that doesn't answer
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

// serve answers each connection with the same bytes, once it has read something,
// and returns its address.
func serve(t *testing.T, answer string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 4))
			io.WriteString(conn, answer)
			conn.Close()
		}
	}()
	return listener.Addr().String()
}

func TestDiagnosisAnotherServer(t *testing.T) {
	certificate, _ := selfSigned("lookupd.test")
	secure := lookupdtest.NewUnstartedServer()
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	secure.Start()
	defer secure.Close()
	plain := lookupdtest.NewServer()
	defer plain.Close()
	for _, tt := range []struct {
		address string
		dial    func(context.Context, string, string) (net.Conn, error)
		words   []string
	}{
		{serve(t, "\x00\x00\x00\x12\x00\x00\x00\x01E_BAD_PROTOCOL"), nil, []string{"this is no nsqlookupd: ", "an nsqd answered"}},
		{serve(t, "\x15\x03\x01\x00\x02\x02\x46"), nil, []string{"this is no nsqlookupd: ", "a TLS server answered"}},
		{secure.TCPAddress, nil, []string{"EOF (is this nsqlookupd's TCP port, and without TLS?)"}},
		{plain.TCPAddress, new(tls.Dialer).DialContext, []string{"the server doesn't speak TLS at this port"}},
		{"127.0.0.1:4161", func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") },
			[]string{"4161 is the port of nsqlookupd for HTTP by default, that of nsqlookupd for TCP is 4160"}},
	} {
		opts := brokerOptions()
		opts.LookupdTCPAddresses, opts.Dial = []string{tt.address}, tt.dial
		status, log := diagnose(t, opts, hasError)
		for _, words := range tt.words {
			requireSeen(t, status.LastError.Error(), words)
			require.Contains(t, log, words)
		}
	}
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

// selfSigned makes a certificate for a host, and the pool that trusts it.
func selfSigned(host string) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{host},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// hosts is a Resolver that knows one IP address for each name.
type hosts map[string]string

func (h hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	ip, err := netip.ParseAddr(h[host])
	return []netip.Addr{ip}, err
}

func (h hosts) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, errors.New("no such service")
}

func portOf(lookupd *lookupdtest.Server) string {
	_, port, err := net.SplitHostPort(lookupd.TCPAddress)
	if err != nil {
		panic(err)
	}
	return port
}

// Each lookupd must have a certificate for the name that was configured for it,
// although all are dialed by IP address.
func TestEachNameHasItsOwnCertificate(t *testing.T) {
	known := hosts{"a.test": "127.0.0.1", "b.test": "127.0.0.1", "c.test": "127.0.0.1"}
	roots := make(map[string]*x509.CertPool)
	opts := brokerOptions()
	opts.ResolveInterval, opts.Resolver = time.Minute, known
	for _, name := range []string{"a.test", "b.test", "c.test"} {
		of := name
		if name == "c.test" {
			of = "other.test"
		}
		certificate, pool := selfSigned(of)
		lookupd := lookupdtest.NewUnstartedServer()
		lookupd.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
		lookupd.Start()
		defer lookupd.Close()
		roots[name] = pool
		opts.LookupdTCPAddresses = append(opts.LookupdTCPAddresses, net.JoinHostPort(name, portOf(lookupd)))
	}
	opts.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		name, _, err := net.SplitHostPort(lookuploop.ConfiguredAddress(ctx))
		if err != nil {
			return nil, err
		}
		return (&tls.Dialer{Config: &tls.Config{RootCAs: roots[name], ServerName: name}}).DialContext(ctx, network, address)
	}
	failed := make(chan string, 1)
	opts.OnStateChange = func(s lookuploop.LookupdStatus) {
		if s.LastError != nil {
			select {
			case failed <- fmt.Sprint(s.Names, s.LastError):
			default: // there is one
			}
		}
	}
	loop, stop := start(opts)
	require.NoError(t, loop.WaitRegistered(t.Context(), 2))
	text := <-failed
	require.Contains(t, text, "[c.test:")
	require.Contains(t, text, "certificate is valid for other.test, not c.test")
	require.NoError(t, stop())
}

func TestAWrongCertificateIsNamedInStatus(t *testing.T) {
	certificate, roots := selfSigned("lookupd.example.com")
	lookupd := lookupdtest.NewUnstartedServer()
	lookupd.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	lookupd.Start()
	defer lookupd.Close()

	opts := brokerOptions(lookupd)
	opts.Dial = (&tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "other.example.com"}}).DialContext
	loop, stop := start(opts)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := loop.WaitRegistered(ctx, 0)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "certificate is valid for lookupd.example.com, not other.example.com")
	require.NoError(t, stop())
	last := loop.Status().Lookupds[0].LastError
	var invalid x509.HostnameError
	require.ErrorAs(t, last, &invalid)
	require.ErrorContains(t, last, lookupd.TCPAddress+": dial: ")
}

func TestLookupdBehindTLS(t *testing.T) {
	certificate, trusted := selfSigned("lookupd.test")
	_, others := selfSigned("lookupd.test")
	for name, tt := range map[string]struct {
		config *tls.Config
		want   string // LastError; empty: none
	}{
		"certificate that is trusted": {&tls.Config{RootCAs: trusted, ServerName: "lookupd.test"}, ""},
		"certificate of a stranger":   {&tls.Config{RootCAs: others, ServerName: "lookupd.test"}, "dial: tls: failed to verify certificate: x509: certificate signed by unknown authority"},
		"certificate of another host": {&tls.Config{RootCAs: trusted, ServerName: "other.test"}, "dial: tls: failed to verify certificate: x509: certificate is valid for lookupd.test, not other.test"},
		"no TLS here":                 {nil, "IDENTIFY: "},
	} {
		t.Run(name, func(t *testing.T) {
			lookupd := lookupdtest.NewUnstartedServer()
			lookupd.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
			lookupd.Start()
			defer lookupd.Close()

			failed := make(chan lookuploop.LookupdStatus, 1)
			opts := brokerOptions(lookupd)
			if tt.config != nil {
				opts.Dial = (&tls.Dialer{Config: tt.config}).DialContext
			}
			opts.OnStateChange = func(status lookuploop.LookupdStatus) {
				if status.State == lookuploop.Disconnected {
					select {
					case failed <- status:
					default: // there is one
					}
				}
			}
			loop, stop := start(opts)
			require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.TopicCreated("live#ephemeral")))

			if tt.want == "" {
				require.NoError(t, loop.WaitRegistered(t.Context(), 1))
				require.Equal(t, []string{"live#ephemeral", "orders"}, lookupd.Topics())
				lookupd.CloseConnections()
				require.NoError(t, lookupd.Wait(t.Context(), func() bool { return loop.Status().Lookupds[0].Connects == 2 }))
				require.NoError(t, loop.WaitRegistered(t.Context(), 1))
			} else {
				require.ErrorContains(t, (<-failed).LastError, "lookuploop: "+lookupd.TCPAddress+": "+tt.want)
			}
			require.NoError(t, stop())
			require.NoError(t, lookupd.Wait(t.Context(), func() bool { return lookupd.Connections() == 0 }))
			if tt.want == "" {
				require.Equal(t, []string{"orders"}, lookupd.Topics())
			}
		})
	}
}
