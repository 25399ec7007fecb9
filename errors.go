package lookuploop

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/lookuploop/lookuploop/internal/listing"
	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
)

// Errors for use with errors.Is. Returned errors wrap them, and name the address,
// topic, channel or file.
var (
	// ErrClosed is returned after the context of Run has ended or Close was called.
	ErrClosed = errors.New("lookuploop: closed")

	// ErrInvalidName is returned for a topic or channel name that NSQ doesn't allow.
	// Names have 1 to 64 of the characters .a-zA-Z0-9_- and may end in #ephemeral,
	// which is included in the 64. See go-nsq's IsValidTopicName.
	ErrInvalidName = errors.New("lookuploop: invalid name")

	// ErrUnknown is returned for an event about a topic or channel that doesn't exist.
	ErrUnknown = errors.New("lookuploop: unknown")

	// ErrNotRegistered is returned if too few nsqlookupds know everything.
	ErrNotRegistered = errors.New("lookuploop: not registered")

	// ErrDataPathLocked is returned if another Loop or an nsqd uses the DataPath.
	ErrDataPathLocked = errors.New("lookuploop: data path locked")

	// ErrCorruptMetadata is returned if nsqd.dat can't be parsed. The file is left
	// unchanged.
	ErrCorruptMetadata = errors.New("lookuploop: corrupt metadata")

	// ErrNotConnected is returned if there is no nsqlookupd to ask.
	ErrNotConnected = errors.New("lookuploop: no lookupd is connected")

	// ErrResponseTooLarge is returned if an answer of nsqlookupd, over TCP or HTTP,
	// exceeds Options.MaxResponseSize.
	ErrResponseTooLarge = errors.New("lookuploop: response too large")
)

// Error codes of nsqlookupd that concern one name only. Every other code
// means that the connection went wrong.
const (
	codeBadTopic   = "E_BAD_TOPIC"
	codeBadChannel = "E_BAD_CHANNEL"
)

// ResponseError is an error answer of an nsqlookupd to a command. Use errors.As with
// a *ResponseError to find it. Code and Message come from the network unchanged,
// except that they are truncated to 1 KiB: escape them before you display them.
// Error escapes them.
type ResponseError struct {
	Address string // of the nsqlookupd, as in Options.LookupdTCPAddresses
	Command string // the verb: IDENTIFY, REGISTER, UNREGISTER or PING
	Topic   string // empty for IDENTIFY and PING
	Channel string // empty if the command was only about the topic
	Code    string // E_INVALID, E_BAD_TOPIC, E_BAD_CHANNEL, E_BAD_BODY or E_BAD_PROTOCOL
	Message string // the rest of the answer
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
	b.WriteString(strings.TrimSpace(e.Code + " " + e.Message))
	return printable(b.String())
}

// newResponseError reads an answer of the form "E_CODE text".
func newResponseError(e *wire.AnswerError[registry.Command]) *ResponseError {
	code, message, _ := strings.Cut(e.Text, " ")
	answer := &ResponseError{Address: e.Address, Command: e.Verb, Code: code, Message: message}
	if e.Verb == wire.Register || e.Verb == wire.Unregister {
		answer.Topic, answer.Channel = e.Tag.Topic(), e.Tag.Channel()
	}
	return answer
}

// refusedError is a ResponseError together with the command it answers.
type refusedError struct {
	*ResponseError
	cmd registry.Command
}

func (e *refusedError) Unwrap() error { return e.ResponseError }

// isAboutName tells whether lookupd refused a topic or a channel, rather than
// that it went wrong with the connection.
func (e *refusedError) isAboutName() bool {
	switch e.Code {
	case codeBadTopic:
		return e.Topic != ""
	case codeBadChannel:
		return e.Channel != ""
	}
	return false
}

// internalErrors are the errors that callers tell apart, with what they are
// called in the packages under internal.
var internalErrors = []struct{ public, internal error }{
	{ErrClosed, registry.ErrClosed},
	{ErrInvalidName, registry.ErrInvalidName},
	{ErrUnknown, registry.ErrUnknown},
	{ErrResponseTooLarge, wire.ErrTooLarge},
	{ErrResponseTooLarge, listing.ErrTooLarge},
	{ErrDataPathLocked, nsqdat.ErrLocked},
	{ErrCorruptMetadata, nsqdat.ErrCorrupt},
	{ErrClosed, nsqdat.ErrClosed},
}

// publicError is an error of an internal package as callers see it.
type publicError struct{ error }

// public turns an error of an internal package into one in which callers find
// what they tell apart.
func public(err error) error {
	for _, known := range internalErrors {
		if errors.Is(err, known.internal) {
			return publicError{err}
		}
	}
	return err
}

// publicEach is public for each of the errors that errors.Join joined.
func publicEach(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return public(err)
	}
	var all []error
	for _, err := range joined.Unwrap() {
		all = append(all, public(err))
	}
	return errors.Join(all...)
}

func (e publicError) Unwrap() error { return e.error }

func (e publicError) Is(target error) bool {
	for _, known := range internalErrors {
		if known.public == target && errors.Is(e.error, known.internal) {
			return true
		}
	}
	return false
}

// fromNetwork makes err, of a connection or an HTTP request, one to be shown and
// to be found with errors.Is and errors.As. Every such error passes here.
func fromNetwork(err error) error {
	if answer, ok := errors.AsType[*wire.AnswerError[registry.Command]](err); ok {
		return &refusedError{newResponseError(answer), answer.Tag}
	}
	return networkError{public(err)}
}

// networkError is an error whose text may come from the network in part.
type networkError struct{ error }

func (e networkError) Error() string { return printable(e.error.Error()) }
func (e networkError) Unwrap() error { return e.error }

// maxErrorText bounds in bytes what an error shows.
const maxErrorText = 1024

// printable escapes what a terminal or a log could take for more than text, and
// clips what is longer than anybody reads.
func printable(text string) string {
	var b strings.Builder
	for _, r := range text {
		shown := string(r)
		if !strconv.IsPrint(r) {
			shown = strings.Trim(strconv.QuoteRune(r), "'")
		}
		if b.Len()+len(shown) > maxErrorText {
			return b.String() + "…"
		}
		b.WriteString(shown)
	}
	return b.String()
}
