package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/atomic"
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
	reg     *registry
	cursor  cursor

	wake         chan struct{} // capacity 1: readable when there may be something to say
	heartbeatDue atomic.Bool
	stopping     context.Context // ends when the peer is to leave
	stop         context.CancelFunc

	backoff   backoff
	caution   caution
	syncedAt  time.Time // when lookupd had acknowledged all there was when it connected; zero: not yet
	out       batch
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

func newLookupPeer(t target, opts *Options, reg *registry) *lookupPeer {
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
func (p *lookupPeer) connect() (*connection, PeerInfo, error) {
	ctx, cancel := context.WithTimeout(p.stopping, p.opts.DialTimeout)
	defer cancel()
	conn, err := p.opts.Dial(ctx, "tcp", p.address)
	if err == nil && conn == nil {
		err = errors.New("Options.Dial returned neither connection nor error")
	}
	if err != nil {
		return nil, PeerInfo{}, fmt.Errorf("lookuploop: %s: dial: %w", p.address, err)
	}
	c := newConnection(p.address, conn, p.opts.ResponseTimeout, p.opts.MaxResponseSize)
	mayStay := context.AfterFunc(p.stopping, c.close)
	p.commands.Inc()
	info, err := c.identify(p.opts.identity())
	if !mayStay() && err == nil {
		err = context.Cause(p.stopping)
	}
	if err != nil {
		c.close()
		return nil, PeerInfo{}, err
	}
	p.noteHeartbeat(time.Since(c.started))
	return c, info, nil
}

// serve keeps lookupd informed over one connection until that ends. It returns
// why; nil if the peer left.
func (p *lookupPeer) serve(c *connection, info PeerInfo) error {
	p.heartbeatDue.Store(false)
	p.sincePing = 0
	p.resyncAt = time.Now().Add(p.opts.ResyncInterval)
	p.connects.Inc()
	p.transition(identified, peerState{info: info})
	p.reg.attach(&p.cursor) // after the transition: who waited for it finds a Connected lookupd

	go c.readAnswers(p.handle)
	defer context.AfterFunc(p.stopping, func() { // or a write that is stuck would delay the farewell
		c.conn.SetWriteDeadline(time.Now().Add(leaveTimeout))
	})()
	err := p.talk(c)
	c.close()
	<-c.done

	acked, unanswered := p.reg.release(&p.cursor)
	p.caution = caution{}
	if errors.Is(err, c.err) && c.severed && unanswered > 0 {
		p.caution = newCaution(acked, unanswered)
	}
	return err
}

// talk says what there is to say until the connection ends or the peer has left.
func (p *lookupPeer) talk(c *connection) error {
	for {
		if p.stopping.Err() != nil {
			return p.leave(c)
		}
		said, again, err := p.say(c)
		if err != nil {
			return err
		}
		if p.syncedAt.IsZero() && p.reg.inSync(&p.cursor) {
			p.synced()
		}
		if said {
			continue
		}
		if c.rest() && cap(p.out.commands) > idleQueue {
			p.out = batch{}
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-p.wake:
		case <-c.answered:
		case <-timer:
		case <-p.stopping.Done():
		case <-c.done:
			return c.err
		}
	}
}

// say sends the next things, if any. Otherwise it returns when to ask again,
// unless something happens before.
func (p *lookupPeer) say(c *connection) (said bool, again time.Time, err error) {
	p.out.reset()
	isDue, isBlind := p.heartbeatDue.Swap(false), c.isBlind()
	if isDue || isBlind && p.sincePing >= blindChunk/2 {
		p.out.add(command{verb: ping})
	}
	pings := len(p.out.commands)
	if err := p.read(c, isBlind); err != nil {
		return false, time.Time{}, err
	}
	if !isDue && len(p.out.commands) == pings {
		p.out.reset() // a PING alone, behind what may be refused, could cost the refusal
	} else if pings > 0 {
		p.sincePing = 0
	}
	p.sincePing += len(p.out.commands)
	if len(p.out.commands) == 0 {
		again = p.reg.retry(&p.cursor, &p.out)
	}
	if len(p.out.commands) == 0 && p.opts.ResyncInterval > 0 {
		if isDue := !time.Now().Before(p.resyncAt); isDue && p.reg.resync(&p.cursor) {
			p.resyncAt = time.Now().Add(p.opts.ResyncInterval)
			return true, time.Time{}, nil
		} else if !isDue && (again.IsZero() || p.resyncAt.Before(again)) {
			again = p.resyncAt
		}
	}
	if len(p.out.commands) == 0 {
		return false, again, nil
	}
	return true, time.Time{}, p.send(c)
}

// read adds the next chunk of the log to out, a small one if isBlind, as far as
// the window and caution allow.
func (p *lookupPeer) read(c *connection, isBlind bool) error {
	size := chunkSize
	if isBlind {
		size = blindChunk
	}
	limit, upTo := p.caution.limits(p.reg, &p.cursor, c.numInFlight(), min(c.room(), size))
	before := len(p.out.commands)
	err := p.reg.read(&p.cursor, limit, upTo, &p.out)
	p.caution.spend(upTo, len(p.out.commands)-before)
	return err
}

// send writes out. When that fails, the reader has the better explanation.
func (p *lookupPeer) send(c *connection) error {
	p.commands.Add(uint64(len(p.out.commands)))
	err := c.send(&p.out)
	if err == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.err
	case <-p.stopping.Done():
	case <-time.After(p.opts.ResponseTimeout):
	}
	return c.explain(p.out.commands[0].verb, err)
}

// leave says farewell, within leaveTimeout.
func (p *lookupPeer) leave(c *connection) error {
	defer time.AfterFunc(leaveTimeout, c.close).Stop()
	for more := true; more || c.numInFlight() > 0; {
		if more && c.room() > 0 {
			p.out.reset()
			more = p.reg.farewell(&p.cursor, &p.out)
			if len(p.out.commands) > 0 && p.send(c) != nil {
				return nil
			}
			continue
		}
		select {
		case <-c.answered:
		case <-c.done:
			return nil
		}
	}
	return nil
}

// handle takes good answers. The connection's reader calls it.
func (p *lookupPeer) handle(a answers) {
	if a.logged > 0 {
		p.reg.acknowledge(&p.cursor, a.logged, a.last)
	}
	if a.ping {
		p.noteHeartbeat(a.rtt)
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
	p.caution = caution{}
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
	var answer *ResponseError
	var refused *refusedError
	switch {
	case errors.As(err, &answer) && answer.Command == identify.String():
		wait = p.opts.MaxBackoff // it won't like the next one better
	case errors.As(err, &refused) && p.reg.refuse(&p.cursor, refused, p.opts.MaxBackoff):
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
