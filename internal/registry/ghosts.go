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
			c.addGhost(e, 0)
		}
	}
}

// isHaunted tells whether lookupd may know e, which is being deleted, and won't be
// told on the main connection.
func (c *Cursor) isHaunted(e *entry) bool {
	topic := e
	if e.parent != nil {
		topic = e.parent
	}
	for _, a := range []*aside{c.aside[e], c.aside[topic]} {
		switch {
		case a == nil:
		case a.state == refused:
			return false
		case a.entry == e && (a.state == probing || a.state == passed && !a.onMain):
			return true
		}
	}
	isUnread := !c.connected || e.birth > max(c.read, c.known)
	return (isUnread || !c.mayKnow(e)) && e.birth <= c.told
}

// ghost is an ephemeral name that lookupd is to be told the end of.
type ghost struct {
	*entry
	tries uint8 // that were not answered
}

func (c *Cursor) addGhost(e *entry, tries uint8) {
	if e.ephemeral && tries < maxTries && len(c.ghosts) < maxGhosts {
		c.ghosts = append(c.ghosts, ghost{e, tries})
	}
}
