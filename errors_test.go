package lookuploop

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
)

func TestResponseErrorSaysWhoWhatAndWhy(t *testing.T) {
	for _, tt := range []struct {
		err  ResponseError
		want string
	}{
		{
			ResponseError{Address: "a:4160", Command: "IDENTIFY", Code: "E_BAD_BODY", Message: "IDENTIFY missing fields"},
			"lookuploop: a:4160: IDENTIFY: E_BAD_BODY IDENTIFY missing fields",
		},
		{
			ResponseError{Address: "a:4160", Command: "REGISTER", Topic: "orders", Code: "E_BAD_TOPIC", Message: "no"},
			"lookuploop: a:4160: REGISTER orders: E_BAD_TOPIC no",
		},
		{
			ResponseError{Address: "[::1]:4160", Command: "UNREGISTER", Topic: "orders", Channel: "mail", Code: "E_INVALID"},
			"lookuploop: [::1]:4160: UNREGISTER orders mail: E_INVALID",
		},
	} {
		require.EqualError(t, &tt.err, tt.want)
	}
}

func TestErrorAnswerIsTakenApart(t *testing.T) {
	loop := newLoop(t)
	require.NoError(t, loop.Notify(TopicCreated("orders"), ChannelCreated("orders", "mail")))
	var c registry.Cursor
	loop.reg.Attach(&c)
	commands, _, err := loop.reg.Read(&c, 2, registry.Everything, nil)
	require.NoError(t, err)
	about := commands[0]
	for answer, want := range map[string]ResponseError{
		"E_BAD_TOPIC REGISTER topic name 'a b' is not valid": {Code: "E_BAD_TOPIC", Message: "REGISTER topic name 'a b' is not valid"},
		"E_INVALID":  {Code: "E_INVALID"},
		"E_INVALID ": {Code: "E_INVALID"},
		"E_":         {Code: "E_"},
	} {
		want.Address, want.Command, want.Topic, want.Channel = "a:4160", "REGISTER", "orders", "mail"
		err := public(&wire.AnswerError[registry.Command]{Address: "a:4160", Verb: wire.Register, Tag: about, Text: answer})
		var found *ResponseError
		require.ErrorAs(t, err, &found)
		require.Equal(t, &want, found)
		var refused *refusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, about, refused.cmd)
	}
}

func TestConnectionsErrorsAreKnownAsOurs(t *testing.T) {
	inner := fmt.Errorf("lookuploop: a:4160: PING: %w: 5 bytes", wire.ErrTooLarge)
	err := public(inner)
	require.ErrorIs(t, err, ErrResponseTooLarge)
	require.EqualError(t, err, inner.Error())
	require.NotErrorIs(t, public(io.EOF), ErrResponseTooLarge)
}

func TestRefusalIsFoundAsAResponseErrorAlone(t *testing.T) {
	answer := &ResponseError{Address: "a:4160", Code: "E_BAD_TOPIC"}
	err := fmt.Errorf("outer: %w", &refusedError{ResponseError: answer})
	var found *ResponseError
	require.True(t, errors.As(err, &found))
	require.Same(t, answer, found)
}

// Errors of internal packages are found by the names that they have here.
func TestInternalErrorsBecomePublic(t *testing.T) {
	for internal, want := range map[error]error{
		nsqdat.ErrLocked:  ErrDataPathLocked,
		nsqdat.ErrCorrupt: ErrCorruptMetadata,
		nsqdat.ErrClosed:  ErrClosed,
	} {
		require.EqualError(t, internal, want.Error())
		err := public(fmt.Errorf("%w: and %w", internal, io.ErrUnexpectedEOF))
		require.EqualError(t, err, want.Error()+": and unexpected EOF")
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "what it wraps is found still")
	}
	require.NoError(t, public(nil))
	require.Same(t, io.EOF, public(io.EOF))
}

func TestSentinelsAreToldApart(t *testing.T) {
	sentinels := []error{ErrClosed, ErrInvalidName, ErrUnknown, ErrDataPathLocked, ErrCorruptMetadata, ErrResponseTooLarge}
	for i, err := range sentinels {
		require.True(t, strings.HasPrefix(err.Error(), "lookuploop: "), err)
		for _, other := range sentinels[i+1:] {
			require.NotErrorIs(t, err, other)
		}
	}
}
