package membroker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/lookuploop/lookuploop/statuspage"
	"github.com/nsqio/go-nsq"
)

func handlePing(*http.Request, url.Values) (any, error) { return "OK", nil }

// handleReady is a readiness probe: it fails, and says why, unless n lookupds
// (without n: all) know everything that the broker has.
func (b *Broker) handleReady(w http.ResponseWriter, r *http.Request) {
	n := 0
	if query := r.URL.Query(); query.Has("n") {
		var err error
		if n, err = strconv.Atoi(query.Get("n")); err != nil || n < 1 {
			http.Error(w, "INVALID_N", http.StatusBadRequest)
			return
		}
	}
	statuspage.Ready(b.loop, n).ServeHTTP(w, r)
}

func (b *Broker) handleInfo(*http.Request, url.Values) (any, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	return struct {
		Version          string `json:"version"`
		BroadcastAddress string `json:"broadcast_address"`
		Hostname         string `json:"hostname"`
		HTTPPort         int    `json:"http_port"`
		TCPPort          int    `json:"tcp_port"`
		StartTime        int64  `json:"start_time"`
	}{
		Version:          Version,
		BroadcastAddress: b.opts.BroadcastAddress,
		Hostname:         hostname,
		HTTPPort:         b.http.Addr().(*net.TCPAddr).Port,
		TCPPort:          b.tcp.Addr().(*net.TCPAddr).Port,
		StartTime:        b.started.Unix(),
	}, nil
}

// handleStats always answers with JSON; nsqd has a text format too.
func (b *Broker) handleStats(_ *http.Request, query url.Values) (any, error) {
	clients := query.Get("include_clients")
	return b.stats(query.Get("topic"), query.Get("channel"), clients != "false" && clients != "0"), nil
}

// handlePub publishes the request's body as one message.
func (b *Broker) handlePub(r *http.Request, query url.Values) (any, error) {
	body, err := readRequest(r, maxMsgSize, "MSG_TOO_BIG")
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, badRequest("MSG_EMPTY")
	}
	delay := time.Duration(0)
	if query.Has("defer") {
		ms, err := strconv.ParseUint(query.Get("defer"), 10, 31)
		delay = time.Duration(ms) * time.Millisecond
		if err != nil || delay > maxReqTimeout {
			return nil, badRequest("INVALID_DEFER")
		}
	}
	return "OK", b.publishTo(query, newMessage(body, delay))
}

// handleMpub publishes each line of the request's body as a message, or with
// binary=true the body of an MPUB command.
func (b *Broker) handleMpub(r *http.Request, query url.Values) (any, error) {
	body, err := readRequest(r, maxBodySize, "BODY_TOO_BIG")
	if err != nil {
		return nil, err
	}
	split := b.splitLines
	if binary := query.Get("binary"); query.Has("binary") && binary != "false" && binary != "0" {
		split = b.splitBatch
	}
	bodies, err := split(body)
	if err != nil {
		return nil, err
	}
	msgs := make([]*message, len(bodies))
	for i, body := range bodies {
		msgs[i] = newMessage(body, 0)
	}
	return "OK", b.publishTo(query, msgs...)
}

// splitLines leaves out empty lines. Five million of one byte take a lot more
// memory than the body, so it ends when there are more than a channel can hold.
func (b *Broker) splitLines(body []byte) ([][]byte, error) {
	var bodies [][]byte
	for line := range bytes.SplitSeq(body, []byte("\n")) {
		if len(line) > maxMsgSize {
			return nil, &httpError{http.StatusRequestEntityTooLarge, "MSG_TOO_BIG"}
		}
		if len(line) == 0 {
			continue
		}
		if len(bodies) == b.opts.MemQueueSize {
			return nil, errFull
		}
		bodies = append(bodies, line)
	}
	return bodies, nil
}

func (b *Broker) splitBatch(body []byte) ([][]byte, error) {
	r := bytes.NewReader(body)
	bodies, err := readBatch(r, b.opts.MemQueueSize)
	var refusal *protocolError
	if errors.As(err, &refusal) {
		return nil, &httpError{http.StatusRequestEntityTooLarge, refusal.code[len("E_"):]}
	}
	if r.Len() > 0 {
		return nil, &httpError{http.StatusRequestEntityTooLarge, "BAD_BODY"}
	}
	return bodies, nil
}

func (b *Broker) publishTo(query url.Values, msgs ...*message) error {
	name, err := argument(query, "topic", "MISSING_ARG_TOPIC")
	if err != nil {
		return err
	}
	return validTopic(func(name string) error { return b.publish(name, msgs...) })(name)
}

// handleConfig reads and changes the one option that can be: PUT takes the
// lookupds' addresses as a JSON array, effective at once.
func (b *Broker) handleConfig(r *http.Request, _ url.Values) (any, error) {
	if r.PathValue("option") != "nsqlookupd_tcp_addresses" {
		return nil, badRequest("INVALID_OPTION")
	}
	if r.Method == http.MethodPut {
		body, err := readRequest(r, maxMsgSize, "INVALID_VALUE")
		if err != nil {
			return nil, err
		}
		var addresses []string
		if json.Unmarshal(body, &addresses) != nil || b.loop.SetLookupdTCPAddresses(addresses) != nil {
			return nil, badRequest("INVALID_VALUE")
		}
	}
	addresses := []string{}
	for _, lookupd := range b.loop.Status().Lookupds {
		addresses = append(addresses, lookupd.Address)
	}
	return addresses, nil
}

// readRequest reads the body, which may have up to limit bytes. Of one that has
// more it reads some away: most clients look at the answer only when they have sent all.
func readRequest(r *http.Request, limit int64, tooBig string) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if int64(len(body)) > limit {
		io.CopyN(io.Discard, r.Body, 2*maxBodySize)
		return nil, &httpError{http.StatusRequestEntityTooLarge, tooBig}
	}
	return body, err
}

// argument returns a parameter that must be there.
func argument(query url.Values, name, missing string) (string, error) {
	if !query.Has(name) {
		return "", badRequest(missing)
	}
	return query.Get(name), nil
}

// forTopic makes a handler of what needs a topic's name.
func forTopic(do func(topicName string) error) handler {
	return func(_ *http.Request, query url.Values) (any, error) {
		name, err := argument(query, "topic", "MISSING_ARG_TOPIC")
		if err != nil {
			return nil, err
		}
		return nil, do(name)
	}
}

// validTopic refuses names that no topic can have. (nsqd just doesn't find
// them where the topic must exist already.)
func validTopic(do func(topicName string) error) func(string) error {
	return func(name string) error {
		if !nsq.IsValidTopicName(name) {
			return badRequest("INVALID_TOPIC")
		}
		return do(name)
	}
}

// forChannel makes a handler of what needs a topic's and a channel's name.
func forChannel(do func(topicName, channelName string) error) handler {
	return func(_ *http.Request, query url.Values) (any, error) {
		t, err := argument(query, "topic", "MISSING_ARG_TOPIC")
		if err != nil {
			return nil, err
		}
		if !nsq.IsValidTopicName(t) {
			return nil, badRequest("INVALID_ARG_TOPIC")
		}
		c, err := argument(query, "channel", "MISSING_ARG_CHANNEL")
		if err != nil {
			return nil, err
		}
		if !nsq.IsValidChannelName(c) {
			return nil, badRequest("INVALID_ARG_CHANNEL")
		}
		return nil, do(t, c)
	}
}
