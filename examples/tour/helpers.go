package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/examples/internal/membroker"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

const (
	tourTimeout  = 25 * time.Second // of all steps together
	checkTimeout = 5 * time.Second  // of one check
	maxShown     = 75               // characters of a line of an answer or a file
)

var errInterrupted = errors.New("interrupted")

// newTour prepares a tour as the command line wants it. Its run cleans up.
func newTour(args []string, out io.Writer) (*tour, error) {
	var tcp, http []string
	list := func(addresses *[]string) func(string) error {
		return func(address string) error {
			if slices.Contains(*addresses, address) {
				return errors.New("given twice")
			}
			*addresses = append(*addresses, address)
			return nil
		}
	}
	flags := flag.NewFlagSet("tour", flag.ContinueOnError)
	flags.Func("lookupd-tcp-address", "TCP `host:port` of a running nsqlookupd; may be given multiple times", list(&tcp))
	flags.Func("lookupd-http-address", "its HTTP `host:port`; as many, in the same order", list(&http))
	verbose := flags.Bool("v", false, "show the log of broker and library on stderr")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if len(tcp) != len(http) {
		return nil, fmt.Errorf("%d -lookupd-tcp-address and %d -lookupd-http-address: give both for each lookupd", len(tcp), len(http))
	}

	logger := slog.New(slog.DiscardHandler)
	if *verbose {
		logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	dir, err := os.MkdirTemp("", "lookuploop-tour-")
	if err != nil {
		return nil, err
	}
	t := &tour{
		report: report{out: out, patience: checkTimeout, started: time.Now()},
		options: membroker.Options{
			TCPAddress:  "127.0.0.1:0",
			HTTPAddress: "127.0.0.1:0",
			DataPath:    dir,
			Logger:      logger,
		},
		given:        len(tcp) > 0,
		messages:     messages{received: make(map[string]bool)},
		stopProducer: func() {},
		stopConsumer: func() {},
		stopBroker:   func() error { return nil },
	}
	for i := range tcp {
		t.lookupds = append(t.lookupds, lookupd{name: lookupdName(i + 1), tcp: tcp[i], http: http[i]})
	}
	if !t.given {
		t.lookupds = []lookupd{startLookupd(1), startLookupd(2), startLookupd(3)}
	}
	return t, nil
}

func lookupdName(n int) string { return fmt.Sprintf("lookupd %d", n) }

// startLookupd starts a lookupd in memory.
func startLookupd(n int) lookupd {
	server := lookupdtest.NewServer()
	return lookupd{name: lookupdName(n), tcp: server.TCPAddress, http: server.HTTPAddress, server: server}
}

func (t *tour) tcpAddresses() []string {
	var addresses []string
	for _, l := range t.lookupds {
		addresses = append(addresses, l.tcp)
	}
	return addresses
}

// run takes the steps until one fails, and cleans up.
func (t *tour) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, t.cleanUp()) }()
	ctx, cancel := context.WithTimeout(ctx, tourTimeout)
	defer cancel()

	t.introduce()
	skipped := 0
	for i, s := range steps {
		fmt.Fprintf(t.out, "\n%d. %s\n", i+1, s.title)
		if s.harmful && t.given {
			skipped++
			t.print("skipped: it would stop or hang a running nsqlookupd")
			continue
		}
		for line := range strings.SplitSeq(strings.TrimSpace(s.about), "\n") {
			t.print("%s", line)
		}
		fmt.Fprintln(t.out)
		if s.run(ctx, t); t.failure != nil {
			return fmt.Errorf("step %d: %w", i+1, t.failure)
		}
	}
	fmt.Fprintf(t.out, "\nAll %d checks passed, in %s.", t.checks, strings.TrimSpace(milliseconds(time.Since(t.started))))
	if skipped > 0 {
		fmt.Fprintf(t.out, " %d steps were skipped.", skipped)
	}
	fmt.Fprintln(t.out)
	return nil
}

// cleanUp leaves nothing behind.
func (t *tour) cleanUp() error {
	t.stopProducer()
	t.stopConsumer()
	errs := []error{t.stopBroker()}
	for _, l := range t.lookupds {
		switch {
		case l.server != nil:
			l.server.Close()
		case t.claimed:
			errs = append(errs, l.deleteTopics())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(t.options.DataPath))...)
}

// report prints what happens.
type report struct {
	out      io.Writer
	patience time.Duration // with one check
	started  time.Time
	checks   int   // that were passed
	failure  error // of the check that was not
}

func (r *report) print(format string, args ...any) {
	if r.failure == nil {
		fmt.Fprintf(r.out, "  "+format+"\n", args...)
	}
}

// check runs f, and prints what it checked and how long it took.
func (r *report) check(ctx context.Context, what string, f func(context.Context) error) {
	if r.failure != nil {
		return
	}
	started := time.Now()
	limited, cancel := context.WithTimeout(ctx, r.patience)
	defer cancel()
	err := f(limited)
	took := milliseconds(time.Since(started))
	switch {
	case err == nil:
		r.checks++
		r.print("ok %s  %s", took, what)
	case errors.Is(ctx.Err(), context.Canceled):
		r.print("interrupted")
		r.failure = errInterrupted
	default:
		r.print("FAILED after %s: %s", strings.TrimSpace(took), what)
		r.printLines(err.Error())
		r.failure = fmt.Errorf("%s: %w", what, err)
	}
}

// show is check, and prints what f returns, with long lines shortened.
func (r *report) show(ctx context.Context, what string, f func(context.Context) (string, error)) {
	var text string
	r.check(ctx, what, func(ctx context.Context) (err error) {
		text, err = f(ctx)
		return err
	})
	if text == "" {
		return
	}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if len(line) > maxShown {
			lines[i] = strings.ToValidUTF8(line[:maxShown], "") + " …"
		}
	}
	r.printLines(strings.Join(lines, "\n"))
}

// printLines prints text below what was checked.
func (r *report) printLines(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		r.print("              %s", line)
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%6.1f ms", float64(d)/float64(time.Millisecond))
}

// introduce says who takes part.
func (t *tour) introduce() {
	kind := "in memory"
	if t.given {
		kind = "running already"
	}
	fmt.Fprint(t.out, `lookuploop registers an NSQ broker with every nsqlookupd, as nsqd does for itself,
so that consumers find it. The broker tells the library what it has; the library
keeps every lookupd knowing exactly that. Here it does so over real TCP and HTTP,
for a small broker in memory (examples/broker) and NSQ's own client, go-nsq.
"ok" and a time: what was checked, and how long it took to become true.

`)
	for _, l := range t.lookupds {
		t.print("%s  TCP %s, HTTP %s (%s)", l.name, l.tcp, l.http, kind)
	}
}

// showAnswer prints what a lookupd answers, of the producers only the broker.
func (t *tour) showAnswer(ctx context.Context, l lookupd, path string) {
	t.show(ctx, l.name+" answers GET "+path, func(ctx context.Context) (string, error) {
		a, err := l.get(ctx, path)
		all := len(a.Producers)
		a.Producers = slices.DeleteFunc(a.Producers, func(p producer) bool { return p.address() != t.broker.TCPAddress() })
		text := breakLines.Replace(a.String())
		if others := all - len(a.Producers); others > 0 {
			text += fmt.Sprintf(" and %d other producers", others)
		}
		return text, err
	})
}

// breakLines makes two lines of an answer.
var breakLines = strings.NewReplacer(`,"producers"`, ",\n"+` "producers"`, `,"topics"`, ",\n"+` "topics"`)

// showFile prints a file.
func (t *tour) showFile(ctx context.Context, path string) {
	t.show(ctx, filepath.Base(path)+" holds", func(context.Context) (string, error) {
		data, err := os.ReadFile(path)
		return string(data), err
	})
}

// showStatus prints what the Loop knows of the lookupds.
func (t *tour) showStatus() {
	if t.failure != nil {
		return
	}
	for i, s := range t.broker.Loop().Status().Lookupds {
		t.print("              Status of %s: %-12v %d pending, %d connects", t.lookupds[i].name, s.State, s.Pending, s.Connects)
	}
}

// describe lists topics and channels in a fixed order.
func describe(m lookuploop.Metadata) string {
	var texts []string
	for _, topic := range m.Topics {
		var channels []string
		for _, c := range topic.Channels {
			channels = append(channels, c.Name)
		}
		slices.Sort(channels)
		texts = append(texts, fmt.Sprint(topic.Name, channels))
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}
