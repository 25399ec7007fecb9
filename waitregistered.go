package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lookuploop/lookuploop/internal/registry"
)

// WaitRegistered returns once n nsqlookupds (n <= 0: all that are configured)
// are connected and have acknowledged, at one instant, everything that was
// accepted before the call. With more than there are it waits for addresses to
// be added; n <= 0 without any address returns at once.
//
// An nsqlookupd that refused a name counts as one that doesn't have it. When n
// can't be reached without such, the error joins their *ResponseErrors. When
// ctx ends, the error wraps ctx.Err() and says which nsqlookupds are missing
// and why. It may be called from any goroutine but OnStateChange, also before
// Run; once Run's context has ended it returns ErrClosed.
func (l *Loop) WaitRegistered(ctx context.Context, n int) error {
	ended := ctx.Done() // a nil context panics here
	target := l.reg.End()
	watch := l.reg.Watch()
	defer watch.Stop()
	for {
		changed := watch.Changed()
		if l.hasEnded() {
			return ErrClosed
		}
		if done, err := l.isRegistered(target, n); done {
			return err
		}
		select {
		case <-changed:
		case <-l.ended:
		case <-ended:
			return fmt.Errorf("lookuploop: not registered: %s: %w", l.missing(), ctx.Err())
		}
	}
}

// isRegistered tells whether the wait for n lookupds to acknowledge target is
// over, and with what.
func (l *Loop) isRegistered(target uint64, n int) (bool, error) {
	peers := l.lookupPeers()
	if n <= 0 {
		n = len(peers)
	}
	cursors := make([]*registry.Cursor, len(peers))
	for i, p := range peers {
		cursors[i] = p.cursor
	}
	registered := 0
	var refusing []*registry.Cursor
	for i, standing := range l.reg.Standing(cursors, target) {
		switch {
		case standing.Refuses:
			refusing = append(refusing, cursors[i])
		case standing.Acknowledged:
			registered++
		}
	}
	switch {
	case registered >= n:
		return true, nil
	case len(peers) >= n && len(peers)-len(refusing) < n:
		var errs []error
		for _, c := range refusing {
			errs = append(errs, l.refusals(c))
		}
		return true, errors.Join(errs...)
	}
	return false, nil
}

// maxRefusals bounds how many refused names of one lookupd an error names.
const maxRefusals = 10

// refusals returns the refusals of one lookupd, joined.
func (l *Loop) refusals(c *registry.Cursor) error {
	_, all := l.reg.View(c)
	if more := len(all) - maxRefusals; more > 0 {
		all = append(all[:maxRefusals:maxRefusals], fmt.Errorf("lookuploop: and %d more names", more))
	}
	return errors.Join(all...)
}

// missing says of each lookupd that doesn't know everything why it doesn't.
func (l *Loop) missing() string {
	var texts []string
	for _, s := range l.Status().Lookupds {
		switch {
		case len(s.Refused) > 0:
			texts = append(texts, fmt.Sprintf("%s refused %d names", s.Address, len(s.Refused)))
		case s.State == Connected && s.Pending > 0:
			texts = append(texts, fmt.Sprintf("%s has %d changes to acknowledge", s.Address, s.Pending))
		case s.State != Connected && s.LastError == nil && s.ResolveError != nil:
			texts = append(texts, fmt.Sprintf("%s is %v (%v)", s.Address, s.State, s.ResolveError))
		case s.State != Connected && s.LastError != nil:
			texts = append(texts, fmt.Sprintf("%s is %v (%v)", s.Address, s.State, s.LastError))
		case s.State != Connected:
			texts = append(texts, fmt.Sprintf("%s is %v", s.Address, s.State))
		}
	}
	if len(texts) == 0 {
		return "too few lookupd addresses"
	}
	return strings.Join(texts, ", ")
}
