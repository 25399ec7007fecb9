package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/resolve"
)

// Loop keeps every configured nsqlookupd up to date with what the broker has. Create
// it with [New]. All methods may be called from any goroutine, unless their comment
// says otherwise.
type Loop struct {
	opts Options
	reg  *registry.Registry
	disk nsqdat.Disk // has DataPath; tests put theirs in before LoadMetadata

	names      *resolve.Names                                                       // those among the addresses; without a ResolveInterval it has none
	dialBroker func(ctx context.Context, network, address string) (net.Conn, error) // as consumers do; tests put theirs in

	verification atomic.Pointer[VerificationStatus] // is replaced, never changed

	notify         chan struct{} // capacity 1: readable after a change; Notify sends, Run receives
	optionsChanged chan struct{} // capacity 1: readable after a swap of addresses

	mu         sync.Mutex // guards these, and the making of peers
	phase      phase
	endRun     context.CancelFunc            // set when running
	configured []resolve.Address             // each once
	leaving    []*lookupPeer                 // whose addresses went, and that may still be connected
	peers      atomic.Pointer[[]*lookupPeer] // in the order of the addresses; the slice is replaced, never changed

	loads   sync.WaitGroup // LoadMetadata, while it is running
	loaded  atomic.Bool    // LoadMetadata was done, or isn't needed; what follows is set before
	file    *nsqdat.File   // nil without a DataPath
	writer  *nsqdat.Writer // nil without a DataPath
	started atomic.Time    // when Run was called
	running atomic.Pointer[context.Context]
	ended   chan struct{} // closed when Run's context has ended and Run took note
	done    chan struct{} // closed when nothing runs any more; result is set before
	result  error         // of Run; until it begins, why it could not, guarded by mu
}

type phase int

const (
	fresh   phase = iota // nothing was called yet
	loading              // LoadMetadata is running
	inUse                // LoadMetadata is out of the question
	running              // Run is, or was, or Close does the same
)

// New returns a Loop for opts. If options are invalid, the error joins one error for
// each. New does no I/O.
func New(opts Options) (*Loop, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Loop{
		opts:           opts,
		reg:            registry.New(),
		disk:           nsqdat.OS{},
		dialBroker:     new(net.Dialer).DialContext,
		notify:         make(chan struct{}, 1),
		optionsChanged: make(chan struct{}, 1),
		ended:          make(chan struct{}),
		done:           make(chan struct{}),
	}
	l.loaded.Store(opts.DataPath == "")
	l.verification.Store(&VerificationStatus{Interval: opts.VerifyInterval})
	l.names = resolve.New(resolve.Config{
		Resolver: l.opts.Resolver,
		Network:  l.opts.ResolveNetwork,
		Interval: l.opts.ResolveInterval,
		Logger:   l.opts.Logger,
	})
	return l, l.SetLookupdTCPAddresses(l.opts.LookupdTCPAddresses)
}

// mayChange returns why nothing can be changed now, if so.
func (l *Loop) mayChange() error {
	if l.done == nil {
		return errors.New("lookuploop: this Loop was not made by New")
	}
	if l.hasEnded() {
		return ErrClosed
	}
	if !l.loaded.Load() {
		return errors.New("lookuploop: call LoadMetadata first: it reads and locks DataPath")
	}
	return nil
}

// hasEnded tells whether Run's context has ended, or Close was called.
func (l *Loop) hasEnded() bool {
	ctx := l.running.Load()
	return ctx != nil && (*ctx).Err() != nil
}

// Run keeps the nsqlookupds and nsqd.dat up to date until ctx ends. Then it
// unregisters ephemeral topics and channels, writes nsqd.dat if it changed, closes
// every connection and releases DataPath. When it returns, no goroutine of the Loop
// is left. The shutdown takes at most 2 s, unless the disk blocks or something from
// Options does: Dial, Resolver, HTTPClient, Logger or OnStateChange.
//
// Run returns nil if everything that Notify accepted is on disk, also if ctx had
// ended before the call. Otherwise it returns the error of the last write of
// nsqd.dat. A second call returns an error while the first one runs, and [ErrClosed]
// after it ended or after Close. If Run can't start, for example because LoadMetadata
// was not called, it also logs the error.
//
// To shut down a broker, call [Loop.Drain], so that no new consumers connect; let
// the clients finish; and end ctx or call [Loop.Close].
func (l *Loop) Run(ctx context.Context) error {
	ctx, err := l.start(ctx)
	if err != nil {
		if err != ErrClosed { // the caller may have closed it before this goroutine began
			l.opts.Logger.Error("Run did not start", "error", err)
		}
		return err
	}
	return l.run(ctx, l.logAddresses)
}

// Close ends Run, waits for it, and returns its error. If Run was never called or
// could not start, Close itself writes nsqd.dat if it changed, and releases DataPath.
// Its error then includes the one that Run returned. Afterwards Run and all methods
// that change something or wait return [ErrClosed].
//
// It may be called at any time, more than once, and from any goroutine except in
// OnStateChange.
func (l *Loop) Close() error {
	l.mu.Lock()
	isRunning := l.phase == running
	if !isRunning {
		l.begin(context.Background())
	}
	l.endRun()
	l.mu.Unlock()
	if !isRunning {
		l.loads.Wait()
		return l.run(*l.running.Load(), func() {})
	}
	<-l.done
	return l.result
}

// start makes the one transition to running, for Run. The context that it
// returns ends with ctx and with Close.
func (l *Loop) start(ctx context.Context) (context.Context, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.hasEnded():
		return nil, ErrClosed
	case l.phase == running:
		return nil, errors.New("lookuploop: Run is running already")
	case ctx == nil:
		l.result = errors.New("lookuploop: Run needs a context, got nil")
		return nil, l.result
	case !l.loaded.Load():
		l.result = errors.New("lookuploop: call LoadMetadata before Run: it reads and locks DataPath")
		return nil, l.result
	}
	l.result = nil
	l.started.Store(time.Now())
	return l.begin(ctx), nil
}

// begin is called with mu held.
func (l *Loop) begin(ctx context.Context) context.Context {
	ctx, l.endRun = context.WithCancel(ctx)
	l.phase = running
	l.running.Store(&ctx)
	return ctx
}

// run is Run once it has started. What there is to report at the beginning has a
// goroutine of its own, as the Logger may block.
func (l *Loop) run(ctx context.Context, report func()) error {
	var writing <-chan error
	stopWriting := func() {}
	if l.writer != nil {
		writing, stopWriting = l.startWriter()
	}
	var tasks sync.WaitGroup
	tasks.Go(report)
	if l.opts.ResolveInterval > 0 {
		tasks.Go(func() { l.names.Run(ctx) })
	}
	if l.opts.VerifyInterval > 0 {
		tasks.Go(func() { l.keepVerifying(ctx) })
	}
	l.serve(ctx, &tasks)

	l.reg.Close()
	close(l.ended)

	for _, p := range l.lookupPeers() {
		p.stop()
	}
	stopWriting()
	if writing != nil {
		l.result = errors.Join(l.result, <-writing)
	}
	tasks.Wait()
	if l.file != nil {
		l.result = errors.Join(l.result, l.file.Close())
	}
	l.endRun() // ctx may be one that never ends
	close(l.done)
	return l.result
}

func (l *Loop) startWriter() (<-chan error, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- l.writer.Run(ctx) }()
	return result, cancel
}

// notRunning says why nothing runs, before Run.
func (l *Loop) notRunning() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.phase != running && l.result != nil {
		return fmt.Errorf("Run did not start (%s)", strings.TrimPrefix(l.result.Error(), "lookuploop: "))
	}
	return errors.New("Run isn't running (start it: go loop.Run(ctx))")
}

// serve is the loop that gave the library its name. It does no I/O, it wakes
// those who do. It starts a goroutine for each lookupd, to be found in tasks.
func (l *Loop) serve(ctx context.Context, tasks *sync.WaitGroup) {
	started := make(map[*lookupPeer]bool)
	startNew := func() {
		before := started
		started = make(map[*lookupPeer]bool)
		for _, p := range l.lookupPeers() {
			if p.origin.Load().isUnresolved {
				continue
			}
			if !before[p] {
				p.started.Store(true)
				tasks.Go(p.run)
			}
			started[p] = true
		}
	}
	if ctx.Err() != nil {
		return // Close of a Loop that never ran: nobody is to hear of it
	}
	startNew()

	heartbeat := time.NewTicker(l.opts.HeartbeatInterval)
	defer heartbeat.Stop()
	for {
		select {
		case <-heartbeat.C:
			for p := range started {
				p.heartbeat()
			}
		case <-l.notify:
			for p := range started {
				p.wakeUp()
			}
		case <-l.names.Changed():
			l.mu.Lock()
			l.setPeers()
			l.mu.Unlock()
		case <-l.optionsChanged:
			startNew()
		case <-ctx.Done():
			return
		}
	}
}

// Status returns a snapshot of the state of the Loop. It may be called at any time,
// also after Run has returned.
func (l *Loop) Status() Status {
	s := Status{Broker: l.opts.broker()}
	s.Broker.Started = l.started.Load()
	for _, p := range l.lookupPeers() {
		s.Lookupds = append(s.Lookupds, p.status())
	}
	s.Names = l.namesStatus()
	s.Topics, s.Channels = l.reg.Count()
	if l.loaded.Load() && l.writer != nil {
		s.Metadata = MetadataStatus(l.writer.Status())
	}
	s.Verification = *l.verification.Load()
	s.Verification.Found.Lookupds = slices.Clone(s.Verification.Found.Lookupds)
	s.Verification.Found.Findings = slices.Clone(s.Verification.Found.Findings)
	return s
}

// signal makes c, of capacity 1, readable.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait returns false if ctx ends before.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
