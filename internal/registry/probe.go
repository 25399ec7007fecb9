package registry

import (
	"slices"
	"time"
)

const (
	// firstGroup is how many names are asked about at once where one was refused: not
	// all, as each refusal costs those behind it another question.
	firstGroup = 16

	// maxStrikes is how often a probe may end at one name alone, without an
	// answer, before that counts as a refusal.
	maxStrikes = 3
)

// probe is what a second connection asks of lookupd: about names in doubt, and
// from time to time about refused ones.
//
// Names go pipelined. When the connection ends without an answer, one of those
// that were unanswered may be to blame, and they go in groups, of half the size
// with each break, until one alone shows that it was it. That one is asked about
// again, alone, once all others have been: they don't wait for it.
type probe struct {
	queue  []*aside // to be asked about, oldest first; some may be so no more
	struck []*aside // at which alone a probe ended, likewise
	asked  []*aside // sent on the probe, and not answered
	within int      // so many at the head of the queue, or asked, have one that breaks connections; 0: nobody knows of one
	group  int      // so many are asked about at once otherwise: few where one was found, and twice as many once these were answered; 0: no limit

	uncovered []*aside // topics that passed, with channels to be asked about

	idle       []*aside // refused, the one that was tried longest ago first; some may be so no more
	retryAll   int      // so many of idle are to be tried now
	retryAt    time.Time
	retryDelay time.Duration
	firstDelay time.Duration
	soonAt     time.Time // when that was due to a new connection

	ephemerals     []*entry // that were registered on this probe
	doubtfulGhosts []ghost  // to be unregistered on a probe, as lookupd may refuse them
	farewell       []ghost  // unregistered on this probe, and not answered

	isFarewellRefused bool // what was before the first of them
}

// Refused notes that lookupd refused cmd on the main connection: it is the
// reason for the connection's end. All that lookupd hasn't acknowledged since it
// connected is in doubt now.
func (r *Registry) Refused(c *Cursor, cmd Command, wholeTopic bool, reason error, now time.Time) {
	r.lock()
	defer r.unlock()
	r.refuse(c, cmd, wholeTopic, reason, now, max(c.toldBefore, c.acked))
	if cmd.unregister { // lookupd would refuse it the next time too, and perhaps others
		c.ghosts = slices.DeleteFunc(c.ghosts, func(g ghost) bool { return g.entry == cmd.subject })
		c.doubtGhosts(c.ghosts...)
		c.ghosts = nil
	}
	c.doubt = c.doubt.with(span{c.acked, r.seq})
	c.suspect = span{}
	r.signal()
}

// ProbeRefused notes that lookupd refused cmd on the probe.
func (r *Registry) ProbeRefused(c *Cursor, cmd Command, wholeTopic bool, reason error, now time.Time) {
	r.lock()
	defer r.unlock()
	if cmd.unregister { // lookupd would refuse it the next time too
		c.farewell, c.isFarewellRefused = c.farewell[min(1, len(c.farewell)):], true
		return
	}
	taken := len(c.ephemerals)  // of which there are none after the farewell
	for _, a := range c.asked { // from cmd on, lookupd took nothing
		if a.ephemeral {
			taken--
		}
	}
	c.ephemerals = c.ephemerals[:max(taken, 0)]
	topic := c.aside[cmd.topic()] // if the main connection has it, it is only refused together with this channel
	r.refuse(c, cmd, wholeTopic && topic != nil && !topic.onMain, reason, now, c.told)
	c.within, c.group = 0, firstGroup
	r.signal()
}

// refuse sets a name of cmd aside: the topic, or the channel if there is one and
// wholeTopic is false.
func (r *Registry) refuse(c *Cursor, cmd Command, wholeTopic bool, reason error, now time.Time, told uint64) {
	e, seq := cmd.subject, cmd.seq
	if wholeTopic {
		e, seq = cmd.topic(), cmd.topicSeq
	}
	if r.entries[e.key] != e { // it was deleted, and nobody has it any more
		return
	}
	a := c.setAside(e, told)
	if e.deleted || e.seq != seq { // it changed since; what it is now is in doubt
		return
	}
	if c.of(a).reason == nil {
		soon := now.Add(c.firstDelay)
		if len(c.refused) == 0 || soon.Before(c.retryAt) { // or new refusals would put off the old ones
			c.retryAt = soon
		}
		c.retryDelay = c.firstDelay
	}
	a.state, a.onMain = refused, false
	c.stand(a, reason)
	c.idle = append(c.idle, a)
}

// NeedsProbe tells whether there is something to ask lookupd on a second
// connection; if not, when there will be, or zero. The main connection comes
// first: nothing is asked before it is in sync.
func (r *Registry) NeedsProbe(c *Cursor, now time.Time) (bool, time.Time) {
	r.lock()
	defer r.unlock()
	if !c.connected || c.acked < c.goal {
		return false, time.Time{}
	}
	r.beginRetry(c, now)
	if c.isAsking() || len(c.doubtfulGhosts) > 0 {
		return true, time.Time{}
	}
	if len(c.refused) == 0 {
		return false, time.Time{}
	}
	return false, r.nextRetry(c)
}

// isAsking tells whether there is something to ask lookupd right now.
func (c *Cursor) isAsking() bool {
	c.queue, c.struck, c.idle = c.skipGone(c.queue, waiting), c.skipGone(c.struck, waiting), c.skipGone(c.idle, refused)
	c.retryAll = min(c.retryAll, len(c.idle))
	return len(c.queue)+len(c.asked)+len(c.uncovered)+len(c.struck)+c.retryAll > 0
}

// skipGone takes those off the head of a queue that are in that state no more.
func (c *Cursor) skipGone(queue []*aside, state asideState) []*aside {
	for len(queue) > 0 && (queue[0].state != state || c.aside[queue[0].entry] != queue[0]) {
		queue = queue[1:]
	}
	return queue
}

// Probe appends what the probe is to ask next to out, limit commands at most. It
// returns nothing while a group is under way.
func (r *Registry) Probe(c *Cursor, now time.Time, limit int, out []Command) []Command {
	r.lock()
	defer r.unlock()
	defer r.resolved(c, c.oldestInDoubt())
	switch isGroup := c.within > 0 || c.group > 0; {
	case isGroup && len(c.asked) > 0:
		return out
	case c.within > 0:
		limit = min(limit, (c.within+1)/2)
	case isGroup:
		limit = min(limit, c.group)
	}
	r.beginRetry(c, now)
	for range limit {
		a := r.nextDoubt(c)
		if a == nil {
			break
		}
		a.state = probing
		c.asked = append(c.asked, a)
		if a.ephemeral {
			c.ephemerals = append(c.ephemerals, a.entry)
		}
		out = append(out, newCommand(false, a.entry))
		if a.strikes > 0 { // alone
			break
		}
	}
	if len(c.asked) == 0 {
		c.within = 0 // whoever it was is gone
	}
	return out
}

// nextDoubt takes the next name to be asked about, or returns nil.
func (r *Registry) nextDoubt(c *Cursor) *aside {
	for {
		for len(c.queue) > 0 {
			a := c.queue[0]
			c.queue = c.queue[1:]
			if c.isInDoubt(a) {
				return a
			}
		}
		switch {
		case len(c.uncovered) > 0:
			topic := c.uncovered[0]
			if len(topic.covered) == 0 || topic.pass != c.pass {
				c.uncovered = c.uncovered[1:]
				if topic.acked && c.aside[topic.entry] == topic {
					c.resolve(topic)
				}
				continue
			}
			channel := topic.covered[0]
			topic.covered = topic.covered[1:]
			a := c.aside[channel]
			if !channel.deleted && channel.seq <= c.read && (a == nil || a.state == remembered) {
				c.doubtName(channel)
			}
		case len(c.struck) > 0:
			if len(c.asked) > 0 {
				return nil
			}
			a := c.struck[0]
			c.struck = c.struck[1:]
			if c.isInDoubt(a) {
				c.within = 1
				return a
			}
		case c.retryAll > 0 && len(c.idle) > 0:
			a := c.idle[0]
			c.idle = c.idle[1:]
			if a.state == refused && c.aside[a.entry] == a {
				if c.isCovered(a.entry) {
					c.coverAside(a)
					continue
				}
				c.retryAll--
				a.state = waiting
				return a
			}
		default:
			c.retryAll = 0
			return nil
		}
	}
}

// isInDoubt tells whether a, which was to be asked about, still is. A channel
// is so no more if its topic is not for the main connection: it goes with that.
func (c *Cursor) isInDoubt(a *aside) bool {
	if a.state != waiting || c.aside[a.entry] != a {
		return false
	}
	if c.isCovered(a.entry) && c.aside[a.parent].state != probing {
		c.coverAside(a)
		return false
	}
	return true
}

// ProbeAcknowledge notes the good answers to the next n commands of the probe.
// These names are for the main connection now.
func (r *Registry) ProbeAcknowledge(c *Cursor, n int) {
	r.lock()
	defer r.unlock()
	c.farewell = c.farewell[min(max(n-len(c.asked), 0), len(c.farewell)):]
	n = min(n, len(c.asked))
	for _, a := range c.asked[:n] {
		if c.aside[a.entry] != a || a.state != probing {
			continue // it was deleted meanwhile
		}
		if c.of(a).reason != nil { // lookupd thinks otherwise now
			c.retryAll = len(c.refused) - 1
		}
		a.state = passed
		c.stand(a, nil)
		if a.seq <= c.read {
			c.late = append(c.late, a)
		}
		if len(a.covered) > 0 && a.pass == c.pass {
			c.uncovered = append(c.uncovered, a)
		}
	}
	c.asked = c.asked[n:]
	if c.within > 0 {
		c.within = max(c.within-n, 0)
	} else if len(c.asked) == 0 {
		if c.group *= 2; c.group >= ChunkSize {
			c.group = 0
		}
	}
}

// ProbeLost notes that the probe ended: what wasn't answered is to be asked
// again. When it was severed, it narrows down at which name, and gotOn tells whether
// it did; once it is certain, culprit is that name, for ProbeRefused. isCut tells
// that the probe ended because the main connection did.
func (r *Registry) ProbeLost(c *Cursor, severed, isCut bool) (culprit *Command, gotOn bool) {
	r.lock()
	defer r.unlock()
	var back []*aside
	for _, a := range c.asked {
		switch {
		case c.aside[a.entry] != a || a.state != probing:
		case isCut && c.of(a).reason != nil: // it is tried again the next time
			a.state = refused
			c.idle = append(c.idle, a)
		default:
			a.state = waiting
			back = append(back, a)
		}
	}
	r.endFarewell(c, isCut)
	c.asked = nil
	if severed && len(back) == 1 {
		a := back[0]
		c.within, c.group = 0, 1
		switch a.strikes++; {
		case a.strikes == 1:
			c.struck = append(c.struck, a)
			return nil, true
		case a.strikes >= maxStrikes:
			cmd := newCommand(false, a.entry)
			return &cmd, true
		}
	}
	if len(back) > 0 && back[0].strikes > 0 {
		c.struck = append(back, c.struck...)
		return nil, false
	}
	c.queue = append(back, c.queue...)
	if severed {
		c.within = len(back)
	}
	return nil, severed && len(back) > 1
}

// ProbeDone tells whether the probe has nothing to do any more: everything was
// asked, and the main connection has what passed.
func (r *Registry) ProbeDone(c *Cursor) bool {
	r.lock()
	defer r.unlock()
	return !c.connected || !c.isAsking() && len(c.unresolved) == 0
}
