package registry

import "time"

// When refused names are tried again.
const (
	// MaxRetryDelay bounds the pause, doubling from the first, before refused
	// names are tried again.
	MaxRetryDelay = time.Hour

	// barrenDelay is the longest pause while lookupd refuses as many names as there
	// are topics: that is hardly the names' fault, and ends for all of them at once.
	barrenDelay = time.Minute

	// retries is how many refused names are tried when the pause is over. If one
	// of them passes, all are tried.
	retries = 4
)

// retrySoon is for a lookupd that is back: it may not be what it was. If it comes
// back often, perhaps because it dies of a name, that doesn't count.
func (c *Cursor) retrySoon(now time.Time) {
	soon := now.Add(c.firstDelay)
	if len(c.refused) > 0 && c.retryAt.After(soon) && now.Sub(c.soonAt) >= c.retryDelay {
		c.soonAt, c.retryAt = now, soon
	}
}

// nextRetry is when some refused names are to be tried again.
func (r *Registry) nextRetry(c *Cursor) time.Time {
	if len(c.refused) >= r.topics && c.retryDelay > barrenDelay {
		return c.retryAt.Add(barrenDelay - c.retryDelay)
	}
	return c.retryAt
}

// beginRetry lets some refused names be tried if it is time.
func (r *Registry) beginRetry(c *Cursor, now time.Time) {
	if len(c.refused) > 0 && !now.Before(r.nextRetry(c)) {
		c.retryAll = max(c.retryAll, min(retries, len(c.refused)))
		c.retryDelay = min(2*c.retryDelay, MaxRetryDelay)
		c.retryAt = now.Add(c.retryDelay)
	}
}
