package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lookuploop/lookuploop/internal/registry"
)

// WaitRegistered waits until n nsqlookupds are connected and know everything that
// was accepted before the call, all at the same time. If n <= 0, it waits for all
// that are configured, and returns nil at once if there are none, as after Drain. If n
// is larger than the number of configured addresses, it waits until addresses are added.
//
// An nsqlookupd that refused a name doesn't count. If too few others remain,
// WaitRegistered returns the joined *[ResponseError] values. If ctx ends first, the
// error wraps ctx.Err() and the error of [Loop.Registered], which says which
// nsqlookupds are missing and why. It may be called from any goroutine except in
// OnStateChange, and before Run. Once Run's context has ended it returns [ErrClosed].
func (l *Loop) WaitRegistered(ctx context.Context, n int) error {
	ended := ctx.Done() // a nil context panics here
	watch := l.reg.Watch()
	defer watch.Stop()
	for {
		if l.hasEnded() {
			return ErrClosed
		}
		if done, err := l.isRegistered(watch.Place(), n); done {
			return err
		}
		select {
		case <-watch.Changed():
		case <-l.ended:
		case <-ended:
			return fmt.Errorf("%w: %w", l.missing(n), ctx.Err())
		}
	}
}

// Registered is for readiness probes. It returns nil if n nsqlookupds know
// everything now, or all that are configured if n <= 0. It doesn't wait. Use n >= 1:
// with n <= 0, a broker without addresses is registered, as after Drain.
//
// Otherwise the error is [ErrNotRegistered]. It says which nsqlookupds are missing
// and why, and wraps the errors of their connections. If too many nsqlookupds
// refused names for n to be reached, the error joins their *[ResponseError] values
// instead. Once Run's context has ended it is [ErrClosed]. It may be called from any
// goroutine, also in OnStateChange, and before Run.
func (l *Loop) Registered(n int) error {
	if l.hasEnded() {
		return ErrClosed
	}
	if done, err := l.isRegistered(l.reg.End(), n); done {
		return err
	}
	return l.missing(n)
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
	all := l.reg.View(c).Refusals
	if more := len(all) - maxRefusals; more > 0 {
		all = append(all[:maxRefusals:maxRefusals], fmt.Errorf("lookuploop: and %d more names", more))
	}
	return errors.Join(all...)
}

// missing says why n lookupds don't know everything.
func (l *Loop) missing(n int) error {
	status := l.Status()
	var reasons reasons
	if configured := len(status.Lookupds); n > configured {
		why := ""
		if configured == 0 {
			why = " (Drain, or no addresses)"
		}
		reasons = append(reasons, fmt.Errorf("%d wanted, %d configured%s", n, configured, why))
	}
	if l.running.Load() == nil {
		reasons = append(reasons, l.notRunning())
		return fmt.Errorf("%w: %w", ErrNotRegistered, reasons)
	}
	for _, s := range status.Lookupds {
		if reason := s.missing(); reason != nil {
			reasons = append(reasons, reason)
		}
	}
	if len(reasons) == 0 {
		reasons = append(reasons, errors.New("the last of it was acknowledged just now"))
	}
	return fmt.Errorf("%w: %w", ErrNotRegistered, reasons)
}

// missing says why one lookupd doesn't know everything; nil if it does.
func (s LookupdStatus) missing() error {
	reason := s.LastError
	if reason == nil {
		reason = s.ResolveError
	}
	name := s.Address
	if len(s.Names) > 0 && s.Names[0] != name {
		name = fmt.Sprintf("%s (%s)", s.Names[0], s.Address)
	}
	switch {
	case len(s.Refused) > 0:
		return fmt.Errorf("%s refused %s (%w)", name, count(len(s.Refused), "name"), complaint{s.Address, s.Refused[0]})
	case s.State == Connected && s.Pending > 0:
		return fmt.Errorf("%s has %s to acknowledge", name, count(s.Pending, "change"))
	case s.State != Connected && reason != nil:
		return fmt.Errorf("%s is %v (%w)", name, s.State, complaint{s.Address, reason})
	case s.State != Connected:
		return fmt.Errorf("%s is %v", name, s.State)
	case !s.MissingSince.IsZero():
		return fmt.Errorf("%s has just connected, or OnStateChange has not returned", name)
	}
	return nil
}

// count is "1 name", "2 names".
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// reasons are errors in one line.
type reasons []error

func (r reasons) Error() string {
	var texts []string
	for _, err := range r {
		texts = append(texts, err.Error())
	}
	return strings.Join(texts, ", ")
}

func (r reasons) Unwrap() []error { return r }

// complaint is an error about a lookupd where its address has been said already.
type complaint struct {
	address string
	error
}

func (c complaint) Error() string {
	return strings.TrimPrefix(c.error.Error(), "lookuploop: "+c.address+": ")
}

func (c complaint) Unwrap() error { return c.error }
