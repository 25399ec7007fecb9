package registry

// Read appends what the main connection is to say next to out: limit entries of
// the log at most, or one more. All of it is fixed under one lock, so that what
// is sent was true when it was read. A chunk that says nothing is progress too:
// the next one may say something.
func (r *Registry) Read(c *Cursor, limit int, out []Command) (_ []Command, progress bool) {
	r.lock()
	defer r.unlock()
	first, missed := len(out), c.missed()
	out = r.readAside(c, limit, out)
	limit -= len(out) - first
	progress = c.missed() < missed
	if c.read < r.seq && limit > 0 {
		out = r.readLog(c, limit, out)
		progress = true
	}
	return out, progress
}

// missed is how much there is to say that is not at its place in the log.
func (c *Cursor) missed() int { return len(c.ghosts) + len(c.late) + len(c.again) }

// readAside reads what is not at its place in the log: deletions of ephemeral
// names that were missed, as far as they were not made again, names that passed
// the probe, and names to be announced again.
func (r *Registry) readAside(c *Cursor, limit int, out []Command) []Command {
	if c.read == r.seq {
		first := len(out)
		out = r.readGhosts(c, limit, out)
		limit -= len(out) - first
	}
	for ; len(c.late) > 0 && limit > 0; c.late = c.late[1:] {
		switch a := c.late[0]; {
		case c.aside[a.entry] != a || a.state != passed || a.onMain: // no more
		case c.isCovered(a.entry):
			c.coverAside(a)
		default:
			out = append(out, c.sayLate(a))
			limit--
		}
	}
	for ; len(c.again) > 0 && limit > 0; c.again = c.again[1:] {
		if e := c.again[0]; c.hasSaid(e) && !r.isDoomed(e) {
			out = append(out, c.say(newCommand(false, e)))
		}
		limit-- // for nothing said, too: there may be many
	}
	if len(c.again) == 0 {
		c.again = nil
	}
	return out
}

// hasSaid tells whether the main connection has said that e exists, which it does
// still. Otherwise it will when it comes to e's place, or must not.
func (c *Cursor) hasSaid(e *entry) bool { return !e.deleted && e.seq <= c.read && c.isMain(e) }

// readGhosts reads deletions of ephemeral names that were missed, as far as they
// were not made again: limit of them at most. Those that lookupd may refuse are
// for the probe.
func (r *Registry) readGhosts(c *Cursor, limit int, out []Command) []Command {
	n := min(limit, len(c.ghosts))
	for _, g := range c.ghosts[:n] {
		switch live := r.liveOf(g.entry); {
		case live != nil:
			c.mayHave(live)
		case c.isMain(g.entry):
			out = append(out, c.say(g.command()))
		default:
			c.doubtGhosts(g)
		}
	}
	c.ghosts = c.ghosts[n:]
	return out
}

// readLog reads a chunk of the log.
func (r *Registry) readLog(c *Cursor, limit int, out []Command) []Command {
	end := r.chunkEnd(c, limit)
	first := len(out)
	var next *entry
	for e := c.marker.next; e != end; e = next {
		next = e.next // e may be dropped
		if e.isMarker() {
			continue
		}
		if !c.wasRead(e) {
			c.unread--
			c.reads++
		}
		c.read = e.seq
		if cmd, ok := c.read1(e); ok && !r.isDoomed(e) {
			out = append(out, cmd)
		}
		if last := len(out) - 1; last >= first {
			out[last].ackTo, out[last].reads = c.read, c.reads
		}
		if e.deleted && !r.isNeeded(e, e.seq) {
			r.tombstones.remove(e)
			r.drop(e)
		}
	}
	c.marker.unlink()
	c.marker.linkBefore(end)
	if end == &r.log { // up to the log's end there is nothing, which is as good as read
		c.read = r.seq
	}
	if last := len(out) - 1; last >= first {
		out[last].ackTo = c.read
	}
	if c.doubt.after = max(c.doubt.after, c.read); c.doubt.isEmpty() {
		c.doubt = span{}
	}
	r.settle(c)
	r.collect()
	return out
}

// chunkEnd finds the entry behind the next chunk, and which channels in it
// announce their topic: REGISTER topic channel announces both, so it goes at
// the topic's place when such a channel follows in the same chunk. A chunk
// runs one entry over rather than part the two.
func (r *Registry) chunkEnd(c *Cursor, limit int) *entry {
	if c.pairs == nil {
		c.pairs = make(map[*entry]*entry)
	}
	clear(c.pairs)
	var last *entry
	n := 0
	for e := c.marker.next; e != &r.log; e = e.next {
		if e.isMarker() {
			continue
		}
		registers := !e.deleted && !r.isDoomed(e) && c.isMain(e) // a channel that registers has a topic that does
		if n > limit || n == limit && !(registers && e.parent != nil && e.parent == last) {
			return e
		}
		if registers && e.parent == nil {
			c.pairs[e] = nil
		} else if channel, inChunk := c.pairs[e.parent]; registers && inChunk && channel == nil {
			c.pairs[e.parent] = e
		}
		last = e
		n++
	}
	return &r.log
}

// read1 returns the command that e's state calls for, if any. What the main
// connection can't have is set aside.
func (c *Cursor) read1(e *entry) (Command, bool) {
	if e.deleted {
		if e.seq > c.skip && c.wasSaid(e) {
			return c.say(newCommand(true, e)), true
		}
		return Command{}, false
	}
	if !c.isMain(e) {
		switch a := c.aside[e]; {
		case a != nil && a.state == passed && a.onMain:
		case a != nil && a.state == passed && c.isCovered(e):
			c.coverAside(a)
		case a != nil && a.state == passed:
			return c.sayLate(a), true
		case a != nil && a.state != remembered:
		case c.isCovered(e):
			c.cover(c.aside[e.parent], e)
		default:
			c.doubtName(e)
		}
		return Command{}, false
	}
	if channel := c.pairs[e]; channel != nil {
		return c.say(newCommand(false, channel)), true
	}
	if c.pairs[e.parent] == e {
		return Command{}, false
	}
	return c.say(newCommand(false, e)), true
}

// say counts a command on the main connection.
func (c *Cursor) say(cmd Command) Command {
	c.sent++
	cmd.ackTo, cmd.reads = c.read, c.reads
	return cmd
}

// sayLate says that a name that passed the probe exists.
func (c *Cursor) sayLate(a *aside) Command {
	cmd := c.say(newCommand(false, a.entry))
	a.onMain, a.told = true, max(a.told, a.birth)
	c.lateSent = append(c.lateSent, lateCommand{c.sent, a})
	return cmd
}

// Farewell appends a chunk of what is said before an orderly end of the
// connection to out: UNREGISTER for each ephemeral name, because nsqlookupd
// would keep the name otherwise. Channels go before topics, in two passes
// over the log. It returns more false when all was said.
func (r *Registry) Farewell(c *Cursor, out []Command) (_ []Command, more bool) {
	r.lock()
	defer r.unlock()
	if !c.connected || r.ephemerals == 0 && len(c.ghosts) == 0 {
		return out, false
	}
	if len(c.ghosts) > 0 {
		return r.readGhosts(c, ChunkSize, out), true
	}
	e := c.marker.next
	c.marker.unlink()
	if c.leaving == 0 {
		e = r.log.next
		c.leaving = 1
	}
	for n := 0; n < ChunkSize && c.leaving <= 2; e = e.next {
		switch isChannel := e.parent != nil; {
		case e == &r.log:
			c.leaving++
		case e.isMarker():
		default:
			n++
			if e.ephemeral && isChannel == (c.leaving == 1) && c.mayKnow(e) {
				out = append(out, c.say(newCommand(true, e)))
			}
		}
	}
	c.marker.linkBefore(e)
	return out, c.leaving <= 2
}

// mayKnow tells whether lookupd may know e from the main connection.
func (c *Cursor) mayKnow(e *entry) bool {
	if a := c.aside[e]; a != nil {
		return a.onMain
	}
	return !c.isCovered(e)
}
