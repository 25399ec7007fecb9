package wire

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
)

// ErrTooLarge is found in the error of a connection that ended with an answer
// longer than the limit.
var ErrTooLarge = errors.New("lookuploop: response too large")

// UnexpectedAnswer is found in the error of a connection that ended with an answer
// that is neither OK nor an error. It is the beginning of that, quoted.
type UnexpectedAnswer string

func (a UnexpectedAnswer) Error() string { return "unexpected answer " + string(a) }

var (
	errNegativeLength = errors.New("negative response length")
	errStranger       = errors.New("this is no nsqlookupd")
)

// maxErrorText bounds in bytes what is kept of an error answer.
const maxErrorText = 1024

// AnswerError is an error answer, together with the command that it answers.
type AnswerError[T any] struct {
	Address string
	Verb    string
	Tag     T      // of the command, if it had one
	Text    string // "E_CODE message", clipped; it comes from the network
}

func (e *AnswerError[T]) Error() string {
	return fmt.Sprintf("lookuploop: %s: %s: %s", e.Address, e.Verb, Quote([]byte(e.Text)))
}

func (c *Conn[T]) answerError(cmd command[T], answer []byte) error {
	text := string(answer[:min(len(answer), maxErrorText)])
	return &AnswerError[T]{Address: c.address, Verb: cmd.verb, Tag: cmd.tag, Text: text}
}

// explain says what was going on when err happened.
func (c *Conn[T]) explain(verb string, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("no answer within %v: %w", c.timeout, err)
	}
	return fmt.Errorf("lookuploop: %s: %s: %w", c.address, verb, err)
}

// stranger says who answered if the first four bytes, which as a length are beyond
// the limit, are those of another protocol.
func stranger(header []byte) string {
	switch {
	case string(header) == "HTTP":
		return "an HTTP server answered: name nsqlookupd's TCP port (4160), not its HTTP port (4161)"
	case header[0] == tlsAlert && header[1] == tlsMajor:
		return "a TLS server answered: let Options.Dial do TLS, as tls.Dialer does"
	case !bytes.ContainsFunc(header, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Sprintf("another service answered, its answer begins with %q: name nsqlookupd's TCP port (4160)", header)
	}
	return ""
}

// The beginning of a TLS record that is an alert.
const (
	tlsAlert = 21
	tlsMajor = 3
)

// isOfNsqd tells whether an answer begins with the type of a frame, as nsqd's do.
func isOfNsqd(answer []byte) bool {
	return len(answer) >= frameType && bytes.HasPrefix(answer, []byte{0, 0, 0})
}

// frameType is how many bytes it takes.
const frameType = 4

// DialError says why Dial made no connection to address, and what may be wrong with
// that; nil if it made one.
func DialError(address string, conn net.Conn, err error) error {
	switch {
	case isNilPointer(err): // its methods may panic
		err = fmt.Errorf("Options.Dial returned a nil %T as its error", err)
	case err != nil:
	case conn == nil:
		err = errors.New("Options.Dial returned neither connection nor error")
	case isNilPointer(conn):
		err = fmt.Errorf("Options.Dial returned a nil %T and no error", conn)
	default:
		return nil
	}
	hint := ""
	if _, isPlain := errors.AsType[tls.RecordHeaderError](err); isPlain {
		hint = " (the server doesn't speak TLS at this port)"
	} else if _, port, _ := net.SplitHostPort(address); usualPorts[port] != "" {
		hint = fmt.Sprintf(" (%s is the port of %s by default, that of nsqlookupd for TCP is 4160)", port, usualPorts[port])
	}
	return fmt.Errorf("lookuploop: %s: dial: %w%s", address, err, hint)
}

// isNilPointer tells whether v is a nil pointer with a type, which isn't nil.
func isNilPointer(v any) bool {
	value := reflect.ValueOf(v)
	return value.Kind() == reflect.Pointer && value.IsNil()
}

// usualPorts are those that are taken for nsqlookupd's.
var usualPorts = map[string]string{
	"4150": "nsqd for TCP",
	"4151": "nsqd for HTTP",
	"4161": "nsqlookupd for HTTP",
	"4171": "nsqadmin",
}

// isSevered tells whether err of readResponse is no answer, rather than a bad one
// or a fault of what was dialed.
func isSevered(err error) bool {
	for _, other := range []error{ErrTooLarge, errNegativeLength, errStranger, io.ErrShortWrite} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// Quote shows the beginning of an answer.
func Quote(answer []byte) string { return fmt.Sprintf("%.64q", answer) }
