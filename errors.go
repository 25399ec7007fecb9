package lookuploop

import (
	"errors"
	"fmt"
	"strings"
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

// Error codes of nsqlookupd that concern one name only. Every other code
// means that the connection went wrong.
const (
	codeBadTopic   = "E_BAD_TOPIC"
	codeBadChannel = "E_BAD_CHANNEL"
)

// maxErrorText bounds in bytes what is kept of an error answer.
const maxErrorText = 1024

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
func newResponseError(address string, c command, body []byte) *ResponseError {
	text := string(body[:min(len(body), maxErrorText)])
	code, message, _ := strings.Cut(text, " ")
	return &ResponseError{
		Address: address,
		Command: c.verb.String(),
		Topic:   c.topicName(),
		Channel: c.channelName(),
		Code:    code,
		Message: message,
	}
}
