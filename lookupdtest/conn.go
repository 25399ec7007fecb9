package lookupdtest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// conn is one connection to the TCP port. Its goroutine, started by Server.accept
// and awaited by Server.Stop, alone touches everything but raw, remote, done and aborts.
type conn struct {
	server *Server
	db     *database     // of the run of the server that the connection belongs to
	raw    net.Conn      // as it was accepted: anyone may close it
	net    net.Conn      // raw, or TLS on it
	remote string        // raw's
	done   chan struct{} // closed by abort
	aborts sync.Once

	r    *bufio.Reader // reads through conn.Read
	w    *bufio.Writer // writes through conn.Write
	peer *peer         // nil before IDENTIFY
	out  []byte        // the answer being made, kept for its capacity

	held           []byte // read while the connection hung, not handled yet
	received, sent int64
	seen           map[*standing]int64 // received or sent when the order first saw the connection
	end            ending              // how it is to end, once what was read is handled
}

var errEnded = errors.New("lookupdtest: the connection was ended by an order")

// hangLimit is how much a hung connection reads on; then it stops reading.
const hangLimit = 1 << 20

func newConn(s *Server, db *database, raw net.Conn) *conn {
	c := &conn{
		server: s, db: db,
		raw: raw, net: raw, remote: raw.RemoteAddr().String(),
		done: make(chan struct{}), seen: make(map[*standing]int64),
	}
	if s.TLS != nil {
		c.net = tls.Server(raw, s.TLS)
	}
	c.r = bufio.NewReaderSize(struct{ io.Reader }{c}, maxLine)
	c.w = bufio.NewWriterSize(struct{ io.Writer }{c}, maxLine)
	return c
}

// serve handles the connection from its first byte to its last.
func (c *conn) serve() {
	c.talk()
	if c.peer != nil {
		c.db.forget(c.peer)
	}
	if c.end == resets {
		reset(c.raw)
	} else {
		c.net.Close() // says goodbye if it is TLS
	}
	c.raw.Close()
}

// talk returns when the connection is to be closed.
func (c *conn) talk() {
	if !c.greet() {
		return
	}
	defer c.flush()
	var magic [4]byte
	if _, err := io.ReadFull(c.r, magic[:]); err != nil {
		return
	}
	if string(magic[:]) != "  V1" {
		c.send(frame(nil, "E_BAD_PROTOCOL"))
		return
	}
	for {
		cmd, err := readCommand(c.r, c.peer != nil)
		if err != nil {
			return
		}
		cmd.RemoteAddr = c.remote
		if !c.handle(cmd) {
			return
		}
	}
}

// greet takes a new connection past the orders that end or hold it before anything
// is read. On a Network those that act on dialing have had their say.
func (c *conn) greet() bool {
	if c.server.network == nil {
		x := exchange{at: dialing, conn: c, done: c.done}
		c.server.pass(&x, goOn)
		c.end = x.end
	}
	for _, at := range []point{accepted, receiving} { // receiving: for cuts after no byte at all
		if c.end == stays {
			x := exchange{at: at, conn: c, done: c.done}
			c.server.pass(&x, goOn)
			c.end = x.end
		}
	}
	return c.end == stays
}

// handle answers one command; false when the connection is to be closed.
func (c *conn) handle(cmd Command) bool {
	x := exchange{at: observing, conn: c, done: c.done, cmd: cmd, data: c.out[:0]}
	c.server.pass(&x, goOn)
	x.at = answering
	c.server.pass(&x, carryOut)
	c.server.changed.fire()
	c.out = x.data
	if c.send(x.data) != nil {
		return false
	}
	if x.end != stays {
		c.flush()
		c.end = x.end
		return false
	}
	return true
}

// carryOut is what becomes of a command that no order keeps back.
func carryOut(x *exchange) {
	answer, fatal := x.conn.execute(x.cmd)
	x.data = frame(x.data, answer)
	if fatal {
		x.end = closes
	}
}

// send puts bytes into the buffer, which goes out when it is full or when the server
// would have to wait for the next command.
func (c *conn) send(data []byte) error {
	_, err := c.w.Write(data)
	return err
}

func (c *conn) flush() error { return c.w.Flush() }

// Read is what r reads from: first what was held, then the network, past the orders
// that act on bytes received. Before it waits for bytes it sends what is due.
func (c *conn) Read(p []byte) (int, error) {
	if err := c.flush(); err != nil {
		return 0, err
	}
	if c.end != stays {
		return 0, errEnded
	}
	var n int
	var err error
	if len(c.held) > 0 {
		n = copy(p, c.held)
		c.held = c.held[n:]
	} else {
		x := exchange{at: waiting, conn: c, done: c.done}
		c.server.pass(&x, func(x *exchange) { n, x.err = c.net.Read(p) })
		err = x.err
	}
	if n > 0 {
		n = c.passBytes(receiving, p[:n], &c.received)
	}
	return n, err
}

// Write is what w writes to: the network, past the orders that act on bytes sent.
// After an error w calls it no more.
func (c *conn) Write(p []byte) (int, error) {
	n := c.passBytes(sending, p, &c.sent)
	n, err := c.net.Write(p[:n])
	if err == nil && n < len(p) {
		err = errEnded
	}
	return n, err
}

// passBytes returns how many of the bytes go on.
func (c *conn) passBytes(at point, data []byte, total *int64) int {
	x := exchange{at: at, conn: c, done: c.done, data: data, passed: *total, end: c.end}
	c.server.pass(&x, goOn)
	c.end = x.end
	*total += int64(len(x.data))
	return len(x.data)
}

// readOn reads and keeps what it reads until the order is lifted. It returns false
// when the connection ended before.
func (x *exchange) readOn() bool {
	c := x.conn
	c.flush()
	read := make(chan error, 1)
	go func() { read <- c.keep() }() // awaited below, on all ways
	select {
	case err := <-read:
		if err == nil { // the limit is reached
			return x.hold()
		}
		x.end = closes
		return false
	case <-x.order.lifted:
		c.raw.SetReadDeadline(time.Unix(1, 0))
		err := <-read
		c.raw.SetReadDeadline(time.Time{})
		if err == nil || isTimeout(err) {
			return true
		}
		x.end = closes
		return false
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// keep reads into held, up to a limit. While it runs nobody else touches held.
func (c *conn) keep() error {
	buf := make([]byte, maxLine)
	for len(c.held) < hangLimit {
		n, err := c.net.Read(buf)
		c.held = append(c.held, buf[:n]...)
		if err != nil {
			return err
		}
	}
	return nil
}

// abort ends the connection from another goroutine.
func (c *conn) abort() {
	c.aborts.Do(func() {
		reset(c.raw)
		close(c.done)
	})
}

// reset closes a connection so that what is under way is lost.
func reset(raw net.Conn) {
	if l, ok := raw.(interface{ SetLinger(sec int) error }); ok {
		l.SetLinger(0)
	}
	raw.Close()
}
