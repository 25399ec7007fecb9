package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop"
)

const (
	pollInterval = 5 * time.Millisecond // between two looks at an answer that is to change
	httpTimeout  = 2 * time.Second      // of one request
	maxAnswer    = 16 << 20             // bytes
)

// client keeps no connection for later and uses no proxy.
var client = &http.Client{
	Timeout:   httpTimeout,
	Transport: &http.Transport{DisableKeepAlives: true},
}

// answer is what the tour reads of nsqlookupd's answers to /lookup and /nodes.
type answer struct {
	Message   string     `json:"message,omitempty"` // says why there is no answer
	Channels  []string   `json:"channels,omitzero"` // of a topic
	Producers []producer `json:"producers,omitzero"`
}

type producer struct {
	Host   string   `json:"broadcast_address"`
	Port   int      `json:"tcp_port"`
	Topics []string `json:"topics,omitempty"` // only by /nodes
}

func (p producer) address() string { return net.JoinHostPort(p.Host, strconv.Itoa(p.Port)) }

func (a answer) names(broker string) bool {
	return slices.ContainsFunc(a.Producers, func(p producer) bool { return p.address() == broker })
}

func (a answer) String() string {
	text, err := json.Marshal(a)
	if err != nil {
		panic(err) // strings and numbers
	}
	return string(text)
}

// get asks a lookupd. That it doesn't know the topic is an answer too.
func (l lookupd) get(ctx context.Context, path string) (answer, error) {
	body, status, err := request(ctx, http.MethodGet, l.http+path, "")
	if err != nil {
		return answer{}, err
	}
	var a answer
	err = json.Unmarshal(body, &a)
	if err != nil || status != http.StatusOK && a.Message != "TOPIC_NOT_FOUND" {
		return answer{}, fmt.Errorf("%s: %s: status %d, %q", l.name, path, status, body)
	}
	return a, nil
}

// request sends a request to a lookupd or the broker.
func request(ctx context.Context, method, url, body string) (answer []byte, status int, err error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+url, strings.NewReader(body))
	if err != nil {
		return nil, 0, err
	}
	response, err := client.Do(r)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	return answer, response.StatusCode, err
}

// deleteTopics makes a running lookupd forget the names of the tour's topics,
// which it keeps when their producers are gone.
func (l lookupd) deleteTopics() error {
	ctx, cancel := context.WithTimeout(context.Background(), httpTimeout)
	defer cancel()
	var errs []error
	for _, topic := range topics {
		body, status, err := request(ctx, http.MethodPost, l.http+"/topic/delete?topic="+topic, "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%s: /topic/delete: status %d, %q", l.name, status, body)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// claimTopics makes sure that no other producer has a topic of the tour.
func (t *tour) claimTopics(ctx context.Context) error {
	for _, l := range t.lookupds {
		for _, topic := range topics {
			a, err := l.get(ctx, "/lookup?topic="+topic)
			if err != nil {
				return err
			}
			if len(a.Producers) > 0 {
				return fmt.Errorf("%s knows other producers of %s: %v", l.name, topic, a)
			}
		}
	}
	t.claimed = true
	return nil
}

// condition says how the answers of a lookupd differ from what they should be.
type condition func(context.Context, lookupd) error

// poll calls f until it returns nil. When ctx ends before, it returns what was
// seen last.
func poll(ctx context.Context, f func(context.Context) error) error {
	var seen error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || seen == nil { // else it is about ctx
			seen = err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return seen
		}
	}
}

// each waits until the answers of lookupds are as they should be.
func each(ctx context.Context, lookupds []lookupd, c condition) error {
	for _, l := range lookupds {
		err := poll(ctx, func(ctx context.Context) error { return c(ctx, l) })
		if err != nil {
			return err
		}
	}
	return nil
}

// checkAnswers checks that every lookupd tells by HTTP what the broker has,
// not less and not more.
func (t *tour) checkAnswers(ctx context.Context) {
	t.check(ctx, "every lookupd's HTTP answers are what the broker has", func(ctx context.Context) error {
		return each(ctx, t.lookupds, t.hasExactly(t.broker.Loop().Metadata()))
	})
}

func (t *tour) hasExactly(m lookuploop.Metadata) condition {
	return func(ctx context.Context, l lookupd) error {
		var names []string
		for _, topic := range m.Topics {
			names = append(names, topic.Name)
			if err := t.hasProducer(topic.Name, topic.Channels...)(ctx, l); err != nil {
				return err
			}
		}
		a, err := l.get(ctx, "/nodes")
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, p := range a.Producers {
			if p.address() == t.broker.TCPAddress() && slices.Equal(slices.Sorted(slices.Values(p.Topics)), names) {
				return nil
			}
		}
		return fmt.Errorf("%s: /nodes doesn't have the topics %v, but %v", l.name, names, a)
	}
}

// hasProducer: the lookupd names the broker, once, for the topic, and knows
// the channels.
func (t *tour) hasProducer(topic string, channels ...lookuploop.ChannelMetadata) condition {
	return func(ctx context.Context, l lookupd) error {
		path := "/lookup?topic=" + topic
		a, err := l.get(ctx, path)
		if err != nil {
			return err
		}
		if len(a.Producers) != 1 || !a.names(t.broker.TCPAddress()) {
			return fmt.Errorf("%s: %s doesn't name the broker, but %v", l.name, path, a)
		}
		for _, c := range channels {
			if !slices.Contains(a.Channels, c.Name) {
				return fmt.Errorf("%s: %s lacks the channel %s: %v", l.name, path, c.Name, a)
			}
		}
		return nil
	}
}

// hasForgotten: the lookupd doesn't name the broker for anything.
func (t *tour) hasForgotten(ctx context.Context, l lookupd) error {
	a, err := l.get(ctx, "/nodes")
	if err == nil && a.names(t.broker.TCPAddress()) {
		err = fmt.Errorf("%s: /nodes still has the broker: %v", l.name, a)
	}
	return err
}
