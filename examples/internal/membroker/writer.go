package membroker

import (
	"bufio"
	"net"
	"time"

	"github.com/nsqio/go-nsq"
)

const (
	outputBuffer = 4 << 10
	takeAtOnce   = 64 // messages between two looks at replies and heartbeats
)

var (
	okBytes        = []byte("OK")
	closeWaitBytes = []byte("CLOSE_WAIT")
	heartbeatBytes = []byte("_heartbeat_")
)

// write is the only goroutine that writes to the client's connection. It
// takes messages when it can write them, so that a slow client has no more of
// them than it asked for. It ends when the reader has, when writing fails, when
// the channel is deleted, or when the broker ends and nothing is in flight.
func (c *client) write() {
	defer close(c.written)
	out := &timedWriter{c.conn, defaultHeartbeat}
	w := bufio.NewWriterSize(out, outputBuffer)
	heartbeat := time.NewTicker(defaultHeartbeat)
	defer heartbeat.Stop()

	var s *consumer          // nil before SUB
	var gone <-chan struct{} // s.gone
	draining, drain := c.broker.draining, false

	for {
		var err error
		select {
		case r := <-c.replies:
			if r.info != nil && r.info.heartbeat > 0 {
				out.timeout = r.info.heartbeat
				heartbeat.Reset(r.info.heartbeat)
			} else if r.info != nil {
				heartbeat.Stop()
			}
			if r.subscription != nil {
				s, gone = r.subscription, r.subscription.gone
			}
			err = writeFrame(w, r.frameType, r.data)
		case <-c.wake:
			if !c.broker.isDraining() { // which may be so before it is seen below
				err = sendMessages(w, s)
			}
		case <-heartbeat.C:
			err = writeFrame(w, nsq.FrameTypeResponse, heartbeatBytes)
		case <-draining:
			draining, drain = nil, true
		case <-gone:
			c.conn.Close()
			return
		case <-c.read:
			return
		}
		if err == nil {
			err = w.Flush()
		}
		if err != nil || drain && (s == nil || s.channel.idle(s)) {
			c.conn.Close()
			return
		}
	}
}

// sendMessages writes what the channel has for the consumer.
func sendMessages(w *bufio.Writer, s *consumer) error {
	for _, h := range s.channel.take(s, takeAtOnce) {
		if err := writeMessage(w, h); err != nil {
			return err
		}
	}
	return nil
}

// timedWriter gives each write the same time.
type timedWriter struct {
	conn    net.Conn
	timeout time.Duration
}

func (w *timedWriter) Write(p []byte) (int, error) {
	w.conn.SetWriteDeadline(time.Now().Add(w.timeout))
	return w.conn.Write(p)
}
