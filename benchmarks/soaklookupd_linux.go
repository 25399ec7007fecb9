package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// lookupdProcess is a lookupdtest in a process of its own, as the soak calls it.
type lookupdProcess struct {
	server *lookupdtest.Server
	lift   func()
}

func runSoakLookupd(tcp, http string) error {
	server := lookupdtest.NewUnstartedServer()
	server.TCPAddress, server.HTTPAddress = tcp, http
	server.Start()
	defer server.Close()
	return serve(&lookupdProcess{server: server})
}

// Do gives the lookupd one of soakOrders, by its index.
func (l *lookupdProcess) Do(order int, _ *struct{}) error {
	l.lift = l.server.Do(soakOrders[order].order)
	return nil
}

func (l *lookupdProcess) Lift(struct{}, *struct{}) error {
	l.lift()
	return nil
}

// soakOrders are what is wrong with a lookupdtest for some seconds.
var soakOrders = []struct {
	name    string
	refuses bool // names, which then wait for their next attempt
	order   lookupdtest.Order
}{
	{"hangs", false, lookupdtest.Hang()},
	{"is slow", false, lookupdtest.Delay(5 * time.Millisecond)},
	{"drips", false, lookupdtest.Drip(5 * time.Millisecond)},
	{"closes connections after 2000 bytes sent", false, lookupdtest.CutSent(2000)},
	{"closes connections after 5000 bytes received", false, lookupdtest.CutReceived(5000)},
	{"sends garbage", false, lookupdtest.Once(lookupdtest.Garbage(1, 100))},
	{"restarts", false, lookupdtest.Once(lookupdtest.After(10, lookupdtest.Restart()))},
	{"is half-open", false, lookupdtest.HalfOpen()},
	{"is in a black hole", false, lookupdtest.Blackhole()},
	{"closes new connections", false, lookupdtest.Hangup()},
	{"refuses connections", false, lookupdtest.Refuse()},
	{"refuses topics", true, lookupdtest.On("* *[05]", lookupdtest.BadTopic())},
	{"refuses channels", true, lookupdtest.On("* * *[05]", lookupdtest.BadChannel())},
	{"resets at topics", true, lookupdtest.On("REGISTER *3", lookupdtest.Reset())},
	{"closes at topics", true, lookupdtest.On("REGISTER *4", lookupdtest.Drop())},
	{"doesn't answer topics", true, lookupdtest.On("REGISTER *77*", lookupdtest.Raw(nil))},
}

// soakLookupd is a lookupd of a soak. One goroutine at a time uses it.
type soakLookupd struct {
	*process
	binary    string // of a real nsqlookupd; empty for a lookupdtest
	tcp, http string
	log       string
	history   history
	random    *rand.Rand
	refused   bool // names, since the last check
}

func (l *soakLookupd) start() (err error) {
	if l.binary == "" {
		l.process, err = startTask(l.log, "lookupd", l.tcp, l.http)
		return err
	}
	l.process, err = startProcess(exec.Command(l.binary, "-tcp-address", l.tcp, "-http-address", l.http,
		"-broadcast-address", "127.0.0.1", "-log-level", "warn"), l.log)
	return err
}

// soakFault is something that goes wrong with a lookupd, and ends.
type soakFault struct {
	name       string
	begin, end func() error
}

// faults are those that a lookupd has in one round. Names are refused once, because
// the pause before the next attempt doubles each time.
func (l *soakLookupd) faults() []soakFault {
	signal := func(s os.Signal) func() error { return func() error { return l.cmd.Process.Signal(s) } }
	faults := []soakFault{
		{"is down", func() error { l.kill(); return nil }, l.start},
		{"is stopped", signal(syscall.SIGSTOP), signal(syscall.SIGCONT)},
	}
	if l.binary != "" {
		return faults
	}
	hasRefused := false
	for _, i := range l.random.Perm(len(soakOrders)) {
		order := soakOrders[i]
		if order.refuses && hasRefused {
			continue
		}
		hasRefused = hasRefused || order.refuses
		faults = append(faults, soakFault{
			order.name,
			func() error { l.refused = l.refused || order.refuses; return l.call("Do", i, nil) },
			func() error { return l.call("Lift", struct{}{}, nil) },
		})
	}
	return faults
}

// suffer has one fault after another until ctx ends. Then none is left.
func (l *soakLookupd) suffer(ctx context.Context, mean time.Duration) error {
	faults := l.faults()
	for pause(ctx, l.random, mean) {
		fault := faults[l.random.IntN(len(faults))]
		l.history.add("lookupd %s %s", l.tcp, fault.name)
		err := fault.begin()
		pause(ctx, l.random, mean)
		if err = errors.Join(err, fault.end()); err != nil {
			return fmt.Errorf("lookupd %s %s: %w", l.tcp, fault.name, err)
		}
		l.history.add("lookupd %s works", l.tcp)
	}
	return nil
}

// listing is how often a lookupd lists each name for a broker, by the broker's
// address. A name is "topic" or "topic channel".
type listing map[string]map[string]int

// list asks the lookupd what it lists.
func (l *soakLookupd) list() (listing, error) {
	response, err := soakClient.Get("http://" + l.http + "/debug")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var producers map[string][]struct { // by "category:topic:channel"
		BroadcastAddress string `json:"broadcast_address"`
		TCPPort          int    `json:"tcp_port"`
	}
	if err := json.NewDecoder(response.Body).Decode(&producers); err != nil {
		return nil, fmt.Errorf("lookupd %s: /debug: %w", l.http, err)
	}
	listed := make(listing)
	for key, all := range producers {
		category, name, _ := strings.Cut(key, ":")
		if category == "client" {
			continue
		}
		for _, p := range all {
			broker := fmt.Sprintf("%s:%d", p.BroadcastAddress, p.TCPPort)
			if listed[broker] == nil {
				listed[broker] = make(map[string]int)
			}
			listed[broker][strings.TrimSpace(strings.Replace(name, ":", " ", 1))]++
		}
	}
	return listed, nil
}

var soakClient = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
