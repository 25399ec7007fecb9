package resolve

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// Timeout bounds one look-up of a name, the targets of a SRV name included.
	Timeout = 5 * time.Second

	maxAddresses = 64 // of a name, and targets of a SRV name
	maxErrors    = 4  // that are kept of one look-up
	maxErrorText = 255
)

// target is a host to look up, and the port that goes with its addresses.
type target struct {
	host string
	port uint16
}

// answer is what was found out about a target.
type answer struct {
	target
	addresses []netip.AddrPort // usable ones, in ascending order, each once
	err       error            // there may be more; addresses may be there all the same
}

// lookUp looks the name up once, and learns each answer when it comes. It
// returns what went wrong, and whether there was no address at all.
func (x *name) lookUp(ctx context.Context) (err error, isEmpty bool) {
	timed, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	found := findings{seen: make(map[netip.AddrPort]target), failed: make(map[target]bool)}
	targets := []target{{x.address.host, x.address.port}}
	if x.address.IsSRV() {
		targets, found.errs = x.srvTargets(timed)
	}
	found.isEmpty = len(targets) == 0
	answers := make(chan answer)
	for _, t := range targets {
		go func() { answers <- x.lookUpHost(timed, t) }()
	}
	for range targets {
		a := <-answers
		if a.err != nil && x.address.IsSRV() {
			a.err = fmt.Errorf("%.255q: %w", a.host, a.err)
		}
		found.add(a)
		x.learn(ctx, a)
	}
	if n := len(found.seen); n > maxAddresses {
		found.errs = append(found.errs, fmt.Errorf("the name leads to %d addresses, of which %d are used", n, maxAddresses))
	}
	err = newLookupError(x.address.Text, found.errs)
	x.conclude(ctx, &found, err)
	return err, len(found.seen) == 0
}

// srvTargets returns what the records of a SRV name lead to, in a fixed order.
func (x *name) srvTargets(ctx context.Context) (targets []target, errs []error) {
	_, records, err := x.names.Resolver.LookupSRV(ctx, "", "", x.address.host)
	if err != nil {
		errs = append(errs, usable(err))
	}
	for _, r := range records {
		switch {
		case r == nil || r.Target == "" || r.Target == "." || r.Port == 0: // "." means that the service isn't offered (RFC 2782)
			errs = append(errs, errors.New("a SRV record has no target or no port"))
		default:
			targets = append(targets, target{r.Target, r.Port})
		}
	}
	slices.SortFunc(targets, func(a, b target) int {
		if c := strings.Compare(a.host, b.host); c != 0 {
			return c
		}
		return int(a.port) - int(b.port)
	})
	targets = slices.Compact(targets)
	if n := len(targets); n > maxAddresses {
		targets = targets[:maxAddresses]
		errs = append(errs, fmt.Errorf("%d SRV records, of which %d are used", n, maxAddresses))
	}
	if len(targets) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("the name has no SRV records"))
	}
	return targets, errs
}

func (x *name) lookUpHost(ctx context.Context, t target) answer {
	a := answer{target: t}
	ips, err := x.names.Resolver.LookupNetIP(ctx, x.names.Network, t.host)
	a.err = usable(err)
	unusable := 0
	for _, ip := range ips {
		ip = ip.Unmap()
		if x.isUsable(ip) {
			a.addresses = append(a.addresses, netip.AddrPortFrom(ip, t.port))
		} else {
			unusable++
		}
	}
	slices.SortFunc(a.addresses, netip.AddrPort.Compare)
	a.addresses = slices.Compact(a.addresses)
	switch {
	case a.err != nil:
	case unusable > 0:
		a.err = fmt.Errorf("%d of %d addresses can't be used (network %q)", unusable, len(ips), x.names.Network)
	case len(a.addresses) == 0:
		a.err = errors.New("the name has no addresses")
	}
	return a
}

// isUsable tells whether ip can be that of a lookupd. A dial to 0.0.0.0, with
// which some DNS servers block a name, would reach this machine.
func (x *name) isUsable(ip netip.Addr) bool {
	switch {
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast():
		return false
	case x.names.Network == "ip4":
		return ip.Is4()
	case x.names.Network == "ip6":
		return ip.Is6()
	}
	return true
}

// findings are all answers of one look-up.
type findings struct {
	seen    map[netip.AddrPort]target
	failed  map[target]bool // that gave nothing
	isEmpty bool            // there were no targets
	errs    []error
}

func (f *findings) add(a answer) {
	for _, address := range a.addresses {
		f.seen[address] = a.target
	}
	if a.err != nil {
		f.errs = append(f.errs, a.err)
		f.failed[a.target] = len(a.addresses) == 0
	}
}

// saysNothingOf tells whether what the target led to may be there all the same.
func (f *findings) saysNothingOf(t target) bool { return f.isEmpty || f.failed[t] }

// lookupError is why a look-up failed, or failed in part.
type lookupError struct {
	name string
	errs []error // some of them
	more int     // others
}

// newLookupError returns nil if there are no errors.
func newLookupError(name string, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	kept := errs[:min(len(errs), maxErrors)]
	return &lookupError{name, slices.Clone(kept), len(errs) - len(kept)}
}

func (e *lookupError) Error() string {
	var texts []string
	for _, err := range e.errs {
		texts = append(texts, clip(err.Error()))
	}
	text := fmt.Sprintf("lookuploop: %s: resolve: %s", e.name, strings.Join(texts, "; "))
	if e.more > 0 {
		text += fmt.Sprintf("; and %d more", e.more)
	}
	return text
}

func (e *lookupError) Unwrap() []error { return e.errs }

// usable returns an error of the Resolver, or what to say in place of a nil pointer,
// whose methods may panic.
func usable(err error) error {
	if value := reflect.ValueOf(err); value.Kind() == reflect.Pointer && value.IsNil() {
		return fmt.Errorf("Options.Resolver returned a nil %T as its error", err)
	}
	return err
}

// clip bounds a text that may come from DNS, and escapes what a terminal or a log
// could take for more than text.
func clip(text string) string {
	var b strings.Builder
	for _, r := range text {
		shown := string(r)
		if !strconv.IsPrint(r) {
			shown = strings.Trim(strconv.QuoteRune(r), "'")
		}
		if b.Len()+len(shown) > maxErrorText {
			break
		}
		b.WriteString(shown)
	}
	return b.String()
}
