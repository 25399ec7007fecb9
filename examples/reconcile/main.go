// Command reconcile registers a broker whose topics are files in a directory. The
// name of a file is a topic, and each line of the file is a channel.
//
//	mkdir topics; printf 'mail\narchive\n' > topics/orders
//	go run ./examples/reconcile -dir topics
//
// It shows how to use the library without Notify. It reads the directory every
// second and, after each change, declares all of it with SetMetadata. The library
// sends only the difference to the nsqlookupds.
//
// Empty lines, lines that begin with # and files that begin with a dot are ignored.
// Names that NSQ doesn't allow are logged and left out. Without
// -lookupd-tcp-address it starts an nsqlookupd in memory. It runs until Ctrl-C or
// SIGTERM. It only shows the library: nothing listens at the address that it
// registers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "reconcile:", err)
		os.Exit(1)
	}
}

// run is main without the process: it watches until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	w := watcher{logger: slog.New(slog.NewTextHandler(out, nil))}
	opts := lookuploop.Options{Logger: w.logger}
	err := parseFlags(args, &opts, &w)
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
		fmt.Fprintf(out, "no -lookupd-tcp-address: started an nsqlookupd in memory, see http://%s/debug\n", lookupd.HTTPAddress)
	}
	loop, err := lookuploop.New(opts)
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	w.declare = loop.SetMetadata
	err = w.run(ctx)
	cancel()
	return errors.Join(err, <-ended)
}

// parseFlags knows those of nsqd's flags that make sense here, by their names.
func parseFlags(args []string, opts *lookuploop.Options, w *watcher) error {
	flags := flag.NewFlagSet("reconcile", flag.ContinueOnError)
	flags.StringVar(&w.dir, "dir", "", "`directory` of the topic files (required)")
	flags.DurationVar(&w.interval, "interval", time.Second, "time between two looks at the directory")
	flags.Func("lookupd-tcp-address", "`host:port` of an nsqlookupd; may be given multiple times", func(address string) error {
		opts.LookupdTCPAddresses = append(opts.LookupdTCPAddresses, address)
		return nil
	})
	flags.StringVar(&opts.BroadcastAddress, "broadcast-address", "", "`host` that consumers find with nsqlookupd (default: this machine's name)")
	flags.IntVar(&opts.BroadcastTCPPort, "broadcast-tcp-port", 4150, "TCP `port` that consumers find")
	flags.IntVar(&opts.BroadcastHTTPPort, "broadcast-http-port", 4151, "HTTP `port` that nsqadmin finds")
	err := flags.Parse(args)
	switch {
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", strings.Join(flags.Args(), " "))
	case w.dir == "":
		return errors.New("-dir is missing: name the directory of the topic files")
	case w.interval <= 0:
		return fmt.Errorf("-interval %v: it must be positive", w.interval)
	}
	return nil
}
