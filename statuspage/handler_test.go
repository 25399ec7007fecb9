package statuspage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// The lookupds are asked only when somebody asks for it, about a topic.
func TestVerifyIsAskedFor(t *testing.T) {
	var asked []string
	loop := fakeLoop{verify: func(ctx context.Context, topics ...string) (lookuploop.Verification, error) {
		_, isBounded := ctx.Deadline()
		require.True(t, isBounded)
		asked = append(asked, topics...)
		return lookuploop.Verification{
			Lookupds: []lookuploop.LookupdVerification{{Address: "a:1"}, {Address: "b:1"}},
			Findings: []lookuploop.Finding{{Kind: lookuploop.Tombstoned, Lookupd: "b:1", Topic: "orders", Advice: "wait"}},
		}, nil
	}}
	for _, query := range []string{"", "?verify=1", "?topic=orders", "?topic=orders&verify=0", "?topic=&verify=1"} {
		require.NotContains(t, get(t, loop, browser, "/"+query).Body.String(), "a:1", query)
	}
	require.Empty(t, asked)
	page := get(t, loop, browser, "/?topic=live%23ephemeral").Body.String()
	require.Contains(t, page, `<input type="hidden" name="topic" value="live#ephemeral"><button name="verify" value="1">Ask the lookupds</button>`)

	page = get(t, loop, browser, "/?topic=orders&verify=1").Body.String()
	require.Equal(t, []string{"orders"}, asked)
	require.NotContains(t, page, `http-equiv="refresh"`)
	require.Contains(t, words(page), "What the lookupds list a:1: it lists the broker correctly b:1: orders: tombstoned: wait Ask the lookupds again")
}

// However many ask, the lookupds hear of one at a time, and nobody waits for ever.
func TestVerificationsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		underWay := 0
		handler := Handler(fakeLoop{verify: func(ctx context.Context, _ ...string) (lookuploop.Verification, error) {
			underWay++
			require.Equal(t, 1, underWay)
			time.Sleep(4 * time.Second)
			underWay--
			return lookuploop.Verification{}, lookuploop.ErrNotConnected
		}})
		began := time.Now()
		var all sync.WaitGroup
		answers := make(chan string, 10)
		for range cap(answers) {
			all.Go(func() {
				answer := httptest.NewRecorder()
				handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/?topic=orders&verify=1", nil))
				answers <- answer.Body.String()
			})
		}
		all.Wait()
		require.LessOrEqual(t, time.Since(began), maxVerifyTime+4*time.Second)
		close(answers)
		counts := make(map[string]int)
		for answer := range answers {
			for _, text := range []string{lookuploop.ErrNotConnected.Error(), "another verification is running"} {
				if strings.Contains(answer, text) {
					counts[text]++
				}
			}
		}
		require.Equal(t, map[string]int{lookuploop.ErrNotConnected.Error(): 3, "another verification is running": 7}, counts)
	})
}
