package lookuploop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nsqio/go-nsq"
)

const (
	readBufferSize = 4096

	// The window of commands in flight begins with the first size. It grows
	// with each answer, up to the second, which at 50 ms a round trip allows
	// 160,000 commands a second, and shrinks when one is late, to as many as are
	// answered in time: a PING waits for all that is before it.
	firstWindow = 1024
	maxWindow   = 8192

	// Until so many answers have come nobody knows how long lookupd takes for a
	// command, while the whole first window may wait there. So chunks are of so
	// many entries until then, with a PING between: a slow lookupd hears one in
	// time.
	blindChunk = 64

	idleQueue = 64 // commands that an empty queue keeps room for
)

// connection is one TCP connection to one lookupd: it frames, pipelines and
// bounds. The peer's goroutine writes to it. A goroutine of its own runs
// readAnswers; the peer starts it and awaits done.
//
// It cannot deadlock: the reader waits for nothing but the network, so a
// lookupd that must get rid of its answers before it reads on always can.
type connection struct {
	address string
	conn    net.Conn
	reader  *bufio.Reader
	timeout time.Duration // for each answer
	limit   int           // of an answer, in bytes
	started time.Time
	late    time.Duration // answers that take longer are late; settled by identify

	mu       sync.Mutex // guards the read deadline too: it belongs to the oldest in flight, or to the write
	inFlight queue
	writing  bool // a write is under way
	window   int  // at least 1
	heard    int  // answers since IDENTIFY

	// answered has capacity 1: readable after answers came and left room, so in
	// any case when nothing is in flight any more. The reader sends, the peer receives.
	answered chan struct{}

	done    chan struct{} // closed when the reader has ended; then these are valid:
	err     error         // why it did
	severed bool          // the connection broke, without an answer that says why
}

func newConnection(address string, conn net.Conn, timeout time.Duration, limit int) *connection {
	return &connection{
		address:  address,
		conn:     conn,
		reader:   bufio.NewReaderSize(conn, readBufferSize),
		timeout:  timeout,
		limit:    limit,
		started:  time.Now(),
		late:     timeout / 4,
		window:   firstWindow,
		answered: make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
}

// close closes the socket at once; a tls.Conn by itself would first try to say
// goodbye for up to 5 s. Any goroutine may call it, more than once.
func (c *connection) close() {
	conn := c.conn
	for {
		outer, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = outer.NetConn()
	}
	conn.Close()
}

// identify sends the magic and IDENTIFY and returns the answer. It comes
// before everything else.
func (c *connection) identify(body map[string]any) (PeerInfo, error) {
	cmd, err := nsq.Identify(body)
	if err != nil {
		return PeerInfo{}, fmt.Errorf("lookuploop: %s: IDENTIFY: %w", c.address, err)
	}
	var hello bytes.Buffer
	hello.Write(nsq.MagicV1)
	cmd.WriteTo(&hello)

	c.conn.SetDeadline(time.Now().Add(c.timeout))
	_, writeErr := c.conn.Write(hello.Bytes())
	answer, err := readResponse(c.reader, c.limit) // after a failed write too: it may say why
	if err != nil {
		return PeerInfo{}, c.explain(identify, errors.Join(writeErr, err))
	}
	c.conn.SetDeadline(time.Time{})
	c.late += time.Since(c.started) // what a round trip takes isn't anybody's fault

	var info PeerInfo
	switch {
	case isError(answer):
		return info, newResponseError(c.address, command{verb: identify}, answer)
	case bytes.Equal(answer, answerOK): // nsqlookupd's answer when it can't describe itself
		return info, nil
	}
	if err := json.Unmarshal(answer, &info); err != nil {
		return PeerInfo{}, c.explain(identify, fmt.Errorf("answer %s is no peer info: %w", quote(answer), err))
	}
	for _, s := range []*string{&info.Version, &info.Hostname, &info.BroadcastAddress} {
		*s = clip(*s)
	}
	return info, nil
}

// clip shortens what a hostile lookupd made longer than any host name is.
func clip(s string) string {
	const longest = 255
	if len(s) > longest {
		s = strings.Clone(strings.ToValidUTF8(s[:longest], ""))
	}
	return s
}

// send writes b. The answer to its first command is due from now on, or from
// the answer to the command before it. After an error the reader ends by
// itself, once it has read what lookupd still had to say.
func (c *connection) send(b *batch) error {
	c.mu.Lock()
	now := time.Since(c.started)
	if c.inFlight.len() == 0 {
		c.conn.SetReadDeadline(time.Now().Add(c.timeout))
	}
	for i := range b.commands {
		b.commands[i].sentAt, b.commands[i].heard = now, c.heard
		c.inFlight.push(b.commands[i])
	}
	c.writing = true
	c.mu.Unlock()
	_, err := c.conn.Write(b.encoded.Bytes())

	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if c.inFlight.len() == 0 {
		c.conn.SetReadDeadline(time.Time{})
	}
	return err
}

// room is how many commands may be sent now, at least one when none is in
// flight. It is zero while an answer is late, and as long as less is free than
// a chunk may need, or a quarter of a small window: else each answer would let
// one command go, in a write of its own.
func (c *connection) room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.inFlight.len()
	free := c.window - n
	if free < min(chunkSize, c.window/4) || n > 0 && c.isLate(c.inFlight.first()) {
		return 0
	}
	return free
}

// isLate tells whether an answer to cmd would be late now. It is called with mu held.
func (c *connection) isLate(cmd command) bool {
	return time.Since(c.started)-cmd.sentAt > c.late
}

// isBlind tells whether too little was answered to know how long that takes.
func (c *connection) isBlind() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard < blindChunk
}

// rest gives memory back if nothing is in flight, and tells whether that is so.
func (c *connection) rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight.trim()
	return c.inFlight.len() == 0
}

func (c *connection) numInFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight.len()
}

// answers is what came in at once.
type answers struct {
	logged int     // commands from the log that were answered …
	last   command // … and the last of them
	ping   bool
	rtt    time.Duration // of the PING
}

// readAnswers reads until the connection ends, for whatever reason, and closes
// it then. It hands on all good answers before it ends.
func (c *connection) readAnswers(handle func(answers)) {
	defer close(c.done)
	defer c.close()
	var got answers
	flush := func() {
		if got.logged > 0 || got.ping {
			handle(got)
			got = answers{}
		}
		if c.room() > 0 {
			signal(c.answered)
		}
	}
	for c.err == nil {
		c.err = c.readAnswer(&got)
		if c.err != nil || !hasResponse(c.reader) {
			c.renewDeadline()
			flush()
		}
	}
}

// readAnswer reads one answer and adds it to got.
func (c *connection) readAnswer(got *answers) error {
	answer, err := readResponse(c.reader, c.limit)

	c.mu.Lock()
	waiting := c.inFlight.len() > 0
	var cmd command
	if waiting {
		cmd = c.inFlight.first()
		if err == nil {
			c.inFlight.pop()
			c.heard++
			c.adapt(cmd)
		}
	}
	c.mu.Unlock()

	switch {
	case err != nil && !waiting && errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("lookuploop: %s: commands not taken within %v: %w", c.address, c.timeout, err)
	case err != nil && !waiting:
		c.severed = isSevered(err)
		return fmt.Errorf("lookuploop: %s: connection lost: %w", c.address, err)
	case err != nil:
		c.severed = isSevered(err)
		return c.explain(cmd.verb, err)
	case !waiting:
		return fmt.Errorf("lookuploop: %s: %s: answer without a command", c.address, quote(answer))
	case isError(answer):
		return &refusedError{newResponseError(c.address, cmd, answer), cmd}
	case !bytes.Equal(answer, answerOK):
		return c.explain(cmd.verb, fmt.Errorf("unexpected answer %s", quote(answer)))
	case cmd.verb == ping:
		got.ping, got.rtt = true, time.Since(c.started)-cmd.sentAt
	default:
		got.logged++
		got.last = cmd
	}
	return nil
}

// adapt sets the window after an answer to cmd. When it was late, those that came
// while it was under way show how many come in time. It is called with mu held.
func (c *connection) adapt(cmd command) {
	if took := time.Since(c.started) - cmd.sentAt; took > c.late {
		inTime := int64(c.heard-cmd.heard) * int64(c.late) / int64(took)
		c.window = max(min(c.window, int(inTime)), 1)
	} else {
		c.window = min(c.window+1, maxWindow)
	}
}

// isSevered tells whether err of readResponse is the network's, and no timeout.
func isSevered(err error) bool {
	return !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, ErrResponseTooLarge) && !errors.Is(err, errNegativeLength)
}

// renewDeadline starts the time for the next answer, if one is due. A write that
// is under way needs it too: a lookupd that answers before it was asked, and then
// reads no more, would hold it for ever.
func (c *connection) renewDeadline() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var deadline time.Time
	if c.inFlight.len() > 0 || c.writing {
		deadline = time.Now().Add(c.timeout)
	}
	c.conn.SetReadDeadline(deadline)
}

// explain says what was going on when err happened.
func (c *connection) explain(v verb, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no answer within %v: %w", c.timeout, err)
	}
	return fmt.Errorf("lookuploop: %s: %s: %w", c.address, v, err)
}

// refusedError is a ResponseError together with the command it answers.
type refusedError struct {
	*ResponseError
	cmd command
}

func (e *refusedError) Unwrap() error { return e.ResponseError }

var (
	answerOK          = []byte("OK")
	errNegativeLength = errors.New("negative response length")
)

func isError(answer []byte) bool { return bytes.HasPrefix(answer, []byte("E_")) }

// quote shows the beginning of an answer.
func quote(answer []byte) string { return fmt.Sprintf("%.64q", answer) }

// readResponse reads one frame: a length of 4 bytes, big endian, and as many
// bytes. What it returns is valid until the next read.
func readResponse(r *bufio.Reader, limit int) ([]byte, error) {
	header, err := r.Peek(4)
	if err != nil {
		if len(header) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(header))
	switch {
	case string(header) == "HTTP":
		return nil, fmt.Errorf("%w: an HTTP server answered: name nsqlookupd's TCP port (4160), not its HTTP port (4161)", ErrResponseTooLarge)
	case size < 0:
		return nil, fmt.Errorf("%w: %d", errNegativeLength, size)
	case int(size) > limit:
		return nil, fmt.Errorf("%w: %d bytes, MaxResponseSize is %d", ErrResponseTooLarge, size, limit)
	}
	r.Discard(4)
	if int(size) <= r.Size() {
		body, err := r.Peek(int(size))
		r.Discard(len(body))
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return body, err
	}
	body := make([]byte, size)
	_, err = io.ReadFull(r, body)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

// hasResponse tells whether a whole response has arrived already, so that
// reading it doesn't wait.
func hasResponse(r *bufio.Reader) bool {
	if r.Buffered() < 4 {
		return false
	}
	header, _ := r.Peek(4)
	return int64(r.Buffered()) >= 4+int64(binary.BigEndian.Uint32(header))
}

// queue holds the commands in flight, oldest first.
type queue struct {
	items []command
	head  int
}

func (q *queue) len() int       { return len(q.items) - q.head }
func (q *queue) first() command { return q.items[q.head] }

func (q *queue) push(c command) {
	switch full := len(q.items) == cap(q.items); {
	case full && q.head > len(q.items)/2:
		q.items = append(q.items[:0], q.items[q.head:]...)
		q.head = 0
	case full:
		q.items = slices.Grow(q.items, len(q.items)+idleQueue)
	}
	q.items = append(q.items, c)
}

func (q *queue) pop() {
	q.items[q.head] = command{}
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
}

// trim gives the memory of an empty queue back, but for a little.
func (q *queue) trim() {
	if q.len() == 0 && cap(q.items) >= 2*idleQueue { // what was asked for is rounded up
		q.items = nil
	}
}
