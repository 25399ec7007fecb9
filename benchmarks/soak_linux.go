package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"
)

// soak lets brokers and lookupds, each a process of its own, live for a long time, in
// real time, with real TCP and a real disk. In each round the brokers change and the
// lookupds have faults, at random. Then both pause, and all must agree.
type soak struct {
	seed     uint64
	duration time.Duration
	interval time.Duration // of the checks
	out      io.Writer

	dir      string
	history  history
	lookupds []*soakLookupd
	brokers  []*soakBroker
	ctx      context.Context
	fail     context.CancelCauseFunc // ends the soak
	measured []Measurement           // of the first broker, at each check
}

func runSoak(duration time.Duration, seed uint64) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return (&soak{seed: seed, duration: duration, interval: time.Minute, out: os.Stdout}).run(ctx)
}

// These bound how long lookupds may take to agree after the faults: one backoff of
// 5 s at most and one round trip; with refused names, the pause before their next
// attempt, which is 10 s after as long a refusal. The rest is for a busy machine.
const (
	timeToAgree       = 10 * time.Second
	timeAfterRefusals = 30 * time.Second
)

// run returns nil if all agreed at each check and the first broker stayed small. It
// leaves its files behind if not.
func (s *soak) run(ctx context.Context) (err error) {
	if s.dir, err = os.MkdirTemp("", "soak-"); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "seed %d, a check each %v, files in %s\n", s.seed, s.interval, s.dir)
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nseed %d; see history.log and the logs in %s", err, s.seed, s.dir)
		} else {
			err = os.RemoveAll(s.dir)
		}
	}()
	s.ctx, s.fail = context.WithCancelCause(ctx)
	defer s.fail(nil)
	if s.history, err = newHistory(s.dir); err != nil {
		return err
	}
	defer s.history.file.Close()
	defer s.killAll()
	if err := s.start(); err != nil {
		return err
	}
	for began := time.Now(); time.Since(began) < s.duration; {
		s.live()
		if err := context.Cause(s.ctx); err != nil {
			return err
		}
		if err := s.check(time.Since(began)); err != nil {
			return err
		}
	}
	return errors.Join(s.end(), s.judge())
}

// start starts three lookupds, one of which is a real one if NSQLOOKUPD names its
// binary, and two brokers. The first one lives to the end, so that it shows what
// grows; the second one is killed now and then.
func (s *soak) start() error {
	random := func(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.seed, stream)) }
	freeAddress := freeAddresses(random(0))
	var addresses []string
	for i := range uint64(3) {
		l := &soakLookupd{
			tcp:     freeAddress(),
			http:    freeAddress(),
			log:     filepath.Join(s.dir, fmt.Sprintf("lookupd%d.log", i+1)),
			history: s.history,
			random:  random(i + 1),
		}
		if i == 2 {
			l.binary = os.Getenv("NSQLOOKUPD")
		}
		if err := l.start(); err != nil {
			return err
		}
		s.lookupds = append(s.lookupds, l)
		addresses = append(addresses, l.tcp)
	}
	for i := range uint64(2) {
		b := &soakBroker{
			address:    freeAddress(),
			dir:        filepath.Join(s.dir, fmt.Sprintf("broker%d", i+1)),
			log:        filepath.Join(s.dir, fmt.Sprintf("broker%d.log", i+1)),
			maxBackoff: max(s.interval/12, 100*time.Millisecond), // the default for a minute
			crashes:    i > 0,
			history:    s.history,
			random:     random(i + 11),
			lookupds:   addresses,
			configured: addresses,
			names:      make(soakNames),
			onDisk:     []soakNames{{}}, // nothing, as long as nothing was written
		}
		if err := os.Mkdir(b.dir, 0o755); err != nil {
			return err
		}
		if err := b.start(); err != nil {
			return err
		}
		s.brokers = append(s.brokers, b)
		if err := b.declare(2000); err != nil {
			return err
		}
	}
	return nil
}

func (s *soak) killAll() {
	for _, b := range s.brokers {
		b.kill()
	}
	for _, l := range s.lookupds {
		l.kill()
	}
}

// live lets everyone live for one interval.
func (s *soak) live() {
	ctx, cancel := context.WithTimeout(s.ctx, s.interval)
	defer cancel()
	var all sync.WaitGroup
	for _, b := range s.brokers {
		all.Go(func() {
			if err := b.live(ctx, s.interval/600); err != nil {
				s.fail(err)
			}
		})
	}
	for _, l := range s.lookupds {
		all.Go(func() {
			if err := l.suffer(ctx, s.interval/12); err != nil {
				s.fail(err)
			}
		})
	}
	all.Wait()
	if err := s.brokers[0].configure(len(s.lookupds)); err != nil { // or what it uses differs from check to check
		s.fail(err)
	}
}

// check requires that lookupds and files are what the brokers have, and prints what
// the first broker uses.
func (s *soak) check(at time.Duration) error {
	took, err := s.agree()
	if err != nil {
		return err
	}
	for _, b := range s.brokers {
		if err := b.check(); err != nil {
			return fmt.Errorf("broker %s: %w", b.address, err)
		}
	}
	var m Measurement
	if err := s.brokers[0].call("Measure", struct{}{}, &m); err != nil {
		return err
	}
	s.measured = append(s.measured, m)
	fmt.Fprintf(s.out, "%v: agreed after %.1f s, names %d and %d, restarts %d; commands %d, connects %d, heap %.2f MB, RSS %.1f MB, descriptors %.0f, goroutines %.0f\n",
		at.Round(time.Second), took.Seconds(), len(s.brokers[0].names), len(s.brokers[1].names), s.brokers[1].restarts,
		m.Commands, m.Connects, m.Heap, m.RSS, m.Descriptors, m.Goroutines)
	return nil
}

// agree waits until all lookupds list what the brokers have, and returns how long
// that took.
func (s *soak) agree() (time.Duration, error) {
	bound := timeToAgree
	for _, l := range s.lookupds {
		if l.refused {
			bound = timeAfterRefusals
		}
		l.refused = false
	}
	began := time.Now()
	for {
		err := s.disagreement()
		took := time.Since(began)
		if err == nil {
			return took, nil
		}
		if took > bound {
			return took, fmt.Errorf("no agreement after %v: %w", bound, err)
		}
		if err := context.Cause(s.ctx); err != nil {
			return took, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// disagreement is what a broker knows to be missing, or what a lookupd lists that
// isn't so. One that isn't configured at a broker must not list it.
func (s *soak) disagreement() error {
	for _, b := range s.brokers {
		if len(b.configured) > 0 {
			if err := b.call("Registered", 0, nil); err != nil {
				return err
			}
		}
	}
	for _, l := range s.lookupds {
		listed, err := l.list()
		if err != nil {
			return err
		}
		for _, b := range s.brokers {
			var want map[string]int
			if slices.Contains(b.configured, l.tcp) {
				want = b.names.listed()
			}
			if err := difference(want, listed[b.address]); err != nil {
				return fmt.Errorf("lookupd %s, broker %s: %w", l.tcp, b.address, err)
			}
		}
	}
	return nil
}

// end closes the brokers. No lookupd may list them then.
func (s *soak) end() error {
	for _, b := range s.brokers {
		if err := errors.Join(b.close(), b.checkFile()); err != nil {
			return fmt.Errorf("broker %s: %w", b.address, err)
		}
		b.configured = nil
	}
	_, err := s.agree()
	return err
}

// judge compares what the first broker used in the first third and in the last.
func (s *soak) judge() error {
	third := len(s.measured) / 3
	if third < 3 {
		fmt.Fprintln(s.out, "too few checks to tell whether the broker grows")
		return nil
	}
	var failed error
	for _, use := range uses {
		median := func(part []Measurement) float64 {
			var all sample
			for _, m := range part {
				all = append(all, use.of(m))
			}
			return all.median()
		}
		first, last := median(s.measured[:third]), median(s.measured[len(s.measured)-third:])
		verdict := "ok"
		if last > mostGrowth*first {
			verdict = "GROWS"
			failed = errors.Join(failed, fmt.Errorf("%s grew from %.2f to %.2f", use.name, first, last))
		}
		fmt.Fprintf(s.out, "%s: median of the first third %.2f, of the last %.2f, × %.2f (≤ %.1f): %s\n", use.name, first, last, last/first, mostGrowth, verdict)
	}
	return failed
}

// mostGrowth is how many times as much the broker may use in the last third.
const mostGrowth = 1.3

// uses are what must not grow.
var uses = []struct {
	name string
	of   func(Measurement) float64
}{
	{"heap (MB)", func(m Measurement) float64 { return m.Heap }},
	{"RSS (MB)", func(m Measurement) float64 { return m.RSS }},
	{"descriptors", func(m Measurement) float64 { return m.Descriptors }},
	{"goroutines", func(m Measurement) float64 { return m.Goroutines }},
}
