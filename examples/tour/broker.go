package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	"github.com/lookuploop/lookuploop/examples/internal/membroker"
)

// startBroker starts the broker at ports that are free. It returns when the broker
// serves, and has read nsqd.dat, and says where it listens.
func (t *tour) startBroker(ctx context.Context) (where string, err error) {
	opts := t.options
	opts.LookupdTCPAddresses = t.tcpAddresses()
	broker, err := membroker.New(opts)
	if err != nil {
		return "", err
	}
	running, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- broker.Run(running) }() // stopBroker waits for it
	t.broker = broker
	t.stopBroker = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	where = fmt.Sprintf("it listens at TCP %s, HTTP %s", broker.TCPAddress(), broker.HTTPAddress())
	return where, t.callBroker(ctx, http.MethodGet, "/ping", "")
}

// callBroker uses the broker's HTTP API.
func (t *tour) callBroker(ctx context.Context, method, path, body string) error {
	answer, status, err := request(ctx, method, t.broker.HTTPAddress()+path, body)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("broker: %s %s: status %d, %q", method, path, status, answer)
	}
	return err
}

// post makes the requests of the broker, as anyone may with curl, and prints them.
func (t *tour) post(ctx context.Context, paths ...string) {
	for _, path := range paths {
		t.check(ctx, "broker: POST "+path, func(ctx context.Context) error {
			return t.callBroker(ctx, http.MethodPost, path, "")
		})
	}
}

// setAddresses swaps the lookupds' addresses while the broker runs.
func (t *tour) setAddresses(ctx context.Context, addresses []string) error {
	body, err := json.Marshal(addresses)
	if err != nil {
		return err
	}
	return t.callBroker(ctx, http.MethodPut, "/config/nsqlookupd_tcp_addresses", string(body))
}
