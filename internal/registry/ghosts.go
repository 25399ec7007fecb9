package registry

const (
	// maxGhosts is how many ephemeral names one lookupd is told to drop later.
	maxGhosts = 10_000

	// maxTries is how often a lookupd may not answer that an ephemeral name is gone:
	// it is better that it keeps that name than that it loses all others.
	maxTries = 3
)

// haunt notes an ephemeral name that is being deleted for the lookupds that were
// told of it and can't hear of its end now. nsqlookupd drops the name of what is
// ephemeral when it is unregistered, at no other time.
func (r *Registry) haunt(e *entry) {
	for _, c := range r.cursors {
		if c.isHaunted(e) {
			c.haunt(e, 0)
		}
	}
}

// isHaunted tells whether lookupd may know e, which is being deleted, and won't be
// told on the main connection.
func (c *Cursor) isHaunted(e *entry) bool {
	if a := c.asideOf(e); a != nil && !a.onMain { // as for what the probe was told: it says farewell
		return e.birth <= a.told
	}
	isUnread := !c.connected || e.birth > max(c.read, c.known)
	return isUnread && e.birth <= c.told
}

// ghost is an ephemeral name that lookupd is to be told the end of: on the main
// connection, or on the probe if lookupd may refuse the name.
type ghost struct {
	*entry
	tries uint8 // at which a connection ended
}

func (g ghost) command() Command {
	cmd := newCommand(true, g.entry)
	cmd.tries = g.tries
	return cmd
}

// keepGhosts is for a main connection that ended: the deletions among what was
// unanswered are to be told again. If the first is one, any may have ended it;
// otherwise lookupd may never have come to them.
func (r *Registry) keepGhosts(c *Cursor, unanswered []Command) {
	for _, cmd := range unanswered {
		tries := cmd.tries
		if unanswered[0].unregister {
			tries++
		}
		if cmd.unregister {
			r.addGhost(c, cmd.subject, tries)
		}
	}
}

// addGhost notes that lookupd may know e, or what e's name was before, and is to
// be told if that is gone.
func (r *Registry) addGhost(c *Cursor, e *entry, tries uint8) {
	if live := r.liveOf(e); live != nil && c.mayHave(live) {
		return
	}
	c.haunt(e, tries)
}

// haunt is addGhost for an e that is deleted.
func (c *Cursor) haunt(e *entry, tries uint8) {
	if !e.ephemeral || tries >= maxTries {
		return
	}
	ghosts := &c.ghosts
	if e.deleted && !c.isMain(e) {
		ghosts = &c.doubtfulGhosts
	}
	if len(*ghosts) < maxGhosts {
		*ghosts = append(*ghosts, ghost{e, tries})
	}
}

// mayHave notes of a live e that lookupd may have taken it, and tells whether that
// matters: e is set aside, by itself or with its topic.
func (c *Cursor) mayHave(e *entry) bool {
	a := c.asideOf(e)
	if a != nil {
		a.told = max(a.told, e.birth)
	}
	return a != nil
}

// asideOf returns the aside of e, or else its topic's, or nil.
func (c *Cursor) asideOf(e *entry) *aside {
	if a := c.aside[e]; a != nil {
		return a
	}
	return c.aside[e.parent]
}

// ProbeFarewell appends UNREGISTER for each ephemeral name that was registered
// on the probe to out: if the main connection has it, it stays. Names that were
// deleted before, and that lookupd may refuse, go behind them.
func (r *Registry) ProbeFarewell(c *Cursor, out []Command) []Command {
	r.lock()
	defer r.mu.Unlock()
	var all []ghost
	for _, e := range c.ephemerals {
		all = append(all, ghost{e, 0})
	}
	n := min(ChunkSize, len(c.doubtfulGhosts))
	for _, g := range c.doubtfulGhosts[:n] {
		if live := r.liveOf(g.entry); live == nil {
			all = append(all, g)
		} else if !c.mayHave(live) && len(c.ghosts) < maxGhosts { // for the main connection, which has it or will
			c.ghosts = append(c.ghosts, g)
		}
	}
	c.ephemerals, c.doubtfulGhosts = nil, c.doubtfulGhosts[n:]
	for _, wantChannel := range []bool{true, false} {
		for _, g := range all {
			if (g.parent != nil) == wantChannel {
				c.farewell = append(c.farewell, g)
				out = append(out, g.command())
			}
		}
	}
	return out
}

// endFarewell is for a probe that ended: lookupd may know ephemeral names of it
// still. The one at which the farewell ended comes behind the others.
func (r *Registry) endFarewell(c *Cursor, isCut bool) {
	if len(c.farewell) > 0 && !isCut {
		last := c.farewell[0]
		last.tries++
		c.farewell = append(c.farewell[1:], last)
	}
	for _, g := range c.farewell {
		r.addGhost(c, g.entry, g.tries)
	}
	for _, e := range c.ephemerals {
		r.addGhost(c, e, 0)
	}
	c.ephemerals, c.farewell = nil, nil
}
