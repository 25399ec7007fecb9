package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRunRegistersADirectory(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "orders"), []byte("mail\n"), 0o600))

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{
			"-dir", dir, "-interval", "10ms", "-lookupd-tcp-address", lookupd.TCPAddress,
			"-broadcast-address", "broker.test", "-broadcast-tcp-port", "5150", "-broadcast-http-port", "5151",
		}, io.Discard)
	}()
	require.NoError(t, lookupd.Wait(ctx, func() bool { return len(lookupd.Producers("orders", "mail")) == 1 }))
	require.Equal(t, []string{"broker.test:5150"}, lookupd.Producers("orders", "mail"))

	require.NoError(t, os.Remove(filepath.Join(dir, "orders")))
	require.NoError(t, lookupd.Wait(ctx, func() bool { return len(lookupd.Producers("orders", "")) == 0 }))
	require.Equal(t, 1, lookupd.Connections())

	cancel()
	require.NoError(t, <-ended)
}

func TestRunStartsALookupdAndSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"-dir", t.TempDir()}, w)
		w.Close()
	}()
	out := bufio.NewReader(r)
	line, err := out.ReadString('\n')
	require.NoError(t, err)
	require.Regexp(t, `^no -lookupd-tcp-address: started an nsqlookupd in memory, see http://127\.0\.0\.1:\d+/debug\n$`, line)
	line, err = out.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, `msg="lookupd connected"`)
	cancel()
	_, err = io.Copy(io.Discard, out)
	require.NoError(t, err)
	require.NoError(t, <-ended)
}

func TestBadFlagsAreErrors(t *testing.T) {
	for want, args := range map[string][]string{
		"-dir is missing":               nil,
		"unexpected argument \"stray\"": {"-dir", "d", "stray"},
		"-interval 0s":                  {"-dir", "d", "-interval", "0"},
		"BroadcastTCPPort 0":            {"-dir", "d", "-broadcast-tcp-port", "0"},
		"lookupd address \"nowhere\"":   {"-dir", "d", "-lookupd-tcp-address", "nowhere"},
		"not defined: -nonsense":        {"-nonsense"},
	} {
		require.ErrorContains(t, run(t.Context(), args, io.Discard), want)
	}
	require.NoError(t, run(t.Context(), []string{"-help"}, io.Discard))
}
