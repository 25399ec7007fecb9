package membroker

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nsqio/go-nsq"
)

// This file is NSQ's TCP protocol V2 as bytes (https://nsq.io/clients/tcp_protocol_spec.html):
// what a client sends becomes a command or a protocolError, with every size and
// name checked; what it is sent is framed. It knows nothing of connections.

// command is one command of a client. Which fields are set depends on the verb.
type command struct {
	verb    string
	topic   string        // PUB MPUB DPUB SUB
	channel string        // SUB
	id      nsq.MessageID // FIN REQ TOUCH
	count   int           // RDY
	delay   time.Duration // DPUB REQ
	bodies  [][]byte      // IDENTIFY PUB DPUB: one; MPUB: one or more
}

// protocolError is an answer to a client. Its text is what goes over the wire.
type protocolError struct {
	code   string
	reason string
	fatal  bool // the connection is closed after it
}

func (e *protocolError) Error() string { return e.code + " " + e.reason }

// fatalf is for what nsqd closes the connection after: nearly everything.
func fatalf(code, format string, args ...any) *protocolError {
	return &protocolError{code, fmt.Sprintf(format, args...), true}
}

// readLine reads a command line, without its end. The slice is valid until
// the next read. r's buffer has maxLine bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fatalf("E_INVALID", "command line is longer than %d bytes", maxLine)
	}
	if err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(line[:len(line)-1], []byte("\r")), nil
}

// parseCommand parses a line and reads the body that belongs to it, with at
// most maxBatch messages. As nsqd does, it ignores parameters too many. Its
// errors are all *protocolError.
func parseCommand(line []byte, r io.Reader, maxBatch int) (command, error) {
	params := bytes.Split(line, []byte(" "))
	p := parser{verb: string(params[0]), params: params[1:], r: r}
	c := command{verb: p.verb}
	switch c.verb {
	case "NOP", "CLS":
	case "IDENTIFY":
		c.bodies = [][]byte{p.body("E_BAD_BODY", maxIdentify)}
	case "PUB":
		c.topic = p.topic(0)
		c.bodies = [][]byte{p.body("E_BAD_MESSAGE", maxMsgSize)}
	case "MPUB":
		c.topic = p.topic(0)
		c.bodies = p.batch(maxBatch)
	case "DPUB":
		c.topic = p.topic(0)
		c.delay = p.milliseconds(1)
		if c.delay > maxReqTimeout {
			p.fail("E_INVALID", "DPUB delay %v is not within 0 and %v", c.delay, maxReqTimeout)
		}
		c.bodies = [][]byte{p.body("E_BAD_MESSAGE", maxMsgSize)}
	case "SUB":
		c.topic = p.topic(0)
		c.channel = p.channel(1)
	case "RDY":
		c.count = 1
		if len(p.params) > 0 {
			c.count = p.number(0)
		}
		if c.count > maxRdyCount {
			p.fail("E_INVALID", "RDY count %d is not within 0 and %d", c.count, maxRdyCount)
		}
	case "FIN", "TOUCH":
		c.id = p.messageID(0)
	case "REQ":
		c.id = p.messageID(0)
		c.delay = min(p.milliseconds(1), maxReqTimeout)
	default:
		p.fail("E_INVALID", "invalid command %.40q", c.verb)
	}
	if p.err != nil {
		return command{}, p.err
	}
	return c, nil
}

// parser reads the parts of one command. After the first error it reads nothing more.
type parser struct {
	verb   string
	params [][]byte
	r      io.Reader
	err    error
}

func (p *parser) fail(code, format string, args ...any) {
	if p.err == nil {
		p.err = fatalf(code, format, args...)
	}
}

func (p *parser) param(i int) string {
	if i >= len(p.params) {
		p.fail("E_INVALID", "%s needs more than %d parameters", p.verb, len(p.params))
		return ""
	}
	return string(p.params[i])
}

func (p *parser) topic(i int) string {
	name := p.param(i)
	if !nsq.IsValidTopicName(name) {
		p.fail("E_BAD_TOPIC", "%s topic name %.80q is not valid", p.verb, name)
	}
	return name
}

func (p *parser) channel(i int) string {
	name := p.param(i)
	if !nsq.IsValidChannelName(name) {
		p.fail("E_BAD_CHANNEL", "%s channel name %.80q is not valid", p.verb, name)
	}
	return name
}

func (p *parser) messageID(i int) (id nsq.MessageID) {
	if copy(id[:], p.param(i)) < len(id) || len(p.params[i]) > len(id) {
		p.fail("E_INVALID", "%s message ID is not %d bytes long", p.verb, len(id))
	}
	return id
}

func (p *parser) number(i int) int {
	n, err := strconv.ParseUint(p.param(i), 10, 31)
	if err != nil {
		p.fail("E_INVALID", "%s could not parse number %.40q", p.verb, p.param(i))
	}
	return int(n)
}

func (p *parser) milliseconds(i int) time.Duration {
	return time.Duration(p.number(i)) * time.Millisecond
}

// size reads the length of what follows: 1 to limit bytes.
func (p *parser) size(code string, limit int) int {
	if p.err != nil {
		return 0
	}
	var size [4]byte
	if _, err := io.ReadFull(p.r, size[:]); err != nil {
		p.fail(code, "%s failed to read a size: %v", p.verb, err)
		return 0
	}
	n := int32(binary.BigEndian.Uint32(size[:]))
	if n <= 0 || int(n) > limit {
		p.fail(code, "%s size %d is not within 1 and %d", p.verb, n, limit)
		return 0
	}
	return int(n)
}

// body reads a size and as many bytes.
func (p *parser) body(code string, limit int) []byte {
	n := p.size(code, limit)
	if p.err != nil {
		return nil
	}
	body, err := readExactly(p.r, n)
	if err != nil {
		p.fail(code, "%s failed to read %d bytes: %v", p.verb, n, err)
	}
	return body
}

// batch reads the body of MPUB with its size in front.
func (p *parser) batch(maxBatch int) [][]byte {
	n := p.size("E_BAD_BODY", maxBodySize)
	if p.err != nil {
		return nil
	}
	body := &io.LimitedReader{R: p.r, N: int64(n)}
	bodies, err := readBatch(body, maxBatch)
	if err == nil && body.N > 0 {
		err = fatalf("E_BAD_BODY", "%d bytes follow the last message", body.N)
	}
	p.err = err
	return bodies
}

// readBatch reads the body of MPUB: how many messages, then each with its size.
func readBatch(r io.Reader, maxBatch int) ([][]byte, error) {
	p := parser{verb: "MPUB", r: r}
	n := p.size("E_BAD_BODY", maxBatch)
	var bodies [][]byte // grows as they arrive: a client may claim any number
	for i := 0; i < n && p.err == nil; i++ {
		bodies = append(bodies, p.body("E_BAD_MESSAGE", maxMsgSize))
	}
	return bodies, p.err
}

// readExactly reads n bytes. The memory grows as they arrive, so that who only
// promises a megabyte takes none.
func readExactly(r io.Reader, n int) ([]byte, error) {
	body := make([]byte, min(n, 4<<10))
	have := 0
	for {
		if _, err := io.ReadFull(r, body[have:]); err != nil {
			return nil, err
		}
		have = len(body)
		if have == n {
			return body, nil
		}
		more := make([]byte, min(n, 2*have))
		copy(more, body)
		body = more
	}
}

// writeFrame writes a frame that consists of the parts.
func writeFrame(w *bufio.Writer, frameType int32, parts ...[]byte) error {
	size := 4
	for _, part := range parts {
		size += len(part)
	}
	var header [8]byte
	binary.BigEndian.PutUint32(header[:], uint32(size))
	binary.BigEndian.PutUint32(header[4:], uint32(frameType))
	_, err := w.Write(header[:])
	for _, part := range parts {
		_, err = w.Write(part) // after an error a bufio.Writer repeats it
	}
	return err
}

func writeMessage(w *bufio.Writer, h handout) error {
	var fields [10]byte
	binary.BigEndian.PutUint64(fields[:], uint64(h.timestamp.UnixNano()))
	binary.BigEndian.PutUint16(fields[8:], h.attempts)
	return writeFrame(w, nsq.FrameTypeMessage, fields[:], h.id[:], h.body)
}
