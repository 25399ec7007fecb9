package lookuploop

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	topic := &entry{key: key{name: "orders"}}
	about := command{verb: register, topic: topic, channel: &entry{key: key{topic, "mail"}}}
	for answer, want := range map[string]ResponseError{
		"E_BAD_TOPIC REGISTER topic name 'a b' is not valid": {Code: "E_BAD_TOPIC", Message: "REGISTER topic name 'a b' is not valid"},
		"E_INVALID":  {Code: "E_INVALID"},
		"E_INVALID ": {Code: "E_INVALID"},
		"E_":         {Code: "E_"},
	} {
		want.Address, want.Command, want.Topic, want.Channel = "a:4160", "REGISTER", "orders", "mail"
		require.Equal(t, &want, newResponseError("a:4160", about, []byte(answer)))
	}
}

func TestTextOfAnErrorAnswerIsBounded(t *testing.T) {
	err := newResponseError("a:4160", command{verb: ping}, []byte("E_INVALID "+strings.Repeat("x", 1<<20)))
	require.Equal(t, "E_INVALID", err.Code)
	require.Equal(t, maxErrorText, len(err.Code)+1+len(err.Message))
}

func TestRefusalIsFoundAsAResponseErrorAlone(t *testing.T) {
	answer := &ResponseError{Address: "a:4160", Code: "E_BAD_TOPIC"}
	err := fmt.Errorf("outer: %w", &refusedError{ResponseError: answer})
	var found *ResponseError
	require.True(t, errors.As(err, &found))
	require.Same(t, answer, found)
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
