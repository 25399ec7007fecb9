// Command broker is an NSQ broker in memory that NSQ's own tools can use: any
// NSQ client publishes and consumes, nsqlookupd and nsqadmin find it.
//
//	go -C examples/broker run .
//
// Without -lookupd-tcp-address it starts an nsqlookupd of its own, in memory
// too. It runs until Ctrl-C or SIGTERM. Messages are lost when it ends; with
// -data-path it finds its topics and channels again.
//
// Its HTTP API has nsqd's paths, and three more: /debug/lookuploop shows how
// things stand with each lookupd, in a browser too, /metrics shows it to
// Prometheus, and /ready answers 503 until all of them (with ?n=2: two) know
// everything that the broker has.
//
// With -verify-interval it asks the lookupds at that pace what they show of it,
// and announces again what they lost. The findings are in the log, at
// /debug/lookuploop and in /metrics.
//
// It is a module of its own, because the library's doesn't depend on Prometheus.
// Run it from a clone of the repository: go install refuses a module with replace
// directives.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/lookuploop/lookuploop/examples/internal/membroker"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/lookuploop/lookuploop/lookupprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
}

// run is main without the process: it serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	opts, err := parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil // the usage has been printed
	}
	if err != nil {
		return err
	}
	if len(opts.LookupdTCPAddresses) == 0 {
		lookupd := lookupdtest.NewServer()
		defer lookupd.Close()
		opts.LookupdTCPAddresses = []string{lookupd.TCPAddress}
		fmt.Fprintf(out, "nsqlookupd in memory: TCP %s, HTTP http://%s\n", lookupd.TCPAddress, lookupd.HTTPAddress)
	}
	broker, err := membroker.New(opts)
	if err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(lookupprom.NewCollector(broker.Loop()))
	broker.Handle("/metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	fmt.Fprintf(out, "broker: TCP %s, HTTP http://%s\n", broker.TCPAddress(), broker.HTTPAddress())
	return broker.Run(ctx)
}

// parseFlags knows the flags of nsqd that make sense here, by their names.
func parseFlags(args []string) (membroker.Options, error) {
	var opts membroker.Options
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	flags.Func("lookupd-tcp-address", "`host:port` of an nsqlookupd; may be given multiple times", func(address string) error {
		opts.LookupdTCPAddresses = append(opts.LookupdTCPAddresses, address)
		return nil
	})
	flags.StringVar(&opts.TCPAddress, "tcp-address", "127.0.0.1:4150", "`host:port` to listen on for NSQ clients")
	flags.StringVar(&opts.HTTPAddress, "http-address", "127.0.0.1:4151", "`host:port` to listen on for HTTP")
	flags.StringVar(&opts.BroadcastAddress, "broadcast-address", "", "`host` that consumers find with nsqlookupd (default: that of -tcp-address, or this machine's name)")
	flags.StringVar(&opts.DataPath, "data-path", "", "`directory` of nsqd.dat (default: topics and channels are forgotten)")
	flags.DurationVar(&opts.VerifyInterval, "verify-interval", 0, "`time` between two looks at what the lookupds show of the broker, such as 10m; what they lost is announced again (default: never)")
	flags.IntVar(&opts.MemQueueSize, "mem-queue-size", 10_000, "messages that a channel may hold; publishing more is refused")
	flags.IntVar(&opts.MaxConnections, "max-connections", 10_000, "open connections, TCP and HTTP together")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", strings.Join(flags.Args(), " "))
	}
	return opts, err
}
