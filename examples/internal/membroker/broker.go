// Package membroker is a small NSQ broker in memory: what nsqd does, without
// its disk queue. It is there to show how a broker is built on package
// lookuploop, and is what examples/broker and examples/tour run.
//
// Where to look:
//
//	tree.go          topics and channels are born and die: the only calls to Loop.Notify
//	broker.go        starting, and ending in the right order
//	topic.go         what is published goes to every channel
//	channel.go       queue, messages in flight, timeouts (consumer.go, message.go, scan.go)
//	client.go        a connection (server.go, writer.go)
//	protocol.go      NSQ's TCP protocol V2 as bytes (identify.go)
//	http.go          the HTTP API with nsqd's paths (handlers.go, stats.go)
//
// There are two levels of locks. Broker.mu guards which topics and channels
// exist: who changes that holds it for writing, who publishes for reading, so that
// the topic can't vanish meanwhile. Below it each topic and each channel guards
// its own messages. They are taken in the order Broker.mu, topic.mu, channel.mu, alarms.mu,
// and no I/O happens under any of them.
package membroker

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/lookuploop/lookuploop"
)

// Broker is an NSQ broker in memory. Messages live as long as it does; the
// names of topics and channels are kept in nsqd.dat if there is a data path.
type Broker struct {
	opts    Options
	loop    *lookuploop.Loop
	tcp     net.Listener
	http    net.Listener
	started time.Time

	handlers map[string]http.Handler // by path, see Handle

	mu      sync.RWMutex
	topics  map[string]*topic
	closing bool // set once, by Run's end: nothing is accepted any more

	// One goroutine for each topic that is being born (startTopic). It ends with the
	// context lookups at the latest; stopAccepting waits for all of them.
	starts      sync.WaitGroup
	lookups     context.Context
	stopLookups context.CancelFunc
	lookupSlots chan struct{} // a token for each lookup in progress

	alarms *alarms // the channels that scan looks at

	draining   chan struct{}   // closed when Run ends: clients finish what they have in flight
	connected  context.Context // ends when those that have not finished are cut off
	cutClients context.CancelFunc
}

// New listens on both addresses and makes the Loop; nothing is served before Run.
// Run must be called, if only with a context that has ended, to close what New opened.
func New(opts Options) (*Broker, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	b := newBroker(opts)
	slots := make(chan struct{}, opts.MaxConnections)
	if b.tcp, err = listen(opts.TCPAddress, slots); err != nil {
		return nil, err
	}
	b.tcp = &limitListener{b.tcp, make(chan struct{}, opts.MaxConnections-opts.keptForHTTP())}
	if b.http, err = listen(opts.HTTPAddress, slots); err != nil {
		return nil, errors.Join(err, b.tcp.Close())
	}
	b.loop, err = lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: opts.LookupdTCPAddresses,
		BroadcastAddress:    opts.BroadcastAddress,
		BroadcastTCPPort:    b.tcp.Addr().(*net.TCPAddr).Port,
		BroadcastHTTPPort:   b.http.Addr().(*net.TCPAddr).Port,
		Version:             Version,
		DataPath:            opts.DataPath,
		VerifyInterval:      opts.VerifyInterval,
		Logger:              opts.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, b.tcp.Close(), b.http.Close())
	}
	return b, nil
}

// newBroker makes a broker without listeners and without a Loop.
func newBroker(opts Options) *Broker {
	b := &Broker{
		opts:        opts,
		started:     time.Now(),
		topics:      make(map[string]*topic),
		handlers:    make(map[string]http.Handler),
		lookupSlots: make(chan struct{}, 16),
		alarms:      newAlarms(),
		draining:    make(chan struct{}),
	}
	b.lookups, b.stopLookups = context.WithCancel(context.Background())
	b.connected, b.cutClients = context.WithCancel(context.Background())
	return b
}

// TCPAddress is where producers and consumers connect to.
func (b *Broker) TCPAddress() string { return b.tcp.Addr().String() }

// HTTPAddress is where the HTTP API listens.
func (b *Broker) HTTPAddress() string { return b.http.Addr().String() }

// Loop is the broker's side of the discovery: ask it for its Status, or wait with
// it until the lookupds know the broker. Its Notify is the broker's to call.
func (b *Broker) Loop() *lookuploop.Loop { return b.loop }

// Handle serves path by HTTP with h, besides the broker's own. It is called before Run.
func (b *Broker) Handle(path string, h http.Handler) { b.handlers[path] = h }

// Run restores the topics and channels of nsqd.dat and serves until ctx ends,
// then ends in order within about two seconds:
//
//  1. the lookupds forget the broker, so that no new consumer comes;
//  2. consumers get no more messages and finish those in flight, for at most a second;
//  3. the Loop ends, with all names on disk.
//
// It returns nil after a clean end, the first failure otherwise. It may be
// called once.
func (b *Broker) Run(ctx context.Context) error {
	saved, err := b.loop.LoadMetadata()
	if err != nil {
		return errors.Join(err, b.tcp.Close(), b.http.Close())
	}
	b.restore(saved)

	// The Loop must outlive ctx: it has work to do while the broker ends.
	var loopDone sync.WaitGroup
	var loopErr error
	loopCtx, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLoop()
	loopDone.Go(func() { loopErr = b.loop.Run(loopCtx) })

	serveErr := b.serve(ctx)
	stopLoop()
	loopDone.Wait()
	return errors.Join(serveErr, loopErr)
}

// serve runs the servers until ctx ends or one of them fails. When it returns
// nothing of the broker runs but the Loop.
func (b *Broker) serve(ctx context.Context) error {
	httpServer := b.newHTTPServer()
	scanCtx, stopScan := context.WithCancel(context.Background())
	failed := make(chan error, 2)

	var servers sync.WaitGroup
	servers.Go(func() { b.scan(scanCtx) })
	servers.Go(func() { failed <- b.serveTCP() })
	servers.Go(func() { failed <- httpServer.Serve(b.http) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}

	leave, cancel := context.WithTimeout(context.Background(), leaveTimeout)
	defer cancel()
	if err := b.loop.Drain(leave); err != nil {
		b.opts.Logger.Warn("consumers may still be sent here", "error", err)
	}
	b.stopAccepting()
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	defer context.AfterFunc(drain, b.cutClients)()
	if httpServer.Shutdown(drain) != nil {
		httpServer.Close()
	}
	stopScan()
	servers.Wait()
	b.reportLoss()
	return err
}

// stopAccepting refuses what is new: names, messages, clients. Those who are
// connected are told to finish.
func (b *Broker) stopAccepting() {
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	b.stopLookups()
	b.starts.Wait()
	b.tcp.Close()
	close(b.draining)
}

// isDraining tells whether nothing is handed out any more.
func (b *Broker) isDraining() bool {
	select {
	case <-b.draining:
		return true
	default:
		return false
	}
}

// reportLoss says how many messages end with the broker: nothing is lost silently.
func (b *Broker) reportLoss() {
	b.mu.RLock()
	lost := 0
	for _, t := range b.topics {
		lost += t.outstanding()
	}
	b.mu.RUnlock()
	if lost > 0 {
		b.opts.Logger.Warn("messages that were still queued end with the broker", "messages", lost)
	}
}
