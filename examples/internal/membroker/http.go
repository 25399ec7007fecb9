package membroker

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"

	"github.com/lookuploop/lookuploop/statuspage"
)

// This file routes and answers as nsqd's HTTP API does; the handlers are in
// handlers.go. Two paths are not nsqd's: /ready and /debug/lookuploop.

// httpError is an answer other than 200. Where nsqd has a text for it, that is used.
type httpError struct {
	status  int
	message string
}

func (e *httpError) Error() string { return e.message }

func badRequest(message string) error { return &httpError{http.StatusBadRequest, message} }

// handler returns what a request is answered with: nothing (nil), a string as it is,
// anything else as JSON. errorAnswer knows its errors.
type handler func(r *http.Request, query url.Values) (body any, err error)

// newHTTPServer serves nsqd's paths. Connections that say nothing are closed.
func (b *Broker) newHTTPServer() *http.Server {
	mux := http.NewServeMux()
	get := func(path string, h handler) { mux.Handle(path, route{[]string{"GET"}, h}) }
	post := func(path string, h handler) { mux.Handle(path, route{[]string{"POST"}, h}) }

	get("/ping", handlePing)
	get("/info", b.handleInfo)
	get("/stats", b.handleStats)
	post("/pub", b.handlePub)
	post("/mpub", b.handleMpub)
	post("/topic/create", forTopic(validTopic(b.createTopic)))
	post("/topic/delete", forTopic(b.deleteTopic))
	post("/topic/empty", forTopic(validTopic(b.emptyTopic)))
	post("/topic/pause", forTopic(func(name string) error { return b.pauseTopic(name, true) }))
	post("/topic/unpause", forTopic(func(name string) error { return b.pauseTopic(name, false) }))
	post("/channel/create", forChannel(b.createChannel))
	post("/channel/delete", forChannel(b.deleteChannel))
	post("/channel/empty", forChannel(b.emptyChannel))
	post("/channel/pause", forChannel(func(t, c string) error { return b.pauseChannel(t, c, true) }))
	post("/channel/unpause", forChannel(func(t, c string) error { return b.pauseChannel(t, c, false) }))
	mux.Handle("/config/{option}", route{[]string{"GET", "PUT"}, b.handleConfig})
	mux.HandleFunc("/ready", b.handleReady)
	mux.Handle("/debug/lookuploop", statuspage.Handler(b.loop))
	for path, h := range b.handlers {
		mux.Handle(path, h)
	}
	mux.Handle("/", route{handler: notFound})

	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: handshakeTimeout,
		ReadTimeout:       2 * defaultHeartbeat,
		WriteTimeout:      2 * defaultHeartbeat,
		IdleTimeout:       2 * defaultHeartbeat,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(b.opts.Logger.Handler(), slog.LevelDebug),
	}
}

// route is one path with the methods that it takes; none means all.
type route struct {
	methods []string
	handler handler
}

func notFound(*http.Request, url.Values) (any, error) {
	return nil, &httpError{http.StatusNotFound, "NOT_FOUND"}
}

func (rt route) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := rt.call(r)
	status := http.StatusOK
	if err != nil {
		status, body = errorAnswer(err)
	}
	w.Header().Set("X-NSQ-Content-Type", "nsq; version=1.0")
	switch body := body.(type) {
	case nil:
	case string:
		io.WriteString(w, body)
	default:
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		answer, _ := json.Marshal(body) // can't fail: strings, numbers, flags
		w.Write(answer)
	}
}

func (rt route) call(r *http.Request) (any, error) {
	if rt.methods != nil && !slices.Contains(rt.methods, r.Method) {
		return nil, &httpError{http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED"}
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest("INVALID_REQUEST")
	}
	return rt.handler(r, query)
}

// errorAnswer turns what the broker said into what nsqd would say.
func errorAnswer(err error) (int, any) {
	answer := &httpError{http.StatusInternalServerError, "INTERNAL_ERROR"}
	switch {
	case errors.As(err, &answer):
	case errors.Is(err, errTopicNotFound):
		answer = &httpError{http.StatusNotFound, "TOPIC_NOT_FOUND"}
	case errors.Is(err, errChannelNotFound):
		answer = &httpError{http.StatusNotFound, "CHANNEL_NOT_FOUND"}
	case errors.Is(err, errClosing):
		answer = &httpError{http.StatusServiceUnavailable, "EXITING"}
	case errors.Is(err, errFull):
		answer = &httpError{http.StatusServiceUnavailable, "QUEUE_FULL"}
	}
	return answer.status, struct {
		Message string `json:"message"`
	}{answer.message}
}
