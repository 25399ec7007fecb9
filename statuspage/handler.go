package statuspage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop"
)

// Loop is what the page shows. *lookuploop.Loop implements it; tests may use a fake.
type Loop interface {
	Status() lookuploop.Status
	TopicMetadata(topic string) (lookuploop.TopicMetadata, bool)
	Metadata() lookuploop.Metadata
	Verify(ctx context.Context, topics ...string) (lookuploop.Verification, error)
}

// maxVerifyTime bounds a requested verification, including the wait for the one
// before it.
const maxVerifyTime = 10 * time.Second

// Handler returns a handler that serves the status of loop as a page and as JSON.
// It can be mounted on any path. The package documentation describes requests and
// answers. The handler may be used concurrently, and before, during and after the
// Run of the Loop.
func Handler(loop Loop) http.Handler { return handler{loop, make(chan struct{}, 1)} }

type handler struct {
	loop      Loop
	verifying chan struct{} // full while a verification is under way, so that there is one at a time
}

// begin sets the headers of every answer. It returns false, and has answered, if
// the method is none that reads.
func begin(w http.ResponseWriter, r *http.Request) bool {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		header.Set("Allow", "GET, HEAD")
		http.Error(w, "GET or HEAD only", http.StatusMethodNotAllowed)
		return false
	}
	return true
}

func (h handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !begin(w, r) {
		return
	}
	header, query := w.Header(), r.URL.Query()
	snapshot := h.report(query.Get("topic"))
	isVerified := snapshot.Topic != nil && query.Get("verify") == "1"
	if isVerified {
		snapshot.Topic.Verification = h.verify(r.Context(), snapshot.Topic.Name)
	}
	var body bytes.Buffer
	var err error
	header.Set("Vary", "Accept")
	if query.Get("format") != "json" && wantsHTML(r.Header.Values("Accept")) {
		header.Set("Content-Type", "text/html; charset=utf-8")
		err = render(&body, snapshot, query.Get("refresh") != "off" && !isVerified)
	} else {
		header.Set("Content-Type", "application/json")
		encoder := json.NewEncoder(&body)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(snapshot)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	header.Set("Content-Length", strconv.Itoa(body.Len()))
	w.Write(body.Bytes())
}

// report takes a snapshot. What the broker has comes first: a lookupd that has
// nothing pending afterwards knows it.
func (h handler) report(topic string) report {
	var about *topicReport
	if topic != "" {
		m, known := h.loop.TopicMetadata(topic)
		about = newTopicReport(topic, known, m)
	}
	status := h.loop.Status()
	if about != nil && !about.Known && status.Topics+status.Channels <= maxSearched {
		about.Similar = similar(topic, h.loop.Metadata().Topics)
	}
	return newReport(time.Now(), status, about)
}

// verify asks the lookupds what they show of a topic.
func (h handler) verify(ctx context.Context, topic string) *verification {
	ctx, cancel := context.WithTimeout(ctx, maxVerifyTime)
	defer cancel()
	var found lookuploop.Verification
	var err error
	select {
	case h.verifying <- struct{}{}:
		defer func() { <-h.verifying }()
		found, err = h.loop.Verify(ctx, topic)
	case <-ctx.Done():
		err = errors.New("another verification is running, try again")
	}
	return new(newVerification(time.Now(), err, found))
}

// wantsHTML tells whether Accept names text/html and doesn't prefer application/json.
func wantsHTML(accept []string) bool {
	var html, json float64
	for mediaRange := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		name, params, err := mime.ParseMediaType(mediaRange)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, ok := params["q"]; ok {
			quality, _ = strconv.ParseFloat(q, 64) // nonsense is 0
		}
		switch name {
		case "text/html":
			html = quality
		case "application/json":
			json = quality
		}
	}
	return html > json
}
