package lookuploop_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
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
