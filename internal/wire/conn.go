package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/nsqio/go-nsq"
)

// Conn is one connection to one lookupd. Its commands carry tags of type T.
type Conn[T any] struct {
	address string
	socket  socket
	reader  *bufio.Reader // of the socket; Identify's, later the reader's
	timeout time.Duration // for each answer
	limit   int           // of an answer, in bytes
	started time.Time
	late    time.Duration // answers that take longer are late; settled by Identify

	mu       sync.Mutex // held, too, while what the socket expects is set: the oldest in flight, or the write
	inFlight queue[T]
	writing  bool          // a write is under way
	window   int           // at least 1
	heard    int           // answers since IDENTIFY
	stopped  time.Duration // when the clock was stopped; 0: it runs
	stood    time.Duration // how long it was stopped, in all

	answered chan struct{} // capacity 1: the reader sends, the writer receives

	done    chan struct{} // closed when the reader has ended; then these are valid:
	err     error         // why it did
	severed bool          // the connection broke or got stuck, without an answer that says why
}

// NewConn makes a Conn of what was dialed. The address is for errors. Each answer
// may take the timeout and have maxResponseSize bytes.
func NewConn[T any](address string, conn net.Conn, timeout time.Duration, maxResponseSize int) *Conn[T] {
	c := &Conn[T]{
		address:  address,
		socket:   socket{Conn: conn},
		timeout:  timeout,
		limit:    maxResponseSize,
		started:  time.Now(),
		late:     timeout / 4,
		window:   FirstWindow,
		answered: make(chan struct{}, 1),
		done:     make(chan struct{}),
	}
	c.reader = bufio.NewReaderSize(&c.socket, readBufferSize)
	return c
}

// Close closes the connection that was dialed, without a goodbye of TLS. Any
// goroutine may call it, more than once.
func (c *Conn[T]) Close() { c.socket.Close() }

// Identify sends the magic and IDENTIFY with the body. It comes before
// everything else. It returns what lookupd says of itself, as JSON and valid
// until ReadAnswers; nil if it just said OK, which nsqlookupd does when it can't
// describe itself.
func (c *Conn[T]) Identify(body map[string]any) (answer []byte, err error) {
	cmd, err := nsq.Identify(body)
	if err != nil {
		return nil, c.explain(Identify, err)
	}
	var hello bytes.Buffer
	hello.Write(nsq.MagicV1)
	cmd.WriteTo(&hello)

	if err := c.socket.limit(time.Now().Add(c.timeout)); err != nil {
		return nil, c.explain(Identify, err)
	}
	_, writeErr := c.socket.Write(hello.Bytes())
	answer, err = readResponse(c.reader, c.limit) // after a failed write too: it may say why
	switch {
	case err != nil && writeErr != nil && !errors.Is(err, writeErr):
		err = fmt.Errorf("%w; %w", writeErr, err)
	case err == io.EOF:
		err = fmt.Errorf("%w (is this nsqlookupd's TCP port, and without TLS?)", err)
	}
	if err != nil {
		return nil, c.explain(Identify, err)
	}
	if err := c.socket.limit(time.Time{}); err != nil {
		return nil, c.explain(Identify, err)
	}
	c.late += time.Since(c.started) // what a round trip takes isn't anybody's fault

	switch {
	case isOfNsqd(answer):
		return nil, c.explain(Identify, fmt.Errorf("%w: an nsqd answered %s: name nsqlookupd's TCP port (4160)", errStranger, Quote(answer[frameType:])))
	case isError(answer):
		return nil, c.answerError(command[T]{verb: Identify}, answer)
	case bytes.Equal(answer, answerOK):
		return nil, nil
	}
	return answer, nil
}

// Send writes b. The answer to its first command is due from now on, or from
// the answer to the command before it. After an error the reader ends by
// itself, once it has read what lookupd still had to say, which explains more.
func (c *Conn[T]) Send(b *Batch[T]) error {
	err := c.begin(b)
	if err == nil {
		_, err = c.socket.Write(b.encoded.Bytes())
	}
	c.end()
	if err != nil {
		return c.explain(b.commands[0].verb, err)
	}
	return nil
}

// begin notes that b is being sent.
func (c *Conn[T]) begin(b *Batch[T]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, wasIdle := c.clock(), c.inFlight.len() == 0
	for _, cmd := range b.commands {
		cmd.sentAt, cmd.heard = now, c.heard
		c.inFlight.push(cmd)
	}
	c.writing = true
	if wasIdle {
		return c.socket.expect(time.Now().Add(c.timeout))
	}
	return nil
}

// end notes that nothing is being sent any more.
func (c *Conn[T]) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if c.inFlight.len() == 0 {
		c.socket.expect(time.Time{})
	}
}

// NumInFlight is how many commands were sent and not answered yet.
func (c *Conn[T]) NumInFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight.len()
}

// Rest gives memory back if nothing is in flight, and tells whether that is so.
func (c *Conn[T]) Rest() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight.trim()
	return c.inFlight.len() == 0
}

// Answered is readable after answers came and left room, so in any case when
// nothing is in flight any more. It is for the writer.
func (c *Conn[T]) Answered() <-chan struct{} { return c.answered }

// Done is closed when the reader has ended and the connection is closed.
func (c *Conn[T]) Done() <-chan struct{} { return c.done }

// Err says why the reader ended. It is valid once Done is closed.
func (c *Conn[T]) Err() error { return c.err }

// Severed tells whether the connection ended without an answer that says why: it
// broke, none came in time to what was in flight, or one that is neither OK nor an
// error. It is valid once Done is closed.
func (c *Conn[T]) Severed() bool { return c.severed }

// Unanswered are the tags of the commands that lookupd didn't answer with OK or an
// error, the oldest first. It is valid once Done is closed.
func (c *Conn[T]) Unanswered() []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inFlight.tags()
}

// Answers is what came in at once, all of it good.
type Answers[T any] struct {
	N    int // commands with a tag that were answered …
	Last T   // … and the tag of the last of them
	Ping bool
	RTT  time.Duration // of the PING
}

// ReadAnswers reads until the connection ends, for whatever reason, and closes
// it then. It hands on all good answers before it ends.
func (c *Conn[T]) ReadAnswers(handle func(Answers[T])) {
	defer close(c.done)
	defer c.Close()
	var got Answers[T]
	flush := func() {
		if got.N > 0 || got.Ping {
			c.stopClock()
			handle(got)
			got = Answers[T]{}
		}
		if err := c.renewDeadline(); c.err == nil {
			c.err = err
		}
		if c.Room() > 0 {
			select {
			case c.answered <- struct{}{}:
			default:
			}
		}
	}
	for c.err == nil {
		c.err = c.readAnswer(&got)
		if c.err != nil || !hasResponse(c.reader) {
			flush()
		}
	}
}

// readAnswer reads one answer and adds it to got.
func (c *Conn[T]) readAnswer(got *Answers[T]) error {
	answer, err := readResponse(c.reader, c.limit)

	c.mu.Lock()
	waiting := c.inFlight.len() > 0
	var cmd command[T]
	var took time.Duration
	if waiting {
		cmd = c.inFlight.first()
		took = c.clock() - cmd.sentAt
		if err == nil && (isError(answer) || bytes.Equal(answer, answerOK)) {
			c.inFlight.pop()
			c.heard++
			c.adapt(cmd, took)
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
		return fmt.Errorf("lookuploop: %s: %s: answer without a command", c.address, Quote(answer))
	case isError(answer):
		return c.answerError(cmd, answer)
	case !bytes.Equal(answer, answerOK):
		c.severed = true // perhaps it is a refusal, as another server says it
		return c.explain(cmd.verb, UnexpectedAnswer(Quote(answer)))
	case cmd.verb == Ping:
		got.Ping, got.RTT = true, took
	default:
		got.N++
		got.Last = cmd.tag
	}
	return nil
}

// renewDeadline starts the time for the next answer, if one is due, and the clock
// if it stands. A write that is under way needs a deadline too: a lookupd that
// answers before it was asked, and then reads no more, would hold it for ever.
func (c *Conn[T]) renewDeadline() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startClock()
	var deadline time.Time
	if c.inFlight.len() > 0 || c.writing {
		deadline = time.Now().Add(c.timeout)
	}
	if err := c.socket.expect(deadline); err != nil {
		return fmt.Errorf("lookuploop: %s: %w", c.address, err)
	}
	return nil
}
