package registry

const (
	// maxGhosts is how many ephemeral names one lookupd is told to drop later.
	maxGhosts = 10_000

	// maxTries is how many probes may end at the deletion of an ephemeral name before
	// lookupd keeps that name.
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
// unanswered are to be told again. If that happens twice when the connection is
// severed and the first is one, they may have ended it, and are for the probe.
func (r *Registry) keepGhosts(c *Cursor, unanswered []Command, severed bool) {
	for _, cmd := range unanswered {
		switch isSuspect := severed && unanswered[0].unregister; {
		case !cmd.unregister || !cmd.subject.ephemeral:
		case isSuspect && cmd.tries > 0:
			c.doubtGhosts(ghost{entry: cmd.subject})
		case isSuspect:
			r.addGhost(c, cmd.subject, 1)
		default:
			r.addGhost(c, cmd.subject, cmd.tries)
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
	switch {
	case !e.ephemeral:
	case e.deleted && !c.isMain(e):
		c.doubtGhosts(ghost{entry: e})
	case len(c.ghosts) < maxGhosts:
		c.ghosts = append(c.ghosts, ghost{e, tries})
	}
}

// doubtGhosts leaves ghosts to the probe.
func (c *Cursor) doubtGhosts(ghosts ...ghost) {
	room := max(maxGhosts-len(c.doubtfulGhosts), 0)
	c.doubtfulGhosts = append(c.doubtfulGhosts, ghosts[:min(len(ghosts), room)]...)
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
	defer r.unlock()
	var all []ghost
	for _, e := range c.ephemerals {
		all = append(all, ghost{entry: e})
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
				out = append(out, newCommand(true, g.entry))
			}
		}
	}
	return out
}

// endFarewell is for a probe that ended: lookupd may know ephemeral names of it
// still. The one at which the farewell ended comes behind the others.
func (r *Registry) endFarewell(c *Cursor, isCut bool) {
	if len(c.farewell) > 0 && !isCut && !c.isFarewellRefused {
		last := c.farewell[0]
		last.tries++
		c.farewell = append(c.farewell[1:], last)
	}
	for _, e := range c.ephemerals {
		c.farewell = append(c.farewell, ghost{entry: e})
	}
	for _, g := range c.farewell {
		if live := r.liveOf(g.entry); g.tries < maxTries && (live == nil || !c.mayHave(live)) {
			c.doubtGhosts(g)
		}
	}
	c.ephemerals, c.farewell, c.isFarewellRefused = nil, nil, false
}
