package wire

import "time"

// clock is how long the connection has lasted, without the time that handle took.
// What handle takes is not lookupd's: it may wait for a lock while the answers to
// what was sent have come. It is called with mu held, as is startClock.
func (c *Conn[T]) clock() time.Duration {
	if c.stopped > 0 {
		return c.stopped - c.stood
	}
	return time.Since(c.started) - c.stood
}

// stopClock is called before handle.
func (c *Conn[T]) stopClock() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = time.Since(c.started)
}

// startClock is called after handle.
func (c *Conn[T]) startClock() {
	if c.stopped > 0 {
		c.stood += time.Since(c.started) - c.stopped
		c.stopped = 0
	}
}
