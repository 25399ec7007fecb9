package lookuploop

import (
	"errors"
	"fmt"
	"strings"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/wire"
)

// The errors to tell apart with errors.Is. What is returned wraps them and
// says in its text which address, name or file is meant.
var (
	// ErrClosed: the context of Run has ended, so nothing can be changed or waited for any more.
	ErrClosed = errors.New("lookuploop: closed")

	// ErrInvalidName: a topic or channel name that NSQ doesn't allow. Names
	// have 1 to 64 of the characters .a-zA-Z0-9_- and may end in #ephemeral,
	// which counts among the 64 (go-nsq's IsValidTopicName).
	ErrInvalidName = errors.New("lookuploop: invalid name")

	// ErrUnknown: an event about a topic or channel that doesn't exist.
	ErrUnknown = errors.New("lookuploop: unknown")

	// ErrDataPathLocked: another Loop or an nsqd uses this DataPath.
	ErrDataPathLocked = errors.New("lookuploop: data path locked")

	// ErrCorruptMetadata: nsqd.dat can't be parsed. The file is left as it is.
	ErrCorruptMetadata = errors.New("lookuploop: corrupt metadata")

	// ErrResponseTooLarge: an answer of nsqlookupd, by TCP or HTTP, exceeds
	// Options.MaxResponseSize.
	ErrResponseTooLarge = errors.New("lookuploop: response too large")
)

// public makes an error of an internal package one that errors.Is finds by the
// name that it has here. Its text stays.
func public(err error) error {
	for _, sentinel := range []struct{ internal, public error }{
		{nsqdat.ErrLocked, ErrDataPathLocked},
		{nsqdat.ErrCorrupt, ErrCorruptMetadata},
		{nsqdat.ErrClosed, ErrClosed},
	} {
		if errors.Is(err, sentinel.internal) {
			return publicError{err, sentinel.public}
		}
	}
	return err
}

// publicError is an error that is a sentinel, too.
type publicError struct {
	error
	is error
}

func (e publicError) Is(target error) bool { return target == e.is }
func (e publicError) Unwrap() error        { return e.error }

// Error codes of nsqlookupd that concern one name only. Every other code
// means that the connection went wrong.
const (
	codeBadTopic   = "E_BAD_TOPIC"
	codeBadChannel = "E_BAD_CHANNEL"
)

// ResponseError is an error answer of one nsqlookupd to one command. Find it
// with errors.As; it is a pointer wherever it occurs.
type ResponseError struct {
	Address string // of the nsqlookupd, as in Options.LookupdTCPAddresses
	Command string // the verb: IDENTIFY, REGISTER, UNREGISTER or PING
	Topic   string // empty for IDENTIFY and PING
	Channel string // empty when the command was about the topic alone
	Code    string // nsqlookupd's: E_INVALID, E_BAD_TOPIC, E_BAD_CHANNEL, E_BAD_BODY or E_BAD_PROTOCOL
	Message string // the rest of the answer; it comes from the network: escape it where you show it
}

func (e *ResponseError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lookuploop: %s: %s", e.Address, e.Command)
	for _, name := range []string{e.Topic, e.Channel} {
		if name != "" {
			b.WriteByte(' ')
			b.WriteString(name)
		}
	}
	b.WriteString(": ")
	b.WriteString(e.Code)
	if e.Message != "" {
		b.WriteByte(' ')
		b.WriteString(e.Message)
	}
	return b.String()
}

// newResponseError reads an answer of the form "E_CODE text".
func newResponseError(e *wire.AnswerError[command]) *ResponseError {
	code, message, _ := strings.Cut(e.Text, " ")
	return &ResponseError{
		Address: e.Address,
		Command: e.Verb,
		Topic:   e.Tag.topicName(),
		Channel: e.Tag.channelName(),
		Code:    code,
		Message: message,
	}
}

// refusedError is a ResponseError together with the command it answers.
type refusedError struct {
	*ResponseError
	cmd command
}

func (e *refusedError) Unwrap() error { return e.ResponseError }

// asPublic turns an error of a connection into what users find with errors.Is
// and errors.As.
func asPublic(err error) error {
	var answer *wire.AnswerError[command]
	switch {
	case errors.As(err, &answer):
		return &refusedError{newResponseError(answer), answer.Tag}
	case errors.Is(err, wire.ErrTooLarge):
		return knownError{err, ErrResponseTooLarge}
	}
	return err
}

// knownError is an error of an internal package that users know as another.
type knownError struct {
	error
	as error
}

func (e knownError) Is(target error) bool { return target == e.as }
func (e knownError) Unwrap() error        { return e.error }
