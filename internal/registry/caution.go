package registry

// Caution is how to go on after lookupd closed a connection with commands in
// flight: it may have refused one of them, and its answer may have been lost
// with the connection, which TCP resets when it is closed with commands unread.
//
// What was acknowledged is sent as ever. What was in flight behind it goes in
// groups, each after the one before was answered. Every further loss makes the
// groups smaller, until one is a single command, whose refusal can't get lost.
type Caution struct {
	from  uint64 // the log was acknowledged up to here
	left  int    // commands behind that to be careful with
	group int
}

// NewCaution draws the consequence of a loss. A careful connection takes 64
// round trips longer at most; 128 where each topic has a channel, as a group is
// counted in entries of the log and the two share a command.
func NewCaution(acked uint64, unanswered int) Caution {
	const groups = 64
	return Caution{from: acked, left: unanswered, group: (unanswered + groups - 1) / groups}
}

// Limits returns how many entries may be read from the log now, room at most,
// and up to which place.
func (c *Caution) Limits(r *Registry, cur *Cursor, inFlight, room int) (limit int, upTo uint64) {
	switch {
	case c.left <= 0:
		return room, Everything
	case !r.hasRead(cur, c.from):
		return room, c.from
	case inFlight > 0:
		return 0, Everything
	default:
		return min(room, c.group, c.left), Everything
	}
}

// Spend notes that n commands were read within limits that ended at upTo.
func (c *Caution) Spend(upTo uint64, n int) {
	if upTo == Everything {
		c.left -= min(n, c.left)
	}
}
