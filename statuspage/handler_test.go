package statuspage

import (
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

func TestAcceptDecidesBetweenPageAndJSON(t *testing.T) {
	const page, json = "text/html; charset=utf-8", "application/json"
	for accept, want := range map[string]string{
		"":                                  json,
		"*/*":                               json,
		"nonsense":                          json,
		"text/html;q=nonsense":              json,
		"text/html;q=0":                     json,
		"text/plain":                        json,
		"application/json":                  json,
		"application/json, text/html":       json,
		"text/html;q=0.5, application/json": json,
		browser:                             page,
		"text/html":                         page,
		"TEXT/HTML ; level=1":               page,
		"application/json;q=0.5,text/html":  page,
	} {
		answer := get(t, fakeLoop{}, accept, "/debug/lookuploop")
		require.Equal(t, want, answer.Header().Get("Content-Type"), accept)
		require.Equal(t, "Accept", answer.Header().Get("Vary"))
		isJSON := answer.Body.String()[0] == '{'
		require.Equal(t, want == json, isJSON, accept)
	}
}

func TestAddressCanAskForJSON(t *testing.T) {
	require.Equal(t, "application/json", get(t, fakeLoop{}, browser, "/?format=json").Header().Get("Content-Type"))
}

func TestSeveralAcceptHeadersCountAsOne(t *testing.T) {
	require.True(t, wantsHTML([]string{"application/json;q=0.1", "text/html"}))
	require.False(t, wantsHTML([]string{"text/html;q=0.1", "application/json"}))
}

func TestHeadersForbidCachesAndScripts(t *testing.T) {
	for _, accept := range []string{"*/*", browser} {
		header := get(t, fakeLoop{}, accept, "/").Header()
		require.Equal(t, "no-store", header.Get("Cache-Control"))
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		require.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
		require.Contains(t, header.Get("Content-Security-Policy"), "default-src 'none'; style-src 'sha256-")
	}
}

// TestPolicyAllowsTheStyle compares as a browser does: a style whose hash is
// another is left out.
func TestPolicyAllowsTheStyle(t *testing.T) {
	answer := get(t, fakeLoop{}, browser, "/")
	element := styleElement.FindStringSubmatch(answer.Body.String())
	require.NotNil(t, element)
	sum := sha256.Sum256([]byte(element[1]))
	require.Contains(t, answer.Header().Get("Content-Security-Policy"),
		"'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
}

func TestOnlyGetAndHead(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, "BREW"} {
		answer := httptest.NewRecorder()
		Handler(nil).ServeHTTP(answer, httptest.NewRequest(method, "/", nil)) // asks no Loop
		require.Equal(t, http.StatusMethodNotAllowed, answer.Code, method)
		require.Equal(t, "GET, HEAD", answer.Header().Get("Allow"))
		require.Equal(t, "no-store", answer.Header().Get("Cache-Control"))
	}
}

func TestHeadIsGetWithoutBody(t *testing.T) {
	server := httptest.NewServer(Handler(fakeLoop{}))
	defer server.Close()
	answer, err := server.Client().Head(server.URL)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Empty(t, body)
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Positive(t, answer.ContentLength)
}

// listener notes in which order it is asked.
type listener struct {
	fakeLoop
	calls []string
}

func (l *listener) Status() lookuploop.Status {
	l.calls = append(l.calls, "Status")
	return l.fakeLoop.Status()
}

func (l *listener) Metadata() lookuploop.Metadata {
	l.calls = append(l.calls, "Metadata")
	return l.fakeLoop.Metadata()
}

func (l *listener) TopicMetadata(topic string) (lookuploop.TopicMetadata, bool) {
	l.calls = append(l.calls, "TopicMetadata")
	return l.fakeLoop.TopicMetadata(topic)
}

// TestMetadataIsAskedForFirst, and for a topic only: one
// that was created between the two calls must not pass for registered.
func TestMetadataIsAskedForFirst(t *testing.T) {
	for url, want := range map[string][]string{
		"/":             {"Status"},
		"/?topic=":      {"Status"},
		"/?topic=other": {"TopicMetadata", "Status", "Metadata"}, // for similar names
	} {
		var loop listener
		get(t, &loop, "*/*", url)
		require.Equal(t, want, loop.calls, url)
	}
}
