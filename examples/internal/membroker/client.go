package membroker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/nsqio/go-nsq"
)

// client is one connection. Two goroutines serve it: serveClient reads
// commands and executes them, write sends everything that is sent. Whichever
// ends first ends the other, by closing the connection or the channel read;
// serveClient waits for write.
type client struct {
	broker *Broker
	conn   net.Conn

	// Owned by the reader:
	r            *bufio.Reader
	info         clientInfo
	subscription *consumer // nil before SUB

	replies chan reply    // reader to writer
	wake    chan struct{} // capacity 1: there may be messages to take; see consumer.wake
	read    chan struct{} // closed when the reader has ended
	written chan struct{} // closed when the writer has ended
}

// reply is what the reader asks the writer to do: to send a frame, and from then on to
// go by new settings or a new subscription.
type reply struct {
	frameType    int32
	data         []byte
	info         *clientInfo // of IDENTIFY
	subscription *consumer   // of SUB
}

// serveClient serves one connection until its end.
func (b *Broker) serveClient(conn net.Conn) {
	defer context.AfterFunc(b.connected, func() { conn.Close() })()
	defer conn.Close()
	if !b.handshake(conn) {
		return
	}
	c := &client{
		broker:  b,
		conn:    conn,
		r:       bufio.NewReaderSize(conn, maxLine),
		info:    clientInfo{heartbeat: defaultHeartbeat, msgTimeout: defaultMsgTimeout},
		replies: make(chan reply),
		wake:    make(chan struct{}, 1),
		read:    make(chan struct{}),
		written: make(chan struct{}),
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	err := c.serve()
	refused := errors.As(err, new(*protocolError))
	if !refused {
		conn.Close() // the writer need not finish
	}
	close(c.read)
	writer.Wait()
	if c.subscription != nil {
		err = errors.Join(err, b.unsubscribe(c.subscription))
	}
	if refused {
		linger(conn)
	}
	b.opts.Logger.Debug("client left", "client", conn.RemoteAddr(), "error", err)
}

// handshake reads the protocol's magic. Nothing is allocated for who doesn't send it.
func (b *Broker) handshake(conn net.Conn) bool {
	conn.SetDeadline(time.Now().Add(handshakeTimeout))
	var magic [4]byte
	if _, err := io.ReadFull(conn, magic[:]); err != nil {
		return false
	}
	if string(magic[:]) != string(nsq.MagicV2) {
		w := bufio.NewWriterSize(conn, 64)
		writeFrame(w, nsq.FrameTypeError, []byte("E_BAD_PROTOCOL"))
		w.Flush()
		linger(conn)
		return false
	}
	conn.SetDeadline(time.Time{})
	return true
}

// serve reads and executes commands. It returns the fatal error, which the
// client has been sent, or why nothing more can be read.
func (c *client) serve() error {
	for {
		r, err := c.next()
		var refusal *protocolError
		if errors.As(err, &refusal) {
			r = &reply{frameType: nsq.FrameTypeError, data: []byte(refusal.Error())}
		} else if err != nil {
			return err
		}
		if r != nil {
			select {
			case c.replies <- *r:
			case <-c.written:
				return net.ErrClosed
			}
		}
		if refusal != nil && refusal.fatal {
			return refusal
		}
	}
}

// next reads one command and executes it. Waiting for a command may take two
// heartbeats, its body as long again.
func (c *client) next() (*reply, error) {
	c.conn.SetReadDeadline(c.silentUntil(0))
	line, err := readLine(c.r)
	if err != nil {
		return nil, err
	}
	c.conn.SetReadDeadline(c.silentUntil(defaultHeartbeat))
	cmd, err := parseCommand(line, c.r, c.broker.opts.MemQueueSize)
	if err != nil {
		return nil, err
	}
	return c.execute(cmd)
}

// silentUntil is the end of two heartbeats from now. Clients without
// heartbeats get two of those given; zero is for ever.
func (c *client) silentUntil(heartbeat time.Duration) time.Time {
	if c.info.heartbeat > 0 {
		heartbeat = c.info.heartbeat
	}
	if heartbeat == 0 {
		return time.Time{}
	}
	return time.Now().Add(2 * heartbeat)
}

// linger reads away what a refused client still sends, for a short time: closing a
// connection with unread bytes resets it, and the client would never see the error.
func linger(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		conn.SetReadDeadline(time.Now().Add(lingerTimeout))
		io.CopyN(io.Discard, conn, 2*maxBodySize)
	}
}

// execute does what the command says, and returns the answer if it has one.
func (c *client) execute(cmd command) (*reply, error) {
	switch cmd.verb {
	case "IDENTIFY":
		return c.identify(cmd)
	case "SUB":
		return c.subscribe(cmd)
	case "PUB", "MPUB", "DPUB":
		return c.publish(cmd)
	case "NOP":
		return nil, nil
	}
	// All others are a consumer's.
	s := c.subscription
	if s == nil {
		return nil, fatalf("E_INVALID", "cannot %s in current state", cmd.verb)
	}
	switch cmd.verb {
	case "RDY":
		s.channel.setReady(s, cmd.count)
		return nil, nil
	case "FIN":
		return nil, failed(cmd, s.channel.finish(s, cmd.id))
	case "REQ":
		return nil, failed(cmd, s.channel.requeue(s, cmd.id, cmd.delay))
	case "TOUCH":
		return nil, failed(cmd, s.channel.touch(s, cmd.id))
	default: // CLS, the last that parseCommand knows
		if !s.channel.stopFeeding(s) {
			return nil, fatalf("E_INVALID", "cannot CLS in current state")
		}
		return &reply{frameType: nsq.FrameTypeResponse, data: closeWaitBytes}, nil
	}
}

// failed makes the error that leaves the connection open: the message may
// just have timed out.
func failed(cmd command, err error) error {
	if err == nil {
		return nil
	}
	return &protocolError{code: "E_" + cmd.verb + "_FAILED", reason: cmd.verb + " " + string(cmd.id[:]) + " failed: " + err.Error()}
}

func (c *client) identify(cmd command) (*reply, error) {
	if c.subscription != nil {
		return nil, fatalf("E_INVALID", "cannot IDENTIFY in current state")
	}
	info, err := parseIdentify(cmd.bodies[0])
	if err != nil {
		return nil, err
	}
	c.info = info
	return &reply{frameType: nsq.FrameTypeResponse, data: info.answer(), info: &info}, nil
}

func (c *client) subscribe(cmd command) (*reply, error) {
	if c.subscription != nil {
		return nil, fatalf("E_INVALID", "cannot SUB in current state")
	}
	if c.info.heartbeat == 0 {
		return nil, fatalf("E_INVALID", "cannot SUB with heartbeats disabled")
	}
	s := &consumer{
		client:  c.info,
		address: c.conn.RemoteAddr().String(),
		since:   time.Now(),
		wake:    c.wake,
		gone:    make(chan struct{}),
	}
	if err := c.broker.subscribe(cmd.topic, cmd.channel, s); err != nil {
		return nil, fatalf("E_SUB_FAILED", "SUB failed: %v", err)
	}
	c.subscription = s
	return &reply{frameType: nsq.FrameTypeResponse, data: okBytes, subscription: s}, nil
}

func (c *client) publish(cmd command) (*reply, error) {
	msgs := make([]*message, len(cmd.bodies))
	for i, body := range cmd.bodies {
		msgs[i] = newMessage(body, cmd.delay)
	}
	if err := c.broker.publish(cmd.topic, msgs...); err != nil {
		return nil, fatalf("E_"+cmd.verb+"_FAILED", "%s failed: %v", cmd.verb, err)
	}
	return &reply{frameType: nsq.FrameTypeResponse, data: okBytes}, nil
}
