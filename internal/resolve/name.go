package resolve

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

const (
	// After a failure the pause is drawn evenly between 0 and a limit that
	// starts at minPause and doubles: up to maxPause as long as look-ups give
	// nothing at all, up to the interval if they give something.
	minPause = 100 * time.Millisecond
	maxPause = 1500 * time.Millisecond

	// A name that leads to an address without a connection is looked up again
	// after askedPause, and at most half of it more: many brokers lose a
	// lookupd at the same instant.
	askedPause = time.Second

	// An address with a connection stays until so many look-ups in a row
	// have lacked it.
	maxMissing = 3
)

// name is one configured name. Its goroutine, run, alone uses ended and limit.
type name struct {
	names   *Names
	address Address
	wake    chan struct{} // capacity 1: readable when a connection came or went; Names sends, run receives

	ended time.Time     // when the last look-up ended
	limit time.Duration // of the last pause after a failure; 0: there was none

	// Guarded by the mutex of Names.
	stop     context.CancelFunc // ends run; nil: it was not started
	entries  []entry            // in ascending order of their addresses
	err      error
	lookedUp time.Time
	next     time.Time
}

// entry is an address that the name leads to.
type entry struct {
	address netip.AddrPort
	from    target
	missing int // look-ups in a row that lacked it
}

// run looks the name up again and again until ctx ends.
func (x *name) run(ctx context.Context) {
	for {
		err, isEmpty := x.lookUp(ctx)
		if ctx.Err() != nil || !x.wait(ctx, x.pause(err, isEmpty)) {
			return
		}
	}
}

// pause returns how long to wait after a look-up that ended with err, and gave
// nothing if isEmpty.
func (x *name) pause(err error, isEmpty bool) time.Duration {
	interval := x.names.Interval
	if err == nil {
		x.limit = 0
		return interval
	}
	x.limit = min(max(minPause, 2*x.limit), interval)
	if isEmpty {
		x.limit = min(x.limit, maxPause)
	}
	return rand.N(x.limit + 1)
}

// wait waits for the time of the next look-up, which comes sooner than after
// pause if an address has no connection. It returns false if ctx ends first.
func (x *name) wait(ctx context.Context, pause time.Duration) bool {
	var asked time.Time // when to look up because of a missing connection; zero: none has been missing yet
	for {
		next := x.ended.Add(pause)
		x.names.mu.Lock()
		if x.lacksConnection() {
			if asked.IsZero() {
				asked = later(time.Now(), x.ended.Add(askedPause)).Add(rand.N(askedPause / 2))
			}
			if asked.Before(next) {
				next = asked
			}
		}
		x.next = next
		x.names.mu.Unlock()

		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
			x.names.mu.Lock()
			x.next = time.Time{}
			x.names.mu.Unlock()
			return true
		case <-x.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// learn adds the addresses of an answer, unless ctx has ended.
func (x *name) learn(ctx context.Context, a answer) {
	x.names.mu.Lock()
	defer x.names.mu.Unlock()
	if ctx.Err() != nil {
		return // the name may have been removed, which holds the mutex
	}
	for _, address := range a.addresses {
		if len(x.entries) == maxAddresses {
			return
		}
		i, isKnown := slices.BinarySearchFunc(x.entries, address, func(e entry, a netip.AddrPort) int { return e.address.Compare(a) })
		if !isKnown {
			x.entries = slices.Insert(x.entries, i, entry{address: address, from: a.target})
			x.names.place(address).names[x] = struct{}{}
			signal(x.names.changed)
		}
	}
}

// conclude notes the end of a look-up and drops the addresses that are gone,
// unless ctx has ended.
func (x *name) conclude(ctx context.Context, found *findings, err error) {
	x.ended = time.Now()
	before := x.err // only this goroutine changes it
	isNews := x.lookedUp.IsZero() || text(err) != text(before)
	x.names.mu.Lock()
	if ctx.Err() != nil {
		x.names.mu.Unlock()
		return
	}
	x.err, x.lookedUp = err, x.ended
	kept := x.entries[:0]
	for _, e := range x.entries {
		if from, isSeen := found.seen[e.address]; isSeen {
			e.from, e.missing = from, 0
		} else if !found.saysNothingOf(e.from) {
			e.missing++
			if e.missing == maxMissing || x.names.place(e.address).connections == 0 {
				x.leave(e)
				isNews = true
				continue
			}
		}
		kept = append(kept, e)
	}
	x.entries = kept
	if isNews { // or each look-up of one name would bring work about all
		signal(x.names.changed)
	}
	x.names.mu.Unlock()

	if err != nil && before == nil {
		x.names.Logger.Warn("lookupd address can't be resolved, known addresses stay", "error", err)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// The following are called with the mutex of Names held.

func (x *name) lacksConnection() bool {
	return slices.ContainsFunc(x.entries, func(e entry) bool { return x.names.place(e.address).connections == 0 })
}

// remove ends the look-ups and forgets what was known.
func (x *name) remove() {
	for _, e := range x.entries {
		x.leave(e)
	}
	x.entries = nil
	if x.stop != nil {
		x.stop()
	}
}

// leave takes the name off the place of an entry that is being dropped.
func (x *name) leave(e entry) {
	delete(x.names.place(e.address).names, x)
	x.names.tidy(e.address)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
