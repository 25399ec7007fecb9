// Command tour shows what lookuploop does, over real TCP and HTTP, in a few
// seconds:
//
//	go run ./examples/tour
//
// Each step is printed as it happens, with what was checked and how long that
// took. The tour ends with status 1 if a check failed.
//
// It runs the broker of examples/broker, and publishes and consumes with NSQ's own
// client. It starts three nsqlookupds of its own, in memory. With
// -lookupd-tcp-address and -lookupd-http-address it uses running ones, which it
// neither stops nor hangs: those steps are left out. Its topics begin with
// "tour-"; it ends if another producer has one of them, and removes their names when
// it is done. -v shows the log of broker and library on stderr.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/lookuploop/lookuploop/examples/internal/membroker"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

const (
	orders  = "tour-orders"
	returns = "tour-returns"
	news    = "tour-news"
	alerts  = "tour-alerts"
)

var topics = []string{orders, returns, news, alerts}

type step struct {
	title   string
	about   string
	run     func(context.Context, *tour)
	harmful bool // stops or hangs a lookupd, so not for running ones
}

var steps = []step{
	{"A broker says what it has", `
Where one of its topics or channels is born or dies, the broker calls Notify.
The library registers them with every nsqlookupd, so that consumers find it.`,
		announce, false},
	{"What consumers and nsqadmin are told", `
Consumers ask nsqlookupd by HTTP who has a topic; nsqadmin asks for all nodes.`,
		showAnswers, false},
	{"A consumer finds the broker and gets messages", `
It knows only the lookupds' HTTP addresses. From here on a message is published
every 10 ms, and whatever happens below, none may be lost.`,
		startMessages, false},
	{"A topic is deleted and made again", `
What counts is what the broker has now: that is what every lookupd ends up
with, however fast things change.`,
		deleteAndMakeAgain, false},
	{"A lookupd dies and comes back empty", `
nsqlookupd keeps nothing on disk. The library sees the connection end, connects
again as soon as it can, and registers everything anew.`,
		dieAndComeBack, true},
	{"A lookupd hangs and nobody else notices", `
Each lookupd has a connection and a goroutine to itself, so that one that is
stuck delays neither the others nor the broker.`,
		hang, true},
	{"Lookupd addresses are swapped while the broker runs", `
A new address gets everything, an old one is left, and one that stays keeps its
connection.`,
		swapAddresses, false},
	{"The broker stops, starts again on another port, and is found", `
Its topics and channels are in nsqd.dat, in the format of nsqd.`,
		restart, false},
	{"Consumers don't find the broker, and Verify says why", `
Status knows what was acknowledged. Verify asks every lookupd by HTTP what it
lists now, as consumers do, and dials the broadcast address. What seems wrong is
looked at again after a second. Verify changes nothing.`,
		findWhatIsWrong, false},
	{"What a lookupd lost is announced again", `
With a VerifyInterval the Loop verifies regularly. It announces what a lookupd
lost, and nothing else, to that lookupd again.`,
		announceWhatWasLost, false},
}

// tour is what the steps share.
type tour struct {
	report
	options  membroker.Options // but for the lookupds' addresses
	lookupds []lookupd
	given    bool // the lookupds are running ones
	claimed  bool // nobody else has the tour's topics

	broker   *membroker.Broker
	messages messages

	// These may be called more than once, and leave no goroutine behind.
	stopProducer func()
	stopConsumer func()
	stopBroker   func() error
}

// lookupd is one nsqlookupd.
type lookupd struct {
	name      string
	tcp, http string
	server    *lookupdtest.Server // nil for a running one
}

func main() {
	// SIGPIPE too, so that it cleans up when nobody reads on (| head).
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "tour:", err)
		os.Exit(1)
	}
}

// run is main without the process.
func run(ctx context.Context, args []string, out io.Writer) error {
	t, err := newTour(args, out)
	if errors.Is(err, flag.ErrHelp) {
		return nil // the usage has been printed
	}
	if err != nil {
		return err
	}
	return t.run(ctx)
}
