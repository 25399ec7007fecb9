package registry

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// MaxRetryDelay bounds the pause, doubling from the first, before a refused
// name is tried again: each attempt that fails costs the connection.
const MaxRetryDelay = time.Hour

// refusal says that a lookupd refused a name. It holds while the entry keeps
// its place; nothing is sent for the name meanwhile, and if it is a topic,
// nothing for its channels either.
type refusal struct {
	seq   uint64
	err   error
	retry time.Time
	delay time.Duration
}

func (ref *refusal) holds(e *entry) bool { return !e.deleted && e.seq == ref.seq }

// Refuse sets a name of cmd aside that lookupd refused: the topic, or the
// channel if there is one and wholeTopic is false. The first retry comes after
// delay. It returns false when the name had been set aside before.
func (r *Registry) Refuse(c *Cursor, cmd Command, wholeTopic bool, reason error, now time.Time, delay time.Duration) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, seq := cmd.subject, cmd.seq
	if wholeTopic && e.parent != nil {
		e, seq = e.parent, cmd.topicSeq
	}
	before := c.refused[e]
	again := before != nil && before.seq == seq
	if again {
		delay = min(2*before.delay, MaxRetryDelay)
	}
	if c.refused == nil {
		c.refused = make(map[*entry]*refusal)
	}
	c.refused[e] = &refusal{seq: seq, err: reason, retry: now.Add(delay), delay: delay}
	r.signal()
	return !again
}

// The following are called with the registry's mu held.

// isRefused tells whether nothing is to be sent for e.
func (c *Cursor) isRefused(e *entry) bool {
	if len(c.refused) == 0 {
		return false
	}
	return c.isSetAside(e) || e.parent != nil && c.isSetAside(e.parent)
}

// isSetAside tells whether e itself was refused and not made again since. If
// it was deleted since, lookupd has never known it.
func (c *Cursor) isSetAside(e *entry) bool {
	ref := c.refused[e]
	return ref != nil && (e.deleted || ref.holds(e))
}

// forgetDropped drops the refusals of what has left the log.
func (c *Cursor) forgetDropped() {
	maps.DeleteFunc(c.refused, func(e *entry, _ *refusal) bool { return e.seq == 0 })
}

// refusals returns what lookupd refused up to the given place, oldest first.
func (c *Cursor) refusals(upTo uint64) []error {
	var held []*refusal
	for e, ref := range c.refused {
		if ref.holds(e) && ref.seq <= upTo {
			held = append(held, ref)
		}
	}
	slices.SortFunc(held, func(a, b *refusal) int { return cmp.Compare(a.seq, b.seq) })
	var errs []error
	for _, ref := range held {
		errs = append(errs, ref.err)
	}
	return errs
}

// nextRetry returns the refused name to be tried next, or nil.
func (c *Cursor) nextRetry() (e *entry, due time.Time) {
	for candidate, ref := range c.refused {
		isCovered := candidate.parent != nil && c.isSetAside(candidate.parent)
		if ref.holds(candidate) && !isCovered && (e == nil || ref.retry.Before(due)) {
			e, due = candidate, ref.retry
		}
	}
	return e, due
}

// Retry appends the REGISTER of a refused name to out when its time has come,
// last and alone: everything else has been sent and answered. Otherwise it
// returns when to ask again; zero: not before something else happens.
func (r *Registry) Retry(c *Cursor, now time.Time, out []Command) ([]Command, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, due := c.nextRetry()
	if e == nil || !c.connected || c.read != r.seq || c.sent != c.answered {
		return out, time.Time{}
	}
	if due.After(now) {
		return out, due
	}
	cmd := newCommand(false, e)
	cmd.retry, cmd.ackTo, cmd.reads = true, c.acked, c.reads
	c.sent++
	c.tried = e
	return append(out, cmd), time.Time{}
}

// accept ends the refusal of what cmd was about. Everything is sent again, and
// counts as unknown to lookupd until then, as the channels of a refused topic
// have never been announced.
func (r *Registry) accept(c *Cursor, cmd Command) {
	delete(c.refused, cmd.subject)
	r.rewind(c)
	c.known, c.acked, c.unread = 0, 0, r.size
}
