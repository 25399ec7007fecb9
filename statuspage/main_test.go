package statuspage

import (
	"context"
	"html"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what is to happen; only a red test does.
const patience = time.Minute

// browser is the Accept of a browser.
const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

// fakeLoop says what it is told to.
type fakeLoop struct {
	status   lookuploop.Status
	metadata lookuploop.Metadata
	verify   func(ctx context.Context, topics ...string) (lookuploop.Verification, error)
}

func (f fakeLoop) Verify(ctx context.Context, topics ...string) (lookuploop.Verification, error) {
	return f.verify(ctx, topics...)
}

func (f fakeLoop) Status() lookuploop.Status { return f.status }

func (f fakeLoop) Metadata() lookuploop.Metadata { return f.metadata }

func (f fakeLoop) TopicMetadata(topic string) (lookuploop.TopicMetadata, bool) {
	for _, t := range f.metadata.Topics {
		if t.Name == topic {
			return t, true
		}
	}
	return lookuploop.TopicMetadata{}, false
}

// get returns the answer to a GET of url, which was 200.
func get(t testing.TB, loop Loop, accept, url string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequest(http.MethodGet, url, nil)
	request.Header.Set("Accept", accept)
	answer := httptest.NewRecorder()
	Handler(loop).ServeHTTP(answer, request)
	require.Equal(t, http.StatusOK, answer.Code, answer.Body)
	return answer
}

var (
	styleElement = regexp.MustCompile(`(?s)<style>(.*?)</style>`)
	tag          = regexp.MustCompile(`<[^>]*>`)
)

// words is what a reader of the page sees, title included, with one space between words.
func words(page string) string {
	page = styleElement.ReplaceAllString(page, "")
	page = html.UnescapeString(tag.ReplaceAllString(page, " "))
	return strings.Join(strings.Fields(page), " ")
}

// startLoop runs a Loop in a synctest bubble until the test ends.
func startLoop(t *testing.T, network *lookupdtest.Network, lookupds ...*lookupdtest.Server) *lookuploop.Loop {
	t.Helper()
	var addresses []string
	for _, lookupd := range lookupds {
		addresses = append(addresses, lookupd.TCPAddress)
	}
	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: addresses,
		BroadcastAddress:    "broker.test",
		BroadcastTCPPort:    4150,
		BroadcastHTTPPort:   4151,
		Dial:                network.Dial,
		Logger:              slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return loop
}
