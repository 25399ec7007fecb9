package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

const (
	simHeartbeat   = 5 * time.Second
	simTimeout     = time.Second // of a dial and of a response
	simMaxResponse = 4096
	simDataPath    = "data"

	errDiskFull = syscall.ENOSPC
)

// simWorld is a simulation while it is played: a Loop, the broker it belongs
// to, lookupds, a disk. It lives in a synctest bubble. One goroutine plays the
// steps; the faults it finds are collected, the first is what counts.
type simWorld struct {
	history *simHistory
	began   time.Time
	network *lookupdtest.Network
	servers []*lookupdtest.Server
	wire    *simWire
	dns     *fakeResolver
	model   *simModel

	configured []int // which servers the Loop is told
	lifts      []func()
	slow       map[string]bool        // addresses where answers came late at some time
	left       map[string][]time.Time // when the Loop was told to leave an address
	progress   map[string]simProgress // by address

	steadySince time.Time // when the Loop was told of the lookupd without faults; zero: it isn't, or there is none
	steadyDials int       // of it before

	disk  *nsqdattest.Disk
	loop  *Loop
	stop  context.CancelFunc
	ended chan error // Run's result

	tasks  sync.WaitGroup // what goes on in the background
	mu     sync.Mutex
	faults []string
}

func newSimWorld(h *simHistory) *simWorld {
	w := &simWorld{
		history: h,
		began:   time.Now(),
		network: lookupdtest.NewNetwork(),
		wire:    newSimWire(),
		dns:     new(fakeResolver),
		model:   newSimModel(),
		slow:    make(map[string]bool),
		left:    make(map[string][]time.Time),

		progress: make(map[string]simProgress),
		disk:     nsqdattest.NewDisk(nil),
	}
	w.network.SetLatency(h.setting.latency)
	w.network.SetBuffer(h.setting.buffer)
	w.network.SetBandwidth(h.setting.bandwidth)
	for i := range h.lookupds {
		w.servers = append(w.servers, w.network.NewServer(simIP(i)+":4160"))
		w.dns.knows(simName(i), simIP(i))
		w.configured = append(w.configured, i)
	}
	return w
}

// play plays the history from beginning to end and returns what was wrong.
func (w *simWorld) play() []string {
	w.start()
	w.notifyOnce(preloadEvents(0, w.history.setting.preload, false))
	for _, step := range w.history.steps {
		w.pause(step.pause)
		step.do(w)
	}
	w.finish()
	for _, s := range w.servers {
		s.Close()
	}
	return w.faults
}

// pause lets time pass, and watches that no lookupd waits for a heartbeat.
func (w *simWorld) pause(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(min(time.Until(end), 500*time.Millisecond))
		w.checkProgress()
	}
	w.checkSteady()
}

func (w *simWorld) failf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// background lets f go on while other things happen.
func (w *simWorld) background(f func(*Loop)) {
	loop := w.loop
	w.tasks.Go(func() { f(loop) })
}

// start makes a Loop from what is on the disk and runs it.
func (w *simWorld) start() {
	opts := validOptions()
	opts.LookupdTCPAddresses = w.addresses()
	opts.DataPath = simDataPath
	opts.HeartbeatInterval = w.history.setting.heartbeat
	opts.DialTimeout, opts.ResponseTimeout = simTimeout, simTimeout
	opts.MaxBackoff = w.history.setting.maxBackoff
	opts.ResyncInterval = w.history.setting.resync
	opts.ResolveInterval, opts.Resolver = w.history.setting.resolve, w.dns
	opts.VerifyInterval = w.history.setting.verify
	opts.MaxResponseSize = simMaxResponse
	opts.Dial = w.wire.watch(w.network.Dial)
	opts.HTTPClient = w.network.Client()
	opts.HTTPClient.Timeout = simTimeout
	opts.OnStateChange = func(LookupdStatus) { w.loop.Status() }
	loop, err := New(opts)
	if err != nil {
		panic(err)
	}
	loop.disk = w.disk
	loop.dialBroker = func(context.Context, string, string) (net.Conn, error) { // it can be reached
		conn, _ := net.Pipe()
		return conn, nil
	}
	m, err := loop.LoadMetadata()
	if errors.Is(err, errDiskFull) { // removing what the disk kept from being removed
		w.disk.Order(nil)
		m, err = loop.LoadMetadata()
	}
	if err != nil {
		w.failf("LoadMetadata: %v", err)
	}
	w.loop = loop
	for name := range w.disk.Files() {
		if name != nsqdat.Name {
			w.failf("%s survived the start", name)
		}
	}

	for name := range brokerOf(m).names() {
		if strings.Contains(name, registry.EphemeralSuffix) {
			w.failf("%q was persisted", name)
		}
	}

	w.model.mu.Lock()
	text := persistentText(m)
	if !slices.Contains(w.model.persisted, text) {
		w.failf("loaded %q, which is neither what was confirmed nor any later state: %q", text, w.model.persisted)
	}
	w.model.become(brokerOf(m))
	w.model.mu.Unlock()

	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.ended = cancel, make(chan error, 1)
	w.beginSteady()
	go func() { w.ended <- loop.Run(ctx) }()
}

// steady is the lookupd that has no faults, if the setting says that there is one.
func (w *simWorld) steady() int { return len(w.servers) - 1 }

func (w *simWorld) beginSteady() {
	if w.history.setting.steady {
		w.steadySince, w.steadyDials = time.Now(), w.wire.numDials(w.servers[w.steady()].TCPAddress)
	}
}

// simIP and simName are where lookupd i is, and what it is called.
func simIP(i int) string   { return fmt.Sprintf("10.0.0.%d", i+1) }
func simName(i int) string { return fmt.Sprintf("lookupd%d.test", i) }

func (w *simWorld) addresses() (addresses []string) {
	for _, i := range w.configured {
		if w.history.setting.resolve > 0 {
			addresses = append(addresses, simName(i)+":4160")
		} else {
			addresses = append(addresses, w.servers[i].TCPAddress)
		}
	}
	return addresses
}

// notify lets goroutines of the broker notify, one batch of events after another each.
func (w *simWorld) notify(goroutines [][][]Event) {
	var all sync.WaitGroup
	for _, batches := range goroutines {
		all.Go(func() {
			for _, batch := range batches {
				w.notifyOnce(batch)
			}
		})
	}
	all.Wait()
}

func (w *simWorld) notifyOnce(batch []Event) {
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	after := w.model.broker.clone()
	var want error
	var deleted []string
	for _, e := range batch {
		if want = after.apply(e); want != nil {
			break
		}
		switch e.change.Kind {
		case registry.TopicDeleted, registry.ChannelDeleted:
			deleted = append(deleted, strings.TrimSpace(e.change.Topic+" "+e.change.Channel))
		}
	}
	switch err := w.loop.Notify(batch...); {
	case err == nil && want == nil:
		w.model.become(after)
		for _, name := range deleted {
			w.model.deleted[name] = time.Now()
		}
	case errors.Is(err, ErrClosed) && w.loop.hasEnded():
	case !errors.Is(err, want):
		w.failf("Notify(%v): %v instead of %v", batch, err, want)
	}
}

func (w *simWorld) setMetadata(m Metadata) {
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	if err := w.loop.SetMetadata(m); err != nil {
		w.failf("SetMetadata: %v", err)
	}
	w.model.become(brokerOf(m))
}

func (w *simWorld) addFault(lift func()) { w.lifts = append(w.lifts, lift) }

// lift ends one of the faults there are.
func (w *simWorld) lift(n int) {
	if len(w.lifts) > 0 {
		n %= len(w.lifts)
		w.lifts[n]()
		w.lifts = slices.Delete(w.lifts, n, n+1)
	}
}

func (w *simWorld) setAddresses(chosen []int) {
	for _, i := range w.configured {
		if !slices.Contains(chosen, i) {
			w.leave(i)
		}
	}
	w.configured = chosen
	if err := w.loop.SetLookupdTCPAddresses(w.addresses()); err != nil {
		w.failf("SetLookupdTCPAddresses: %v", err)
	}
}

func (w *simWorld) leave(i int) {
	address := w.servers[i].TCPAddress
	w.left[address] = append(w.left[address], time.Now())
}

// breakDisk makes the steps of that name go wrong, or with none all that write.
func (w *simWorld) breakDisk(step string, f nsqdattest.Fault) {
	w.disk.Order(func(name string) nsqdattest.Fault {
		switch name {
		case "lock", "unlock", "list", "stat", "read":
			return nsqdattest.Fault{}
		}
		if step == "" || step == name {
			return f
		}
		return nsqdattest.Fault{}
	})
}

// end ends the Loop, and holds what Run promises of its end against what is.
func (w *simWorld) end() error {
	for _, i := range w.configured {
		w.leave(i)
	}
	w.steadySince = time.Time{}
	began := time.Now()
	w.stop()
	err := <-w.ended
	if took := time.Since(began); took > 2*time.Second {
		w.failf("Run took %v to end", took)
	}
	if n := w.wire.numOpen(); n > 0 {
		w.failf("Run left %d connections open", n)
	}
	return err
}

// restart ends the Loop while goroutines notify, and starts one anew.
func (w *simWorld) restart(goroutines [][][]Event) {
	w.background(func(*Loop) { w.notify(goroutines) })
	err := w.end()
	w.tasks.Wait()
	w.model.mu.Lock()
	if err == nil {
		w.model.confirm(w.model.current())
	} else if !errors.Is(err, errDiskFull) {
		w.failf("Run: %v", err)
	}
	w.model.mu.Unlock()
	w.start()
}

// crash stops the machine. What is left of the disk is drawn with n.
func (w *simWorld) crash(n uint64) {
	w.disk.Crash()
	w.network.Reset()
	if err := w.end(); err != nil && !errors.Is(err, nsqdattest.ErrMachineStopped) {
		w.failf("Run: %v", err)
	}
	w.tasks.Wait()
	w.disk = w.disk.Outcome(n)
	w.start()
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	w.model.confirm(w.model.current())
}
