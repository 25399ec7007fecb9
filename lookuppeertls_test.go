package lookuploop_test

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

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
