package lookuploop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

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
