package wire

import "time"

const (
	// The window of commands in flight begins with the first size. It grows
	// with each answer, up to the second, which at 50 ms a round trip allows
	// 160,000 commands a second, and shrinks when one is late, to as many as are
	// answered in time: a PING waits for all that is before it.
	FirstWindow = 1024
	MaxWindow   = 8192

	// BlindChunk is how many answers must come until anybody knows how long
	// lookupd takes for a command, while the whole first window may wait there.
	// So no more commands should be sent at once until then, with a PING between:
	// a slow lookupd hears one in time.
	BlindChunk = 64

	// leastRoom is how many commands are worth a write of their own while others
	// are in flight.
	leastRoom = 256
)

// Room is how many commands may be sent now, at least one when none is in
// flight. It is zero while an answer is late, and as long as only a few are
// free, less than a quarter of a small window: else each answer would let one
// command go, in a write of its own.
func (c *Conn[T]) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.inFlight.len()
	free := c.window - n
	if free < min(leastRoom, c.window/4) || n > 0 && c.isLate(c.inFlight.first()) {
		return 0
	}
	return free
}

// IsBlind tells whether too little was answered to know how long that takes.
func (c *Conn[T]) IsBlind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard < BlindChunk
}

// isLate tells whether an answer to cmd would be late now. It is called with mu held.
func (c *Conn[T]) isLate(cmd command[T]) bool {
	return c.clock()-cmd.sentAt > c.late
}

// adapt sets the window after an answer to cmd. When it was late, those that came
// while it was under way show how many come in time. It is called with mu held.
func (c *Conn[T]) adapt(cmd command[T], took time.Duration) {
	if took > c.late {
		inTime := int64(c.heard-cmd.heard) * int64(c.late) / int64(took)
		c.window = max(min(c.window, int(inTime)), 1)
	} else {
		c.window = min(c.window+1, MaxWindow)
	}
}
