package lookuploop

import (
	"context"
	"errors"
	"time"

	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/resolve"
	"github.com/lookuploop/lookuploop/internal/wire"
)

// leaveTimeout bounds the farewell of a connection, from when it is to be left.
const leaveTimeout = time.Second

// lookupPeer keeps one nsqlookupd informed. The Loop makes it, starts run and
// waits for its end.
//
// Owned by the goroutine of run: the connection, all from backoff to sincePing,
// and every change of state. The connection's reader calls handle. Anyone may
// read the atomics and call wakeUp, heartbeat and stop. What is in cursor
// belongs to the registry.
type lookupPeer struct {
	key     string // the same for all spellings of address
	address string
	opts    *Options
	reg     *registry.Registry
	names   *resolve.Names // is told when a connection comes or goes
	cursor  *registry.Cursor

	wake         chan struct{} // capacity 1: readable when there may be something to say
	changed      atomic.Bool   // the broker changed since the last connection
	started      atomic.Bool   // run was started, which removes the cursor in the end
	heartbeatDue atomic.Bool
	stopping     context.Context // ends when the peer is to leave
	stop         context.CancelFunc
	left         chan struct{} // closed when run has returned

	backoff    backoff
	isUnwanted bool                         // lookupd refused the last IDENTIFY
	syncedAt   time.Time                    // when lookupd had acknowledged all there was when it connected; zero: not yet
	chunk      []registry.Command           // from the log
	out        wire.Batch[registry.Command] // to be sent
	resyncAt   time.Time
	sincePing  int    // commands sent since the last PING or IDENTIFY
	probe      *probe // nil: there is none
	trouble    trouble

	origin        atomic.Pointer[origin]
	state         atomic.Pointer[peerState]
	dialing       atomic.Time  // since when Dial has been running; zero: it isn't
	lastHeartbeat atomic.Int64 // in nanoseconds since 1970; 0: never
	rtt           atomic.Duration
	connects      atomic.Uint64
	failures      atomic.Uint64
	commands      atomic.Uint64
	probeError    atomic.Pointer[error] // why the probe doesn't get on; nil if it does, or isn't needed
}

func newLookupPeer(t target, opts *Options, reg *registry.Registry, names *resolve.Names) *lookupPeer {
	p := &lookupPeer{
		key:     t.key,
		address: t.address,
		opts:    opts,
		reg:     reg,
		names:   names,
		cursor:  reg.NewCursor(opts.MaxBackoff),
		wake:    make(chan struct{}, 1),
		left:    make(chan struct{}),
		backoff: backoff{min: opts.MinBackoff, max: opts.MaxBackoff},
	}
	p.stopping, p.stop = context.WithCancel(context.Background())
	p.state.Store(&peerState{state: Disconnected, since: time.Now()})
	p.origin.Store(&t.origin)
	return p
}

// wakeUp says that the broker changed. It never waits.
func (p *lookupPeer) wakeUp() {
	p.changed.Store(true)
	signal(p.wake)
}

// heartbeat asks for a PING on the connection, if there is one.
func (p *lookupPeer) heartbeat() {
	p.heartbeatDue.Store(true)
	signal(p.wake)
}

// run connects, talks and connects again until stop is called. When it
// returns, the last connection is closed and its reader has ended.
func (p *lookupPeer) run() {
	defer close(p.left)
	defer p.reg.Remove(p.cursor)
	for p.stopping.Err() == nil {
		p.syncedAt = time.Time{}
		started := time.Now()
		p.transition(dial, peerState{})
		c, info, err := p.connect(p.stopping)
		if err == nil {
			err = p.serve(c, info)
		}
		p.pause(started, p.disconnected(err))
	}
}

// hasLeft tells whether run has returned.
func (p *lookupPeer) hasLeft() bool {
	select {
	case <-p.left:
		return true
	default:
		return false
	}
}

// connect dials and identifies. When ctx ends it gives up, and closes what it
// dialed.
func (p *lookupPeer) connect(ctx context.Context) (*wire.Conn[registry.Command], PeerInfo, error) {
	dialing, cancel := context.WithTimeout(ctx, p.opts.DialTimeout)
	defer cancel()
	dialing = context.WithValue(dialing, configuredAddressKey{}, p.origin.Load().names[0])
	p.dialing.Store(time.Now())
	conn, err := p.opts.Dial(dialing, "tcp", p.address)
	p.dialing.Store(time.Time{})
	if err := wire.DialError(p.address, conn, err); err != nil {
		return nil, PeerInfo{}, p.aboutName(err)
	}
	c := wire.NewConn[registry.Command](p.address, conn, p.opts.ResponseTimeout, p.opts.MaxResponseSize)
	mayStay := context.AfterFunc(ctx, c.Close)
	info, err := p.identify(c)
	if !mayStay() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, PeerInfo{}, err
	}
	return c, info, nil
}

func (p *lookupPeer) identify(c *wire.Conn[registry.Command]) (PeerInfo, error) {
	p.commands.Inc()
	p.logCommand(wire.Identify, "", "")
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
	p.reg.Attach(p.cursor, time.Now()) // after the transition: who waited for it finds a Connected lookupd

	go c.ReadAnswers(p.handle)
	defer boundFarewell(p.stopping, c)()
	err := p.talk(c)
	p.probe.stop()
	p.probe = nil
	c.Close()
	<-c.Done()

	unanswered, isSevered := c.Unanswered(), errors.Is(err, c.Err()) && c.Severed()
	refused, isRefusal := errors.AsType[*refusedError](fromNetwork(err))
	if isRefusal && !refused.isAboutName() { // perhaps it is all the same
		unanswered, isSevered = append([]registry.Command{refused.cmd}, unanswered...), true
	}
	p.reg.Release(p.cursor, unanswered, isSevered)
	if isRefusal && refused.isAboutName() {
		p.reg.Refused(p.cursor, refused.cmd, refused.Code == codeBadTopic, refused.ResponseError, time.Now())
	}
	p.changed.Store(false)
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
		if p.syncedAt.IsZero() && p.reg.InSync(p.cursor) {
			p.synced()
		}
		if said {
			continue
		}
		if c.Rest() {
			p.chunk = nil
			p.out.Shrink()
		}
		ended := p.advanceProbe()
		var timer <-chan time.Time
		if !again.IsZero() {
			timer = time.After(time.Until(again))
		}
		select {
		case <-p.wake:
		case <-c.Answered():
		case <-ended:
			p.probe = nil
		case <-timer:
		case <-p.stopping.Done():
		case <-c.Done():
			return c.Err()
		}
	}
}

// advanceProbe tells the probe that the main connection got on, and returns a
// channel that is closed when it ends; nil if there is none.
func (p *lookupPeer) advanceProbe() <-chan struct{} {
	if p.probe == nil {
		return nil
	}
	signal(p.probe.news)
	return p.probe.ended
}

// say sends the next things, if any. Otherwise it returns when to ask again,
// unless something happens before.
func (p *lookupPeer) say(c *wire.Conn[registry.Command]) (said bool, again time.Time, err error) {
	isDue, isBlind := p.heartbeatDue.Swap(false), c.IsBlind()
	size := registry.ChunkSize
	if isBlind {
		size = wire.BlindChunk
	}
	var progress bool
	p.chunk, progress = p.reg.Read(p.cursor, min(c.Room(), size), p.chunk[:0])
	hasRead := len(p.chunk) > 0
	isLong := isBlind && p.sincePing >= wire.BlindChunk/2
	if isDue || isLong && hasRead { // a PING alone, behind what may be refused, could cost the refusal
		p.out.Ping()
		p.logCommand(wire.Ping, "", "")
		p.sincePing = 0
	}
	p.sincePing += p.out.Len() + len(p.chunk)
	if isDue || hasRead {
		return true, time.Time{}, p.send(c, &p.out, p.chunk)
	}
	if progress { // what was read says nothing, and what follows may say something
		return true, time.Time{}, nil
	}
	if p.probe == nil {
		var isNeeded bool
		if isNeeded, again = p.reg.NeedsProbe(p.cursor, time.Now()); isNeeded {
			p.probe = newProbe(p)
			go p.probe.run()
		}
	}
	if p.opts.ResyncInterval > 0 {
		if isDue := !time.Now().Before(p.resyncAt); isDue && p.reg.Resync(p.cursor) {
			p.resyncAt = time.Now().Add(p.opts.ResyncInterval)
			return true, time.Time{}, nil
		} else if !isDue && (again.IsZero() || p.resyncAt.Before(again)) {
			again = p.resyncAt
		}
	}
	return false, again, nil
}

// send writes commands of the registry, behind what is in out already. When that
// fails, the reader has the better explanation.
func (p *lookupPeer) send(c *wire.Conn[registry.Command], out *wire.Batch[registry.Command], commands []registry.Command) error {
	for _, cmd := range commands {
		out.Add(cmd.Verb(), cmd.Topic(), cmd.Channel(), cmd)
		p.logCommand(cmd.Verb(), cmd.Topic(), cmd.Channel())
	}
	defer out.Reset()
	p.commands.Add(uint64(out.Len()))
	err := c.Send(out)
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

// boundFarewell closes c leaveTimeout after ctx ended, whatever is under way then: a
// write from before may be stuck.
func boundFarewell(ctx context.Context, c *wire.Conn[registry.Command]) (stop func() bool) {
	return context.AfterFunc(ctx, func() { time.AfterFunc(leaveTimeout, c.Close) })
}

// leave says farewell. boundFarewell bounds that.
func (p *lookupPeer) leave(c *wire.Conn[registry.Command]) error {
	for more := true; more || c.NumInFlight() > 0; {
		if more && c.Room() > 0 {
			p.chunk, more = p.reg.Farewell(p.cursor, p.chunk[:0])
			if len(p.chunk) > 0 && p.send(c, &p.out, p.chunk) != nil {
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
		p.reg.Acknowledge(p.cursor, a.N, a.Last)
	}
	if a.Ping {
		p.noteHeartbeat(a.RTT)
	}
}

func (p *lookupPeer) noteHeartbeat(rtt time.Duration) {
	p.lastHeartbeat.Store(time.Now().UnixNano())
	p.rtt.Store(rtt)
}
