package statuspage

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeRegistered has a certain number of lookupds that know everything.
type fakeRegistered int

func (f fakeRegistered) Registered(n int) error {
	if n > int(f) {
		return errors.New("lookuploop: not registered: 10.0.0.7:4160 is disconnected")
	}
	return nil
}

func TestReady(t *testing.T) {
	for _, tt := range []struct {
		method    string
		has, want int
		status    int
		body      string
	}{
		{"GET", 1, 1, http.StatusOK, "ready\n"},
		{"GET", 1, 2, http.StatusServiceUnavailable, "lookuploop: not registered: 10.0.0.7:4160 is disconnected\n"},
		{"HEAD", 1, 2, http.StatusServiceUnavailable, ""},
		{"POST", 1, 1, http.StatusMethodNotAllowed, "GET or HEAD only\n"},
	} {
		server := httptest.NewServer(Ready(fakeRegistered(tt.has), tt.want))
		defer server.Close()
		request, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL, nil)
		require.NoError(t, err)
		answer, err := server.Client().Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		require.Equal(t, tt.status, answer.StatusCode)
		require.Equal(t, "text/plain; charset=utf-8", answer.Header.Get("Content-Type"))
		require.Equal(t, "no-store", answer.Header.Get("Cache-Control"))
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Equal(t, tt.body, string(body))
	}
}
