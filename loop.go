package lookuploop

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
)

// Loop keeps every configured nsqlookupd knowing what the broker has. Make it
// with New. All methods may be called from any goroutine, unless they say
// otherwise.
type Loop struct {
	opts Options
	reg  *registry.Registry
	disk nsqdat.Disk // has DataPath; tests put theirs in before LoadMetadata

	notify         chan struct{} // capacity 1: readable after a change; Notify sends, Run receives
	optionsChanged chan struct{} // capacity 1: readable after a swap of addresses
	namesChanged   chan struct{} // capacity 1: readable when there may be new names to resolve

	mu         sync.Mutex // guards these, and the making of peers
	phase      phase
	configured []string                      // the addresses as they were given
	resolved   map[string]resolution         // of those that are names, with a ResolveInterval
	peers      atomic.Pointer[[]*lookupPeer] // in the order of the addresses; the slice is replaced, never changed

	loaded  atomic.Bool    // LoadMetadata was done, or isn't needed; what follows is set before
	file    *nsqdat.File   // nil without a DataPath
	writer  *nsqdat.Writer // nil without a DataPath
	running atomic.Pointer[context.Context]
	ended   chan struct{} // closed when Run's context has ended and Run took note
}

type phase int

const (
	fresh   phase = iota // nothing was called yet
	loading              // LoadMetadata is running
	inUse                // LoadMetadata is out of the question
	running
)

// New checks opts and returns all that is wrong with them, joined. It does no I/O.
func New(opts Options) (*Loop, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	l := &Loop{
		opts:           opts,
		reg:            registry.New(),
		disk:           nsqdat.OS{},
		notify:         make(chan struct{}, 1),
		optionsChanged: make(chan struct{}, 1),
		namesChanged:   make(chan struct{}, 1),
		ended:          make(chan struct{}),
	}
	l.loaded.Store(opts.DataPath == "")
	l.configured = opts.LookupdTCPAddresses
	l.setPeers()
	return l, nil
}

// mayChange returns why nothing can be changed now, if so.
func (l *Loop) mayChange() error {
	if !l.loaded.Load() {
		return errors.New("lookuploop: call LoadMetadata first: it reads and locks DataPath")
	}
	if l.hasEnded() {
		return ErrClosed
	}
	return nil
}

// hasEnded tells whether Run's context has ended.
func (l *Loop) hasEnded() bool {
	ctx := l.running.Load()
	return ctx != nil && (*ctx).Err() != nil
}

// Run keeps the nsqlookupds informed and nsqd.dat written until ctx ends. Then
// it unregisters what is ephemeral from the connected nsqlookupds, writes
// nsqd.dat if it must, closes every connection and gives DataPath free. When
// it returns nothing of the Loop runs any more. That takes at most 2 s as
// long as Dial, OnStateChange and the disk don't hold it up.
//
// It returns nil, or why the last write of nsqd.dat failed. With nil, all that
// Notify accepted is on disk, also when ctx had ended before. Called again while it runs it returns an error;
// after it ended, ErrClosed.
//
// The orderly end of a broker: SetLookupdTCPAddresses(nil), so that no
// consumer comes any more; let the clients finish; end ctx.
func (l *Loop) Run(ctx context.Context) error {
	if err := l.start(ctx); err != nil {
		return err
	}
	var writing <-chan error
	stopWriting := func() {}
	if l.writer != nil {
		writing, stopWriting = l.startWriter()
	}
	var tasks sync.WaitGroup
	if l.opts.ResolveInterval > 0 {
		tasks.Go(func() { l.resolveNames(ctx) })
	}
	l.serve(ctx, &tasks)

	l.reg.Close()
	close(l.ended)

	for _, p := range l.lookupPeers() {
		p.stop()
	}
	stopWriting()
	var err error
	if writing != nil {
		err = <-writing
	}
	tasks.Wait()
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	return err
}

// start makes the one transition to running.
func (l *Loop) start(ctx context.Context) error {
	if ctx == nil {
		return errors.New("lookuploop: Run needs a context, got nil")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.phase == running && l.hasEnded():
		return ErrClosed
	case l.phase == running:
		return errors.New("lookuploop: Run is running already")
	case !l.loaded.Load():
		return errors.New("lookuploop: call LoadMetadata before Run: it reads and locks DataPath")
	}
	l.phase = running
	l.running.Store(&ctx)
	return nil
}

func (l *Loop) startWriter() (<-chan error, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- l.writer.Run(ctx) }()
	return result, cancel
}

// serve is the loop that gave the library its name. It does no I/O, it wakes
// those who do. It starts a goroutine for each lookupd, to be found in tasks.
func (l *Loop) serve(ctx context.Context, tasks *sync.WaitGroup) {
	var started []*lookupPeer
	startNew := func() {
		peers := l.lookupPeers()
		for _, p := range peers {
			if !p.origin.Load().isUnresolved && !slices.Contains(started, p) {
				tasks.Go(p.run)
			}
		}
		started = peers
	}
	startNew()

	heartbeat := time.NewTicker(l.opts.HeartbeatInterval)
	defer heartbeat.Stop()
	for {
		select {
		case <-heartbeat.C:
			for _, p := range started {
				p.heartbeat()
			}
		case <-l.notify:
			for _, p := range started {
				p.wakeUp()
			}
		case <-l.optionsChanged:
			startNew()
		case <-ctx.Done():
			return
		}
	}
}

// Status returns a snapshot of how things stand. It may be called at any time,
// after Run too.
func (l *Loop) Status() Status {
	var s Status
	for _, p := range l.lookupPeers() {
		s.Lookupds = append(s.Lookupds, p.status())
	}
	s.Topics, s.Channels = l.reg.Count()
	if l.loaded.Load() && l.writer != nil {
		s.Metadata = MetadataStatus(l.writer.Status())
	}
	return s
}

// signal makes c, of capacity 1, readable.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
