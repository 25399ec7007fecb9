package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop/internal/wire"
)

// peerEvent is what moves a peer from one State to the next.
type peerEvent int

const (
	dial peerEvent = iota
	identified
	lost
)

// transitions is the state machine of a peer: the README's diagram is made of
// it, and nothing else changes a State.
var transitions = []struct {
	from  State
	event peerEvent
	to    State
	when  string
}{
	{Disconnected, dial, Connecting, "just added, or the backoff is over"},
	{Connecting, identified, Connected, "IDENTIFY answered, cursor to 0"},
	{Connecting, lost, Disconnected, "dial failed, IDENTIFY refused, timeout"},
	{Connected, lost, Disconnected, "closed, error answer, timeout, removed"},
}

// next returns where event leads to.
func (s State) next(event peerEvent) State {
	for _, t := range transitions {
		if t.from == s && t.event == event {
			return t.to
		}
	}
	panic(fmt.Sprintf("lookuploop: no transition from %v by event %d", s, event)) // a fault of ours: nothing from outside leads here
}

// peerState is what changes together; it is replaced, never changed.
type peerState struct {
	state       State
	since       time.Time
	info        PeerInfo
	lastError   error
	nextAttempt time.Time
	isHanging   bool // the last attempt or connection ended with a time-out
}

// transition enters the next State. What is not set in after stays as it was,
// but for nextAttempt.
func (p *lookupPeer) transition(event peerEvent, after peerState) {
	before := p.state.Load()
	after.state, after.since = before.state.next(event), time.Now()
	if event != identified {
		after.info = before.info
	}
	if event == dial {
		after.isHanging = before.isHanging
	}
	if after.lastError == nil {
		after.lastError = before.lastError
	}
	p.state.Store(&after)
	switch {
	case after.state == Connected:
		p.names.Connected(p.key)
	case before.state == Connected:
		p.names.Disconnected(p.key)
	}
	if event == identified && p.trouble.since.IsZero() {
		p.opts.Logger.Info("lookupd connected", p.attributes("version", after.info.Version,
			"announced_as", net.JoinHostPort(p.opts.BroadcastAddress, strconv.Itoa(p.opts.BroadcastTCPPort)))...)
	}
	if p.opts.OnStateChange != nil {
		p.opts.OnStateChange(p.status())
	}
}

func (p *lookupPeer) status() LookupdStatus {
	s := p.state.Load()
	from := p.origin.Load()
	view := p.reg.View(p.cursor)
	lastError := s.lastError
	if err := p.probeError.Load(); lastError == nil && err != nil {
		lastError = *err
	}
	if at := p.dialing.Load(); !at.IsZero() && time.Since(at) > 2*p.opts.DialTimeout {
		lastError = fmt.Errorf("lookuploop: %s: dial: Options.Dial has not returned for %v, although its context ended after %v",
			p.address, time.Since(at).Round(time.Second), p.opts.DialTimeout)
	}
	var lastHeartbeat time.Time
	if at := p.lastHeartbeat.Load(); at > 0 {
		lastHeartbeat = time.Unix(0, at)
	}
	return LookupdStatus{
		Address:       p.address,
		Names:         from.names,
		ResolveError:  from.resolveError,
		State:         s.state,
		Since:         s.since,
		Info:          s.info,
		MissingSince:  view.MissingSince,
		Pending:       view.Pending,
		Refused:       responseErrors(view.Refusals),
		LastError:     lastError,
		LastHeartbeat: lastHeartbeat,
		RTT:           p.rtt.Load(),
		Connects:      p.connects.Load(),
		Failures:      p.failures.Load(),
		Commands:      p.commands.Load(),
		NextAttempt:   s.nextAttempt,
	}
}

// responseErrors gives refusals of the registry their type back.
func responseErrors(refusals []error) []*ResponseError {
	var all []*ResponseError
	for _, err := range refusals {
		if refusal, ok := errors.AsType[*ResponseError](err); ok {
			all = append(all, refusal)
		}
	}
	return all
}

// wakePause lies at least between two attempts to connect of which a change
// brought about the second.
const wakePause = time.Second

// disconnected draws the consequences of a lost connection or a failed
// attempt, and returns how long to wait before the next.
func (p *lookupPeer) disconnected(err error) (wait time.Duration) {
	if p.stopping.Err() != nil {
		wasConnected := p.state.Load().state == Connected
		p.transition(lost, peerState{})
		if wasConnected {
			p.opts.Logger.Info("lookupd left", p.attributes()...)
		}
		return 0
	}
	p.failures.Inc()
	err = fromNetwork(err)
	answer, isAnswer := errors.AsType[*ResponseError](err)
	refused, isRefusal := errors.AsType[*refusedError](err)
	p.isUnwanted = isAnswer && answer.Command == wire.Identify
	isHanging := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	switch {
	case p.isUnwanted: // it won't like the next one better
		wait = p.opts.MaxBackoff/2 + rand.N(p.opts.MaxBackoff/2+1)
	case isRefusal && refused.isAboutName(): // lookupd is there
		p.backoff.reset()
		wait = p.backoff.draw()
	case !p.syncedAt.IsZero():
		wait = p.backoff.held(time.Since(p.syncedAt))
	case p.state.Load().state == Connected && !isHanging: // it is there
		wait = p.backoff.held(0)
	default:
		wait = p.backoff.next()
	}
	if isAnswer {
		err = answer
	}
	p.logFailure(err, wait)
	p.transition(lost, peerState{lastError: err, nextAttempt: time.Now().Add(wait), isHanging: isHanging})
	return wait
}

// synced notes that lookupd has acknowledged everything there was when it
// connected.
func (p *lookupPeer) synced() {
	p.syncedAt = time.Now()
	state := *p.state.Load()
	state.lastError = nil
	p.state.Store(&state)
	p.logRecovery()
}

// trouble is what the log says of a lookupd that is not in sync. It begins with
// the first failure and ends when lookupd has acknowledged everything.
type trouble struct {
	since    time.Time // zero: there is none
	failures int       // since then
	reason   string    // of the last failure that was logged, without digits; empty: none was yet

	lines    int           // that were logged since lookupd was last well for remindPause, without reminders
	loggedAt time.Time     // the last one
	pause    time.Duration // until the next, for another reason or of another trouble
	endedAt  time.Time     // the last trouble
}

const (
	remindPause = 10 * time.Minute // between two lines about a trouble that goes on
	logPause    = time.Minute      // the first pause, which doubles up to remindPause
	logBurst    = 6                // lines before the first pause: a trouble has two, how the connection ended and why there is no other
)

// logFailure logs the first failure, those for another reason, and now and then
// that the trouble goes on. A lookupd that comes and goes, or fails for ever
// changing reasons, is logged ever more rarely: what was left out is logged when
// the pause is over, if it is still so.
func (p *lookupPeer) logFailure(err error, wait time.Duration) {
	t, now := &p.trouble, time.Now()
	if t.since.IsZero() {
		t.since = now
		if now.Sub(t.endedAt) > remindPause {
			t.lines, t.pause = 0, 0
		}
	}
	t.failures++
	text := complaint{p.address, err}.Error()
	reason := strings.Map(withoutDigits, text) // such as the port of this end
	switch sinceLogged := now.Sub(t.loggedAt); {
	case reason == t.reason && sinceLogged < remindPause, reason != t.reason && sinceLogged < t.pause:
		return
	case reason != t.reason:
		if t.lines++; t.lines >= logBurst {
			t.pause = min(max(2*t.pause, logPause), remindPause)
		}
	}
	t.loggedAt, t.reason = now, reason
	p.opts.Logger.Warn("lookupd is not connected", p.attributes("error", text,
		"for", now.Sub(t.since).Round(time.Millisecond), "failures", t.failures, "retry_in", wait.Round(time.Millisecond))...)
}

// logRecovery logs the end of a trouble that was logged. After one that wasn't, the
// last line still says that lookupd is back.
func (p *lookupPeer) logRecovery() {
	t := p.trouble
	if t.since.IsZero() {
		return
	}
	p.trouble = trouble{lines: t.lines, loggedAt: t.loggedAt, pause: t.pause, endedAt: time.Now()}
	if t.reason != "" {
		p.opts.Logger.Info("lookupd is back", p.attributes("after", time.Since(t.since).Round(time.Millisecond),
			"failures", t.failures, "refused", len(p.reg.View(p.cursor).Refusals))...)
	}
}

// attributes are those of a line of the log: which lookupd it is about, and more.
func (p *lookupPeer) attributes(more ...any) []any {
	all := []any{"address", p.address}
	if name := p.origin.Load().names[0]; name != p.address {
		all = append(all, "name", name)
	}
	return append(all, more...)
}

func withoutDigits(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// logCommand is for those who debug. It costs next to nothing while the Logger
// leaves such lines out.
func (p *lookupPeer) logCommand(verb, topic, channel string) {
	if logger := p.opts.Logger; logger.Enabled(context.Background(), slog.LevelDebug) {
		logger.Debug("command", "address", p.address, "command", verb, "topic", topic, "channel", channel)
	}
}

// pause waits before the next attempt. A change of the broker, now or during the
// attempt that failed, cuts it short: it is worth a try if lookupd is back.
func (p *lookupPeer) pause(lastAttempt time.Time, wait time.Duration) {
	end := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		if soon := lastAttempt.Add(wakePause); p.changed.Swap(false) && !p.isUnwanted && soon.Before(end) {
			end = soon
			timer.Reset(time.Until(end))
		}
		select {
		case <-timer.C:
			return
		case <-p.wake:
		case <-p.stopping.Done():
			return
		}
	}
}

// backoff draws the pauses between attempts: full jitter below a limit that
// starts at min and doubles up to max.
type backoff struct {
	min, max time.Duration
	limit    time.Duration // of the next; below min it counts as min
}

func (b *backoff) reset() { b.limit = 0 }

// syncedBackoff bounds the pause after a connection on which lookupd was in sync,
// or that broke before without hanging.
const syncedBackoff = time.Second

// held draws the pause after a connection that ended when lookupd had been in sync
// for d. So the pauses stay short for one that is restarted often, and get longer,
// within syncedBackoff, for one that breaks at once on what it acknowledged.
func (b *backoff) held(d time.Duration) time.Duration {
	b.limit = max(min(b.limit, syncedBackoff)-d, 0)
	if b.limit == 0 && d >= b.min { // that was no failure
		return b.draw()
	}
	return b.next()
}

// next draws a pause and doubles the limit.
func (b *backoff) next() time.Duration {
	pause := b.draw()
	b.limit = min(2*max(b.limit, b.min), b.max)
	return pause
}

// draw draws a pause below the limit as it is.
func (b *backoff) draw() time.Duration { return rand.N(max(b.limit, b.min) + 1) }
