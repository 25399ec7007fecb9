// Lookupcheck compares the topics and channels of NSQ brokers with what the
// nsqlookupds list, which is what consumers find. It asks over HTTP and changes
// nothing.
//
// Usage:
//
//	lookupcheck -lookupd-http-address host:port … [-nsqd-http-address host:port …]
//
// A broker is an nsqd, or another program that answers /info and /stats as nsqd
// does. Without -nsqd-http-address, it checks the brokers that the lookupds list.
//
// Lookupcheck checks each problem again after 2 s and reports it only if it is still
// there, so changes in progress are not reported. The exit status is 0 if there are
// no findings, 1 if there are, and 2 if a lookupd or broker could not be asked.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/lookuploop/lookuploop/internal/listing"
)

const (
	exitWell     = 0
	exitWrong    = 1
	exitNotAsked = 2 // or wrong usage
)

const (
	pause           = 2 * time.Second // between two looks: longer than nsqd takes to tell healthy lookupds of a change
	maxResponseSize = 4 << 20         // bytes of an answer about one topic
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	status := run(ctx, os.Args[1:], new(net.Dialer).DialContext,
		output{os.Stdout, isTerminal(os.Stdout) && os.Getenv("NO_COLOR") == ""}, // see no-color.org
		output{os.Stderr, isTerminal(os.Stderr)})
	stop()
	os.Exit(status)
}

// addresses is a flag that may be given several times.
type addresses []string

func (a *addresses) String() string { return fmt.Sprint(*a) }

func (a *addresses) Set(s string) error {
	if host, port, err := net.SplitHostPort(s); err != nil || host == "" || port == "" {
		return errors.New("write host:port")
	}
	if !slices.Contains(*a, s) {
		*a = append(*a, s)
	}
	return nil
}

// dialer opens connections, to ask by HTTP and to see if consumers could.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// run is the program. It returns the exit status.
func run(ctx context.Context, args []string, dial dialer, stdout, stderr output) int {
	flags := flag.NewFlagSet("lookupcheck", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var lookupds, nsqds addresses
	flags.Var(&lookupds, "lookupd-http-address", "lookupd HTTP `address`, host:port (may be given multiple times)")
	flags.Var(&nsqds, "nsqd-http-address", "nsqd HTTP `address`, host:port (may be given multiple times; default: all that the lookupds list)")
	timeout := flags.Duration("http-client-request-timeout", 10*time.Second, "timeout for an HTTP request, and for dialing a broadcast address")
	watch := flags.Duration("watch", 0, "look again after this `interval`, until interrupted (default: look once)")
	asJSON := flags.Bool("json", false, "write JSON, one object for each look")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitWell
	case err != nil:
		return exitNotAsked
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "lookupcheck: %q is no flag: see lookupcheck -help\n", flags.Arg(0))
		return exitNotAsked
	case len(lookupds) == 0:
		fmt.Fprintln(stderr, "lookupcheck: name a lookupd with -lookupd-http-address host:port")
		return exitNotAsked
	case *timeout <= 0 || *watch < 0:
		fmt.Fprintln(stderr, "lookupcheck: a time can't be negative, and the timeout not 0")
		return exitNotAsked
	}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 4} // and no proxy
	defer transport.CloseIdleConnections()
	c := checker{
		client: listing.Client{
			HTTP: &http.Client{
				Timeout:       *timeout,
				Transport:     transport,
				CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			},
			MaxResponseSize: maxResponseSize,
		},
		lookupds: lookupds,
		nsqds:    nsqds,
		dial:     dial,
		timeout:  *timeout,
	}
	write := writeTable
	if *asJSON {
		write = writeJSON
	}
	for status := exitNotAsked; ; {
		c.progress.start(stderr)
		r := c.check(ctx)
		c.progress.stop()
		if ctx.Err() != nil {
			return status
		}
		if err := write(stdout, r); err != nil {
			fmt.Fprintln(stderr, "lookupcheck:", err)
			return exitNotAsked
		}
		status = r.status()
		if *watch == 0 || !sleep(ctx, *watch) {
			return status
		}
	}
}

// sleep returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
