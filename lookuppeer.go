package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
)

// leaveTimeout bounds the farewell of a connection.
const leaveTimeout = time.Second

// provenAfter is how long a connection must last after lookupd has acknowledged
// everything there was when it came up, for the backoff to start over. A lookupd
// that breaks at once on what it acknowledged gets it ever more rarely.
const provenAfter = time.Second

// lookupPeer keeps one nsqlookupd informed. The Loop makes it, starts run and
// waits for its end.
//
// Owned by the goroutine of run: the connection, all from backoff to sincePing,
// and every change of state. The connection's reader calls handle. Anyone may
// read the atomics and call wakeUp, heartbeat and stop. What is in cursor
// belongs to the registry.
type lookupPeer struct {
	address string
	opts    *Options
	reg     *registry.Registry
	cursor  registry.Cursor

	wake         chan struct{} // capacity 1: readable when there may be something to say
	heartbeatDue atomic.Bool
	stopping     context.Context // ends when the peer is to leave
	stop         context.CancelFunc

	backoff   backoff
	caution   registry.Caution
	syncedAt  time.Time                    // when lookupd had acknowledged all there was when it connected; zero: not yet
	chunk     []registry.Command           // from the log
	out       wire.Batch[registry.Command] // to be sent
	resyncAt  time.Time
	sincePing int // commands sent since the last PING or IDENTIFY

	origin        atomic.Pointer[origin]
	state         atomic.Pointer[peerState]
	lastHeartbeat atomic.Int64 // in nanoseconds since 1970; 0: never
	rtt           atomic.Duration
	connects      atomic.Uint64
	failures      atomic.Uint64
	commands      atomic.Uint64
}

func newLookupPeer(t target, opts *Options, reg *registry.Registry) *lookupPeer {
	p := &lookupPeer{
		address: t.address,
		opts:    opts,
		reg:     reg,
		wake:    make(chan struct{}, 1),
		backoff: backoff{min: opts.MinBackoff, max: opts.MaxBackoff},
	}
	p.stopping, p.stop = context.WithCancel(context.Background())
	p.state.Store(&peerState{state: Disconnected, since: time.Now()})
	p.origin.Store(&t.origin)
	return p
}

// wakeUp lets run look whether there is something to say. It never waits.
func (p *lookupPeer) wakeUp() { signal(p.wake) }

// heartbeat asks for a PING on the connection, if there is one.
func (p *lookupPeer) heartbeat() {
	p.heartbeatDue.Store(true)
	p.wakeUp()
}

// run connects, talks and connects again until stop is called. When it
// returns, the last connection is closed and its reader has ended.
func (p *lookupPeer) run() {
	for p.stopping.Err() == nil {
		p.syncedAt = time.Time{}
		p.transition(dial, peerState{})
		c, info, err := p.connect()
		if err == nil {
			err = p.serve(c, info)
		}
		wait := p.disconnected(err)
		select {
		case <-time.After(wait):
		case <-p.stopping.Done():
		}
	}
}

// connect dials and identifies.
func (p *lookupPeer) connect() (*wire.Conn[registry.Command], PeerInfo, error) {
	ctx, cancel := context.WithTimeout(p.stopping, p.opts.DialTimeout)
	defer cancel()
	conn, err := p.opts.Dial(ctx, "tcp", p.address)
	if err == nil && conn == nil {
		err = errors.New("Options.Dial returned neither connection nor error")
	}
	if err != nil {
		return nil, PeerInfo{}, fmt.Errorf("lookuploop: %s: dial: %w", p.address, err)
	}
	c := wire.NewConn[registry.Command](p.address, conn, p.opts.ResponseTimeout, p.opts.MaxResponseSize)
	mayStay := context.AfterFunc(p.stopping, c.Close)
	info, err := p.identify(c)
	if !mayStay() && err == nil {
		err = context.Cause(p.stopping)
	}
	if err != nil {
		c.Close()
		return nil, PeerInfo{}, err
	}
	return c, info, nil
}

func (p *lookupPeer) identify(c *wire.Conn[registry.Command]) (PeerInfo, error) {
	p.commands.Inc()
	started := time.Now()
	answer, err := c.Identify(p.opts.identity())
	if err != nil {
		return PeerInfo{}, err
	}
	rtt := time.Since(started)
	info, err := parsePeerInfo(p.address, answer)
	if err == nil {
		p.noteHeartbeat(rtt)
	}
	return info, err
}

// serve keeps lookupd informed over one connection until that ends. It returns
// why; nil if the peer left.
func (p *lookupPeer) serve(c *wire.Conn[registry.Command], info PeerInfo) error {
	p.heartbeatDue.Store(false)
	p.sincePing = 0
	p.resyncAt = time.Now().Add(p.opts.ResyncInterval)
	p.connects.Inc()
	p.transition(identified, peerState{info: info})
	p.reg.Attach(&p.cursor) // after the transition: who waited for it finds a Connected lookupd

	go c.ReadAnswers(p.handle)
	defer context.AfterFunc(p.stopping, func() { // or a write that is stuck would delay the farewell
		c.SetWriteDeadline(time.Now().Add(leaveTimeout))
	})()
	err := p.talk(c)
	c.Close()
	<-c.Done()

	acked, unanswered := p.reg.Release(&p.cursor)
	p.caution = registry.Caution{}
	if errors.Is(err, c.Err()) && c.Severed() && unanswered > 0 {
		p.caution = registry.NewCaution(acked, unanswered)
	}
	return err
}

// talk says what there is to say until the connection ends or the peer has left.
func (p *lookupPeer) talk(c *wire.Conn[registry.Command]) error {
	for {
		if p.stopping.Err() != nil {
			return p.leave(c)
		}
		said, again, err := p.say(c)
		if err != nil {
			return err
		}
		if p.syncedAt.IsZero() && p.reg.InSync(&p.cursor) {
			p.synced()
		}
		if said {
			continue
		}
		if c.Rest() {
			p.chunk = nil
			p.out.Shrink()
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-p.wake:
		case <-c.Answered():
		case <-timer:
		case <-p.stopping.Done():
		case <-c.Done():
			return c.Err()
		}
	}
}

// say sends the next things, if any. Otherwise it returns when to ask again,
// unless something happens before.
func (p *lookupPeer) say(c *wire.Conn[registry.Command]) (said bool, again time.Time, err error) {
	isDue, isBlind := p.heartbeatDue.Swap(false), c.IsBlind()
	progress, err := p.read(c, isBlind)
	if err != nil {
		return false, time.Time{}, err
	}
	hasRead := len(p.chunk) > 0
	isLong := isBlind && p.sincePing >= wire.BlindChunk/2
	if isDue || isLong && hasRead { // a PING alone, behind what may be refused, could cost the refusal
		p.out.Ping()
		p.sincePing = 0
	}
	p.sincePing += p.out.Len() + len(p.chunk)
	if isDue || hasRead {
		return true, time.Time{}, p.send(c)
	}
	if progress { // what was read says nothing, and what follows may say something
		return true, time.Time{}, nil
	}
	p.chunk, again = p.reg.Retry(&p.cursor, time.Now(), p.chunk[:0])
	if len(p.chunk) > 0 {
		return true, time.Time{}, p.send(c)
	}
	if p.opts.ResyncInterval > 0 {
		if isDue := !time.Now().Before(p.resyncAt); isDue && p.reg.Resync(&p.cursor) {
			p.resyncAt = time.Now().Add(p.opts.ResyncInterval)
			return true, time.Time{}, nil
		} else if !isDue && (again.IsZero() || p.resyncAt.Before(again)) {
			again = p.resyncAt
		}
	}
	return false, again, nil
}

// read reads the next chunk of the log, a small one if isBlind, as far as the
// window and caution allow. It tells whether that got it on.
func (p *lookupPeer) read(c *wire.Conn[registry.Command], isBlind bool) (progress bool, err error) {
	size := registry.ChunkSize
	if isBlind {
		size = wire.BlindChunk
	}
	limit, upTo := p.caution.Limits(p.reg, &p.cursor, c.NumInFlight(), min(c.Room(), size))
	p.chunk, progress, err = p.reg.Read(&p.cursor, limit, upTo, p.chunk[:0])
	p.caution.Spend(upTo, len(p.chunk))
	return progress, err
}

// send writes what was read, behind what is in out already. When that fails, the
// reader has the better explanation.
func (p *lookupPeer) send(c *wire.Conn[registry.Command]) error {
	for _, cmd := range p.chunk {
		p.out.Add(cmd.Verb(), cmd.Topic(), cmd.Channel(), cmd)
	}
	defer p.out.Reset()
	p.commands.Add(uint64(p.out.Len()))
	err := c.Send(&p.out)
	if err == nil {
		return nil
	}
	select {
	case <-c.Done():
		return c.Err()
	case <-p.stopping.Done():
	case <-time.After(p.opts.ResponseTimeout):
	}
	return err
}

// leave says farewell, within leaveTimeout.
func (p *lookupPeer) leave(c *wire.Conn[registry.Command]) error {
	defer time.AfterFunc(leaveTimeout, c.Close).Stop()
	for more := true; more || c.NumInFlight() > 0; {
		if more && c.Room() > 0 {
			p.chunk, more = p.reg.Farewell(&p.cursor, p.chunk[:0])
			if len(p.chunk) > 0 && p.send(c) != nil {
				return nil
			}
			continue
		}
		select {
		case <-c.Answered():
		case <-c.Done():
			return nil
		}
	}
	return nil
}

// handle takes good answers. The connection's reader calls it.
func (p *lookupPeer) handle(a wire.Answers[registry.Command]) {
	if a.N > 0 {
		p.reg.Acknowledge(&p.cursor, a.N, a.Last)
	}
	if a.Ping {
		p.noteHeartbeat(a.RTT)
	}
}

func (p *lookupPeer) noteHeartbeat(rtt time.Duration) {
	p.lastHeartbeat.Store(time.Now().UnixNano())
	p.rtt.Store(rtt)
}

// synced notes that lookupd has acknowledged everything there was when it
// connected.
func (p *lookupPeer) synced() {
	p.syncedAt = time.Now()
	p.caution = registry.Caution{}
	state := *p.state.Load()
	state.lastError = nil
	p.state.Store(&state)
}

// disconnected draws the consequences of a lost connection or a failed
// attempt, and returns how long to wait before the next.
func (p *lookupPeer) disconnected(err error) (wait time.Duration) {
	if p.stopping.Err() != nil {
		p.transition(lost, peerState{})
		return 0
	}
	p.failures.Inc()
	if !p.syncedAt.IsZero() && time.Since(p.syncedAt) >= provenAfter {
		p.backoff.reset()
	}
	err = fromNetwork(err)
	var answer *ResponseError
	var refused *refusedError
	switch {
	case errors.As(err, &answer) && answer.Command == wire.Identify:
		wait = p.opts.MaxBackoff // it won't like the next one better
	case errors.As(err, &refused) && refused.isAboutName() &&
		p.reg.Refuse(&p.cursor, refused.cmd, refused.Code == codeBadTopic, refused.ResponseError, time.Now(), p.opts.MaxBackoff):
		wait = p.backoff.draw() // which is progress
	default:
		wait = p.backoff.next()
	}
	if answer != nil {
		err = answer
	}
	p.opts.Logger.Warn("lookupd disconnected", "address", p.address, "error", err, "retry in", wait)
	p.transition(lost, peerState{lastError: err, nextAttempt: time.Now().Add(wait)})
	return wait
}
