package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
)

// probe asks lookupd about names that it may refuse, over a connection of its
// own: what goes wrong there costs the main connection nothing. There is one at
// a time, beside a main connection that is in sync.
//
// The peer's goroutine makes it, starts run and waits for ended. All but the
// channels belongs to run's goroutine; the connection's reader calls handle.
type probe struct {
	peer     *lookupPeer
	ctx      context.Context // ends with the main connection
	cancel   context.CancelFunc
	ended    chan struct{} // closed when run has returned
	news     chan struct{} // capacity 1: readable when the main connection got on; the peer sends, run receives
	answered atomic.Bool   // lookupd acknowledged something on this connection
}

func newProbe(p *lookupPeer) *probe {
	pr := &probe{peer: p, ended: make(chan struct{}), news: make(chan struct{}, 1)}
	pr.ctx, pr.cancel = context.WithCancel(p.stopping)
	return pr
}

// stop ends the probe and waits for it. A nil probe has ended.
func (pr *probe) stop() {
	if pr != nil {
		pr.cancel()
		<-pr.ended
	}
}

// run asks until there is nothing left to ask. As long as a connection brings
// something to light the next one follows at once.
func (pr *probe) run() {
	defer close(pr.ended)
	defer pr.cancel()
	defer pr.peer.probeError.Store(nil)
	pauses := backoff{min: pr.peer.opts.MinBackoff, max: pr.peer.opts.MaxBackoff}
	for pr.ctx.Err() == nil {
		gotOn, err := pr.once()
		switch {
		case err == nil:
			return
		case gotOn:
			pauses.reset()
			continue
		case pr.ctx.Err() == nil:
			err = fmt.Errorf("lookuploop: %s: second connection, for names in doubt: %w", pr.peer.address, err)
			pr.peer.probeError.Store(&err)
		}
		if !pr.pause(pauses.next()) {
			return
		}
	}
}

// pause waits before the next connection, and tells whether one is needed still.
func (pr *probe) pause(d time.Duration) bool {
	end := time.After(d)
	for {
		select {
		case <-end:
			return true
		case <-pr.news:
			if isNeeded, _ := pr.peer.reg.NeedsProbe(pr.peer.cursor, time.Now()); !isNeeded {
				return false
			}
		case <-pr.ctx.Done():
			return false
		}
	}
}

// once asks over one connection. It returns nil when everything was asked, and
// otherwise why the connection ended and whether that told anything.
func (pr *probe) once() (gotOn bool, err error) {
	p := pr.peer
	c, _, err := p.connect(pr.ctx)
	if err != nil {
		return false, err
	}
	pr.answered.Store(false)
	go c.ReadAnswers(pr.handle)
	defer boundFarewell(pr.ctx, c)()
	isDone, err := pr.ask(c)
	c.Close()
	<-c.Done()

	refused, isRefusal := errors.AsType[*refusedError](fromNetwork(c.Err()))
	if isRefusal { // whatever the code: nothing else was asked that lookupd could mean
		p.reg.ProbeRefused(p.cursor, refused.cmd, refused.Code == codeBadTopic, refused.ResponseError, time.Now())
	}
	isSevered := !isDone && pr.ctx.Err() == nil && errors.Is(err, c.Err()) && c.Severed()
	culprit, gotOn := p.reg.ProbeLost(p.cursor, isSevered, pr.ctx.Err() != nil)
	if culprit != nil {
		message := "connection closed without an answer"
		if errors.Is(c.Err(), os.ErrDeadlineExceeded) {
			message = fmt.Sprintf("no answer within %v", p.opts.ResponseTimeout)
		} else if answer, ok := errors.AsType[wire.UnexpectedAnswer](c.Err()); ok {
			message = answer.Error()
		}
		p.reg.ProbeRefused(p.cursor, *culprit, false, &ResponseError{
			Address: p.address,
			Command: culprit.Verb(),
			Topic:   culprit.Topic(),
			Channel: culprit.Channel(),
			Message: message + ", each time",
		}, time.Now())
	}
	if isDone {
		return true, nil
	}
	return pr.answered.Load() || isRefusal || gotOn, fromNetwork(err)
}

// ask asks until the connection ends, or everything was asked and the main
// connection has what lookupd accepted. Then lookupd is left, and isDone.
func (pr *probe) ask(c *wire.Conn[registry.Command]) (isDone bool, err error) {
	p := pr.peer
	var chunk []registry.Command
	var out wire.Batch[registry.Command]
	for {
		isDone = p.reg.ProbeDone(p.cursor)
		if isDone || pr.ctx.Err() != nil {
			err := pr.leave(c)
			return isDone && err == nil, err
		}
		limit := min(c.Room(), registry.ChunkSize)
		if chunk = p.reg.Probe(p.cursor, time.Now(), limit, chunk[:0]); len(chunk) > 0 {
			if err := p.send(c, &out, chunk); err != nil {
				return false, err
			}
			continue
		}
		if p.reg.ProbeDone(p.cursor) { // the last names to ask about were none any more
			continue
		}
		select {
		case <-c.Answered():
		case <-pr.news:
		case <-pr.ctx.Done():
		case <-c.Done():
			return false, c.Err()
		}
	}
}

// leave unregisters what is ephemeral, within leaveTimeout. It returns why not all
// of it was answered.
func (pr *probe) leave(c *wire.Conn[registry.Command]) error {
	p := pr.peer
	var out wire.Batch[registry.Command]
	farewell := p.reg.ProbeFarewell(p.cursor, nil)
	if len(farewell) == 0 {
		return nil
	}
	defer time.AfterFunc(leaveTimeout, c.Close).Stop() // also if the main connection stays
	if err := p.send(c, &out, farewell); err != nil {
		return err
	}
	for c.NumInFlight() > 0 {
		select {
		case <-c.Answered():
		case <-c.Done():
			return c.Err()
		}
	}
	return nil
}

// handle takes good answers.
func (pr *probe) handle(a wire.Answers[registry.Command]) {
	pr.answered.Store(true)
	pr.peer.reg.ProbeAcknowledge(pr.peer.cursor, a.N)
	signal(pr.peer.wake)
}
