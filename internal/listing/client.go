package listing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"unicode"
)

// ErrTooLarge is the error of an answer that exceeds its bound.
var ErrTooLarge = errors.New("answer too large")

const (
	maxText  = 512 // bytes that are kept of one text from the network, be it an error's
	manyMore = 16  // times as long as the answer about one topic may be the one about all
)

// Client asks nsqlookupds and brokers by HTTP. Addresses are host:port. Its
// methods may be called by any goroutine.
type Client struct {
	// HTTP sends the requests and bounds their time.
	HTTP *http.Client

	// MaxResponseSize bounds an answer about one topic, in bytes. Answers about
	// all topics (/nodes, /topics, /stats) may be 16 times as long.
	MaxResponseSize int
}

// statusError is an answer whose status isn't 200.
type statusError struct {
	status  string // such as 404 Not Found
	message string // what NSQ says in the body; often empty
}

func (e *statusError) Error() string {
	return strings.TrimSpace("HTTP status " + e.status + " " + e.message)
}

// textError is an error whose text may have come from the network in part.
type textError struct{ error }

func (e textError) Error() string { return clean(e.error.Error()) }
func (e textError) Unwrap() error { return e.error }

// get asks for one path and decodes the answer, which may have limit bytes.
func (c *Client) get(ctx context.Context, address, path string, query url.Values, limit int, answer any) error {
	u := url.URL{Scheme: "http", Host: address, Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/vnd.nsq; version=1.0")
	response, err := c.HTTP.Do(request)
	if err != nil {
		return textError{err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, int64(limit)+1))
	switch {
	case err != nil:
		return textError{err}
	case len(body) > limit:
		return fmt.Errorf("%w: more than %d bytes, MaxResponseSize is %d", ErrTooLarge, limit, c.MaxResponseSize)
	case response.StatusCode != http.StatusOK:
		var fault struct{ Message string }
		json.Unmarshal(body, &fault) // best effort: a proxy answers with something else
		return &statusError{clean(response.Status), clean(fault.Message)}
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return textError{fmt.Errorf("answer %.64q: %w", body, err)}
	}
	return nil
}

// clean clips a text from the network, and replaces what could not be shown as it is.
func clean(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(strings.Clone(s[:maxText]), "")
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// cleanAll cleans a list in place.
func cleanAll(names []string) []string {
	for i, name := range names {
		names[i] = clean(name)
	}
	return names
}
