package wire

import (
	"errors"
	"fmt"
	"os"
)

// ErrTooLarge is found in the error of a connection that ended with an answer
// longer than the limit.
var ErrTooLarge = errors.New("lookuploop: response too large")

var errNegativeLength = errors.New("negative response length")

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

// isSevered tells whether err of readResponse is the network's, and no timeout.
func isSevered(err error) bool {
	return !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, errNegativeLength)
}

// Quote shows the beginning of an answer.
func Quote(answer []byte) string { return fmt.Sprintf("%.64q", answer) }
