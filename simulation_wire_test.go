package lookuploop

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/resolve"
)

// simWire watches what a Loop writes to its lookupds, and that it closes what it opens.
type simWire struct {
	mu      sync.Mutex
	open    map[*simConn]bool
	dials   map[string]int // by address, those that failed among them
	answers map[string]int // by address
	conns   []*simConn     // all there ever were
	writes  []simWrite
}

// simWrite is what was written at once.
type simWrite struct {
	conn  *simConn
	at    time.Time
	lines []string
}

// simConn is a connection of the Loop.
type simConn struct {
	net.Conn
	wire    *simWire
	address string
	dialed  time.Time
	isProbe bool        // it was dialed while there was another one
	closed  time.Time   // guarded by the wire's mu, as said is
	said    []time.Time // when IDENTIFY and PING were written

	unanswered []string             // commands that were written
	unheard    time.Time            // since when there has been no answer to the first of them
	answer     []byte               // as far as it was read
	known      map[string]time.Time // names, and when lookupd answered that it has them
}

func newSimWire() *simWire {
	return &simWire{open: make(map[*simConn]bool), dials: make(map[string]int), answers: make(map[string]int)}
}

type simDial func(ctx context.Context, network, address string) (net.Conn, error)

func (w *simWire) watch(dial simDial) simDial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed := time.Now()
		w.mu.Lock()
		w.dials[address]++
		w.mu.Unlock()
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &simConn{Conn: raw, wire: w, address: address, dialed: dialed, known: make(map[string]time.Time)}
		w.mu.Lock()
		for other := range w.open {
			c.isProbe = c.isProbe || other.address == address
		}
		w.open[c] = true
		w.conns = append(w.conns, c)
		w.mu.Unlock()
		return c, nil
	}
}

func (c *simConn) Write(p []byte) (int, error) {
	w := simWrite{conn: c, at: time.Now()}
	c.wire.mu.Lock()
	if len(c.unanswered) == 0 {
		c.unheard = w.at
	}
	if bytes.HasPrefix(p, []byte("  V1IDENTIFY\n")) {
		c.said = append(c.said, w.at)
		c.unanswered = append(c.unanswered, "IDENTIFY")
	} else {
		w.lines = strings.Split(strings.TrimSuffix(string(p), "\n"), "\n")
		if w.lines[0] == "PING" {
			c.said = append(c.said, w.at)
		}
		c.wire.writes = append(c.wire.writes, w)
		c.unanswered = append(c.unanswered, w.lines...)
	}
	c.match()
	c.wire.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *simConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.answer = append(c.answer, p[:n]...)
	c.match()
	return n, err
}

// match finds the commands to answers that were read. An answer may be read before the
// command is written.
func (c *simConn) match() {
	for len(c.answer) >= 4 && len(c.unanswered) > 0 {
		size := binary.BigEndian.Uint32(c.answer)
		if size > simMaxResponse || len(c.answer) < 4+int(size) {
			break
		}
		c.wire.answers[c.address]++
		c.answered(c.unanswered[0], string(c.answer[4:4+size]))
		c.answer, c.unanswered, c.unheard = c.answer[4+size:], c.unanswered[1:], time.Now()
	}
}

// answered notes what lookupd has, as it says.
func (c *simConn) answered(command, answer string) {
	if name, isRegister := strings.CutPrefix(command, "REGISTER "); isRegister && answer == "OK" {
		topic, _, _ := strings.Cut(name, " ")
		c.known[topic], c.known[name] = time.Now(), time.Now()
	}
}

// numKnowing is how many lookupds have said of each name, since it was made, that they
// have it, on a connection that was still open at a moment.
func (w *simWire) numKnowing(births map[string]time.Time, at time.Time) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	addresses := make(map[string]bool)
	for _, c := range w.conns {
		if (c.closed.IsZero() || !c.closed.Before(at)) && c.knows(births) {
			addresses[c.address] = true
		}
	}
	return len(addresses)
}

func (c *simConn) knows(births map[string]time.Time) bool {
	for name, birth := range births {
		if known := c.known[name]; known.IsZero() || known.Before(birth) {
			return false
		}
	}
	return true
}

func (c *simConn) Close() error {
	c.wire.mu.Lock()
	if c.wire.open[c] {
		delete(c.wire.open, c)
		c.closed = time.Now()
	}
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

func (w *simWire) numOpen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

func (w *simWire) numDials(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[address]
}

func (w *simWire) numAnswers(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.answers[address]
}

// longestSilence is the longest time between two heartbeats on a connection,
// until it ended or, as there is none in a farewell, until the Loop was told to
// leave. In the end lookupd may have been waited for, perhaps with a write that was
// stuck.
func (c *simConn) longestSilence(left []time.Time) (silence time.Duration) {
	for i := 1; i < len(c.said); i++ {
		silence = max(silence, c.said[i].Sub(c.said[i-1]))
	}
	if len(c.said) == 0 {
		return silence
	}
	last, end := c.said[len(c.said)-1], c.closed
	if len(c.unanswered) > 0 && c.unheard.Before(end) {
		end = c.unheard
	}
	for _, at := range left {
		if at.After(last) && at.Before(end) {
			end = at
		}
	}
	return max(silence, end.Sub(last))
}

// checkWrites checks that all that was ever written was true when it was,
// written in small pieces, and that no topic went before its channels.
func (w *simWorld) checkWrites() {
	announced := make(map[*simConn]map[string]bool)
	for _, write := range w.wire.writes {
		if announced[write.conn] == nil {
			announced[write.conn] = make(map[string]bool)
		}
		known := announced[write.conn]
		if len(write.lines) > registry.ChunkSize+2 { // a PING, and one entry over
			w.failf("%d commands in one write", len(write.lines))
		}
		for _, line := range write.lines {
			verb, name, _ := strings.Cut(line, " ")
			isTrue := true
			switch verb {
			case "REGISTER":
				known[name] = true
				isTrue = w.model.existed(name, write.at)
			case "UNREGISTER":
				delete(known, name)
				for other := range known {
					if strings.HasPrefix(other, name+" ") {
						w.failf("%s was written to %s before its channel %q was unregistered", line, write.conn.address, other)
					}
				}
				isNews := w.model.wasMissing(name, write.at) && w.model.wasDeleted(name, write.conn.dialed, write.at)
				isTrue = isNews || strings.Contains(name, registry.EphemeralSuffix) &&
					(write.isFarewell() || w.isLeaving(write) || w.model.wasMissing(name, write.at)) // what was deleted while lookupd was away
			}
			if !isTrue {
				w.failf("%s was written to %s %v after the beginning of the connection, and wasn't true", line, write.conn.address, write.at.Sub(write.conn.dialed))
			}
		}
	}
}

// isFarewell tells whether the connection ended soon after, as a probe does that
// has asked everything.
func (w simWrite) isFarewell() bool { return w.conn.closed.Sub(w.at) <= leaveTimeout }

// isLeaving tells whether a write may be a farewell. New names are looked up first.
func (w *simWorld) isLeaving(write simWrite) bool {
	longest := leaveTimeout
	if w.history.setting.resolve > 0 {
		longest += resolve.Timeout
	}
	return slices.ContainsFunc(w.left[write.conn.address], func(left time.Time) bool {
		return !write.at.Before(left) && write.at.Sub(left) <= longest
	})
}

// checkHeartbeats checks that no connection was silent for longer than it may
// be. A lookupd that takes long for each answer is exempt: what has been
// written before a PING must be answered before it.
func (w *simWorld) checkHeartbeats() {
	for _, c := range w.wire.conns {
		if silence := c.longestSilence(w.left[c.address]); silence > w.history.setting.heartbeat+simTimeout && !w.slow[c.address] && !c.isProbe {
			w.failf("no PING to %s for %v", c.address, silence)
		}
	}
}

// simProgress is how far a lookupd has come, and since when.
type simProgress struct {
	connects, commands      uint64
	pending, dials, answers int
	since                   time.Time
}

// checkProgress checks that no lookupd is connected and behind, and nothing happens:
// no command, no answer, no probe's attempt to connect. With a long heartbeat
// nothing would get it going for long.
func (w *simWorld) checkProgress() {
	const atMost = 2*simTimeout + leaveTimeout + time.Second // some failing attempt
	for _, s := range w.loop.Status().Lookupds {
		now := simProgress{s.Connects, s.Commands, s.Pending, w.wire.numDials(s.Address), w.wire.numAnswers(s.Address), time.Now()}
		before := w.progress[s.Address]
		if now.since = before.since; now != before || s.State != Connected || s.Pending == 0 {
			now.since = time.Now()
		}
		w.progress[s.Address] = now
		if stands := time.Since(now.since); stands > w.history.setting.maxBackoff+atMost {
			w.failf("%s has %d changes to hear of, and nothing happens for %v", s.Address, s.Pending, stands)
		}
	}
}

// checkSteady checks of the lookupd that has no fault that its connection never ends,
// and that it is never further behind than the network and it make it.
func (w *simWorld) checkSteady() {
	if w.steadySince.IsZero() {
		return
	}
	server := w.servers[w.steady()]
	if dials := w.wire.numDials(server.TCPAddress) - w.steadyDials; dials > 1 {
		w.failf("lookupd %d has no fault, and was dialed %d times", w.steady(), dials)
	}
	at := time.Now().Add(-w.lag())
	if w.steadySince.After(at) {
		return
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	known := registrations(server)
	for name, birth := range w.model.births() {
		if birth.Before(at) && known[name] != 1 {
			w.failf("lookupd %d has no fault, and lists %q %d times %v after its birth", w.steady(), name, known[name], time.Since(birth))
		}
	}
	for name := range known {
		if !w.model.existedSince(name, at) {
			w.failf("lookupd %d has no fault, and lists %q, which is gone for %v", w.steady(), name, w.lag())
		}
	}
}

// lag is how far a lookupd without a fault may be behind: some round trips, and
// what the network takes for all names, as for a resync before the news.
func (w *simWorld) lag() time.Duration {
	s := w.history.setting
	bytes := 3 * 40 * (2*s.preload + 20)
	return 500*time.Millisecond + 6*w.roundTrip() + time.Duration(bytes/s.buffer)*2*s.latency + w.transfer(bytes)
}

// transfer is what the bandwidth makes of so many bytes.
func (w *simWorld) transfer(bytes int) time.Duration {
	if w.history.setting.bandwidth == 0 {
		return 0
	}
	return time.Duration(bytes) * time.Second / time.Duration(w.history.setting.bandwidth)
}
