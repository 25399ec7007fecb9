package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for a process; only a red test does.
const patience = 20 * time.Second

// realPair is a real nsqlookupd with a real nsqd.
type realPair struct {
	t                   *testing.T
	lookupd, nsqd       string // HTTP addresses
	lookupdTCP, nsqdTCP string
}

// startRealPair starts the binaries that NSQLOOKUPD and NSQD name.
func startRealPair(t *testing.T) *realPair {
	lookupd, nsqd := os.Getenv("NSQLOOKUPD"), os.Getenv("NSQD")
	if lookupd == "" || nsqd == "" {
		t.Skip("set NSQLOOKUPD and NSQD to run it against real ones")
	}
	p := &realPair{t: t, lookupd: freeAddress(t), nsqd: freeAddress(t), lookupdTCP: freeAddress(t), nsqdTCP: freeAddress(t)}
	p.start(lookupd, p.lookupd, "-tcp-address", p.lookupdTCP, "-http-address", p.lookupd)
	p.startNSQD(p.nsqdTCP, p.nsqd)
	for _, path := range []string{"/topic/create?topic=orders", "/topic/create?topic=invoices", "/channel/create?topic=orders&channel=mail"} {
		p.post(p.nsqd, path)
	}
	p.eventually(func() bool {
		return strings.Contains(p.get("/lookup?topic=orders"), `["mail"]`) && strings.Contains(p.get("/lookup?topic=invoices"), `"tcp_port"`)
	})
	return p
}

// startNSQD starts an nsqd that announces another port than its HTTP port, if more
// says so.
func (p *realPair) startNSQD(tcp, http string, more ...string) {
	p.start(os.Getenv("NSQD"), http, append([]string{"-data-path", p.t.TempDir(), "-tcp-address", tcp, "-http-address", http,
		"-broadcast-address", "127.0.0.1", "-lookupd-tcp-address", p.lookupdTCP}, more...)...)
}

// start starts a process that serves HTTP, and ends it with the test.
func (p *realPair) start(binary, http string, args ...string) {
	p.t.Helper()
	process := exec.Command(binary, args...)
	var log bytes.Buffer
	process.Stderr = &log
	require.NoError(p.t, process.Start())
	p.t.Cleanup(func() {
		process.Process.Kill()
		process.Wait()
		if p.t.Failed() {
			p.t.Log(log.String())
		}
	})
	p.eventually(func() bool {
		conn, err := net.Dial("tcp", http)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func freeAddress(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

var realClient = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}

func (p *realPair) post(address, path string) {
	p.t.Helper()
	response, err := realClient.Post("http://"+address+path, "", nil)
	require.NoError(p.t, err)
	response.Body.Close()
	require.Equal(p.t, http.StatusOK, response.StatusCode, path)
}

// get asks the lookupd.
func (p *realPair) get(path string) string {
	p.t.Helper()
	response, err := realClient.Get("http://" + p.lookupd + path)
	require.NoError(p.t, err)
	defer response.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(response.Body)
	require.NoError(p.t, err)
	return body.String()
}

func (p *realPair) eventually(cond func() bool) {
	p.t.Helper()
	pause := time.NewTicker(10 * time.Millisecond)
	defer pause.Stop()
	for deadline := time.Now().Add(patience); !cond(); <-pause.C {
		require.True(p.t, time.Now().Before(deadline), "it did not come true")
	}
}

// check runs lookupcheck and returns "kind topic/channel" of each finding.
func (p *realPair) check(status int) (found []string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	var stdout, stderr bytes.Buffer
	args := []string{"-json", "-lookupd-http-address", p.lookupd, "-nsqd-http-address", p.nsqd}
	require.Equal(p.t, status, run(ctx, args, new(net.Dialer).DialContext, output{&stdout, false}, output{&stderr, false}),
		"%s%s", &stdout, &stderr)
	var r report
	require.NoError(p.t, json.Unmarshal(stdout.Bytes(), &r))
	for _, f := range r.Findings {
		found = append(found, strings.TrimRight(fmt.Sprintf("%s %s/%s", f.Kind, f.Topic, f.Channel), " /"))
	}
	return found
}

func TestRealHealthyPairIsWell(t *testing.T) {
	p := startRealPair(t)
	require.Empty(t, p.check(exitWell))
	p.startNSQD(freeAddress(t), freeAddress(t)) // another one on this machine
	p.eventually(func() bool { return strings.Count(p.get("/nodes"), `"hostname"`) == 2 })
	require.Empty(t, p.check(exitWell))
}

func TestRealPairIsCheckedAgainstEachOther(t *testing.T) {
	p := startRealPair(t)
	_, port, _ := net.SplitHostPort(p.nsqd)
	p.post(p.lookupd, "/topic/tombstone?topic=orders&node=127.0.0.1:"+port)
	p.post(p.lookupd, "/topic/delete?topic=invoices")
	require.Equal(t, []string{"not listed invoices", "tombstoned orders"}, p.check(exitWrong))
}

func TestRealChannelThatWasDeletedAtTheLookupdIsFound(t *testing.T) {
	p := startRealPair(t)
	p.post(p.lookupd, "/channel/delete?topic=orders&channel=mail")
	require.Equal(t, []string{"channel missing orders/mail"}, p.check(exitWrong))
}

// nsqd announces ports of its own choice since 1.2.1, which its /info doesn't tell.
func TestRealTwoBrokersAtOneAddressAreFound(t *testing.T) {
	p := startRealPair(t)
	_, port, _ := net.SplitHostPort(p.nsqdTCP)
	p.nsqd = freeAddress(t)
	if exec.Command(os.Getenv("NSQD"), "-broadcast-tcp-port", port, "-version").Run() != nil {
		t.Skip("this nsqd announces the port where it listens")
	}
	p.startNSQD(freeAddress(t), p.nsqd, "-broadcast-tcp-port", port)
	p.eventually(func() bool { return strings.Count(p.get("/nodes"), `"hostname"`) == 2 })
	require.Equal(t, []string{"address shared"}, p.check(exitWrong))
}
