// Command tour shows what lookuploop does, over real TCP and HTTP, in a second
// or two:
//
//	go run ./examples/tour
//
// Each step is printed as it happens, with what was checked and how long that
// took. The tour ends with status 1 if a check failed.
//
// It starts three nsqlookupds of its own, in memory. With -lookupd-tcp-address
// and -lookupd-http-address it uses running ones, which it neither stops nor
// hangs: those steps are left out. Its topics begin with "tour-"; it ends if
// another producer has one of them, and removes their names when it is done.
// -v shows the library's log on stderr.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// The broker of this tour has topics and channels in name only: nobody listens
// at its address.
const (
	brokerHost = "broker.test"
	brokerPort = 4150

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
With Notify it tells the library of topics and channels. The library registers
them with every nsqlookupd, so that consumers find the broker.`,
		announce, false},
	{"What consumers and nsqadmin are told", `
Consumers ask nsqlookupd by HTTP who has a topic; nsqadmin asks for all nodes.`,
		showAnswers, false},
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
stuck costs the others nothing.`,
		hang, true},
	{"Lookupd addresses are swapped while the broker runs", `
A new address gets everything, an old one is left, and one that stays keeps its
connection.`,
		swapAddresses, false},
	{"The broker stops, starts again and has its topics", `
They are in nsqd.dat, in the format of nsqd.`,
		restart, false},
}

// tour is what the steps share.
type tour struct {
	report
	options  lookuploop.Options // but for the addresses
	lookupds []lookupd
	given    bool // the lookupds are running ones
	claimed  bool // nobody else has the tour's topics

	loop     *lookuploop.Loop
	stopLoop func() error // may be called more than once
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

// startLoop does what a broker does with the library when it starts. It
// returns the topics and channels that the broker had when it last ended.
func (t *tour) startLoop() (lookuploop.Metadata, error) {
	opts := t.options
	opts.LookupdTCPAddresses = t.tcpAddresses()
	loop, err := lookuploop.New(opts)
	if err != nil {
		return lookuploop.Metadata{}, err
	}
	loaded, err := loop.LoadMetadata()
	if err != nil {
		return lookuploop.Metadata{}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }() // stopLoop waits for it
	t.loop = loop
	t.stopLoop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	return loaded, nil
}

// notify tells the library of events and waits until n lookupds have
// acknowledged them; 0 means all.
func (t *tour) notify(ctx context.Context, n int, events ...lookuploop.Event) error {
	if err := t.loop.Notify(events...); err != nil {
		return err
	}
	return t.loop.WaitRegistered(ctx, n)
}

// allRegistered waits until every lookupd has acknowledged everything.
func (t *tour) allRegistered(ctx context.Context) error { return t.loop.WaitRegistered(ctx, 0) }

// The steps. After a failed check nothing is checked or printed any more.

func announce(ctx context.Context, t *tour) {
	t.check(ctx, "nobody else has the tour's topics", t.claimTopics)
	t.check(ctx, "a Loop is made and runs", func(context.Context) error {
		_, err := t.startLoop()
		return err
	})
	t.print("Notify: topic %s with channels archive and mail; topic %s", orders, returns)
	t.check(ctx, "every lookupd has acknowledged", func(ctx context.Context) error {
		return t.notify(ctx, 0,
			lookuploop.TopicCreated(orders),
			lookuploop.ChannelCreated(orders, "archive"),
			lookuploop.ChannelCreated(orders, "mail"),
			lookuploop.TopicCreated(returns),
		)
	})
}

func showAnswers(ctx context.Context, t *tour) {
	for _, l := range t.lookupds {
		t.showAnswer(ctx, l, "/lookup?topic="+orders)
		t.showAnswer(ctx, l, "/nodes")
	}
	t.checkAnswers(ctx)
}

func deleteAndMakeAgain(ctx context.Context, t *tour) {
	t.print("Notify: topic %s is deleted", orders)
	t.check(ctx, "every lookupd has acknowledged", func(ctx context.Context) error {
		return t.notify(ctx, 0, lookuploop.TopicDeleted(orders))
	})
	t.showAnswer(ctx, t.lookupds[0], "/lookup?topic="+orders)
	t.print("(nsqlookupd keeps the names of what was deleted; it has no producer)")
	t.checkAnswers(ctx)

	t.print("Notify: deleted and made again 100 times, with its two channels")
	before := t.loop.Status().Lookupds[0].Commands
	t.check(ctx, "every lookupd has acknowledged", func(ctx context.Context) error {
		remake := []lookuploop.Event{
			lookuploop.TopicDeleted(orders),
			lookuploop.TopicCreated(orders),
			lookuploop.ChannelCreated(orders, "archive"),
			lookuploop.ChannelCreated(orders, "mail"),
		}
		for range 99 {
			if err := t.loop.Notify(remake...); err != nil {
				return err
			}
		}
		return t.notify(ctx, 0, remake...)
	})
	t.print("400 changes took %d commands to %s", t.loop.Status().Lookupds[0].Commands-before, t.lookupds[0].name)
	t.checkAnswers(ctx)
}

func dieAndComeBack(ctx context.Context, t *tour) {
	dead := t.lookupds[0]
	dead.server.Stop()
	t.print("%s is killed", dead.name)
	t.check(ctx, "the library has noticed", func(ctx context.Context) error {
		return poll(ctx, func(context.Context) error {
			if s := t.loop.Status().Lookupds[0]; s.State == lookuploop.Connected {
				return errors.New("it is still connected")
			}
			return nil
		})
	})
	t.print("Notify: topic %s", news)
	t.check(ctx, "the others have acknowledged", func(ctx context.Context) error {
		return t.notify(ctx, len(t.lookupds)-1, lookuploop.TopicCreated(news))
	})
	t.showStatus()
	t.print("%s is started again, at the same address", dead.name)
	t.check(ctx, "it knows everything again", func(ctx context.Context) error {
		dead.server.Start()
		return t.allRegistered(ctx)
	})
	t.checkAnswers(ctx)
}

func hang(ctx context.Context, t *tour) {
	last := len(t.lookupds) - 1
	healthy, hung := t.lookupds[:last], t.lookupds[last]
	lift := hung.server.Do(lookupdtest.Hang())
	defer lift()
	t.print("%s reads, but answers nothing any more", hung.name)
	t.print("Notify: topic %s", alerts)
	t.check(ctx, "the others name the broker for it", func(ctx context.Context) error {
		if err := t.notify(ctx, len(healthy), lookuploop.TopicCreated(alerts)); err != nil {
			return err
		}
		return each(ctx, healthy, hasProducer(alerts))
	})
	t.check(ctx, "Status says that "+hung.name+" is behind", func(context.Context) error {
		if s := t.loop.Status().Lookupds[last]; s.Pending == 0 {
			return fmt.Errorf("nothing is pending: %+v", s)
		}
		return nil
	})
	t.showStatus()
	t.print("%s goes on", hung.name)
	t.check(ctx, "it has acknowledged everything", func(ctx context.Context) error {
		lift()
		return t.allRegistered(ctx)
	})
	t.checkAnswers(ctx)
}

func swapAddresses(ctx context.Context, t *tour) {
	last := len(t.lookupds) - 1
	leaving := t.lookupds[last]
	before := t.loop.Status().Lookupds[:last]

	t.print("SetLookupdTCPAddresses: without %s", leaving.name)
	t.check(ctx, "it has forgotten the broker", func(ctx context.Context) error {
		if err := t.loop.SetLookupdTCPAddresses(t.tcpAddresses()[:last]); err != nil {
			return err
		}
		return each(ctx, []lookupd{leaving}, hasForgotten)
	})
	if !t.given {
		leaving.server.Close()
		t.lookupds[last] = startLookupd(last + 2)
	}
	joining := t.lookupds[last]
	t.print("SetLookupdTCPAddresses: with %s", joining.name)
	t.check(ctx, "it knows everything", func(ctx context.Context) error {
		if err := t.loop.SetLookupdTCPAddresses(t.tcpAddresses()); err != nil {
			return err
		}
		return t.allRegistered(ctx)
	})
	for i, was := range before {
		t.check(ctx, t.lookupds[i].name+" kept its connection", func(context.Context) error {
			if s := t.loop.Status().Lookupds[i]; s.Connects != was.Connects {
				return fmt.Errorf("%d connects before, %d now", was.Connects, s.Connects)
			}
			return nil
		})
	}
	t.showStatus()
	t.checkAnswers(ctx)
}

func restart(ctx context.Context, t *tour) {
	had := describe(t.loop.Metadata())
	t.print("Notify: channel tail#ephemeral of %s (ephemeral: not to be kept)", orders)
	t.check(ctx, "every lookupd has acknowledged", func(ctx context.Context) error {
		return t.notify(ctx, 0, lookuploop.ChannelCreated(orders, "tail#ephemeral"))
	})
	t.print("the context of Run is cancelled")
	t.check(ctx, "Run has returned", func(context.Context) error { return t.stopLoop() })
	t.check(ctx, "every lookupd has forgotten the broker", func(ctx context.Context) error {
		return each(ctx, t.lookupds, hasForgotten)
	})
	t.showFile(ctx, filepath.Join(t.options.DataPath, "nsqd.dat"))
	t.print("a new Loop is made, with the same DataPath")
	t.check(ctx, "LoadMetadata returns what the broker had", func(context.Context) error {
		loaded, err := t.startLoop()
		if has := describe(loaded); err == nil && has != had {
			err = fmt.Errorf("it had  %s\nnow has %s", had, has)
		}
		return err
	})
	t.check(ctx, "every lookupd has acknowledged", t.allRegistered)
	t.checkAnswers(ctx)
}
