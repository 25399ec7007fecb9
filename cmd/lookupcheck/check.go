package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/lookuploop/lookuploop/internal/listing"
)

// maxBrokers bounds how many brokers are asked at a time.
const maxBrokers = 16

// checker looks at lookupds and brokers.
type checker struct {
	client   listing.Client
	lookupds []string // HTTP addresses
	nsqds    []string // HTTP addresses; none: those that the lookupds list
	dial     dialer
	timeout  time.Duration // of dialing a broadcast address
	progress progress
}

// report is the result of a check.
type report struct {
	Time     time.Time         `json:"time"`
	Lookupds []lookupdReport   `json:"lookupds"`
	Brokers  []brokerReport    `json:"brokers"`
	Findings []listing.Finding `json:"findings"`
}

type lookupdReport struct {
	Address string `json:"address"`
	Version string `json:"version,omitempty"`
	Brokers int    `json:"brokers"` // connections of brokers
	Topics  int    `json:"topics"`  // names that it knows
	Error   string `json:"error,omitempty"`

	view  listing.View
	names []string
}

type brokerReport struct {
	HTTPAddress string `json:"http_address"` // where it was asked
	Address     string `json:"address,omitempty"`
	Hostname    string `json:"hostname,omitempty"`
	Version     string `json:"version,omitempty"`
	Topics      int    `json:"topics"`
	Channels    int    `json:"channels"`
	Error       string `json:"error,omitempty"`

	broker listing.Broker
}

// status is the exit status.
func (r report) status() int {
	switch {
	case slices.ContainsFunc(r.Lookupds, func(l lookupdReport) bool { return l.Error != "" }),
		slices.ContainsFunc(r.Brokers, func(b brokerReport) bool { return b.Error != "" }):
		return exitNotAsked
	case len(r.Findings) > 0:
		return exitWrong
	}
	return exitWell
}

// check looks, and looks again where something seems wrong.
func (c *checker) check(ctx context.Context) report {
	first := c.look(ctx, nil)
	if len(first.Findings) == 0 {
		return first
	}
	c.progress.begin("waiting to look again at what seems wrong", 0)
	if !sleep(ctx, pause) {
		return first
	}
	suspects := make(map[string]bool)
	for _, f := range first.Findings {
		suspects[f.Topic] = true
	}
	second := c.look(ctx, suspects)
	first.Findings = listing.Confirm(first.Findings, second.Findings)
	first.addErrors(second)
	return first
}

// addErrors takes over who could not be asked the second time: of them nothing is
// confirmed.
func (r *report) addErrors(second report) {
	for i, l := range second.Lookupds {
		r.Lookupds[i].Error = cmp.Or(r.Lookupds[i].Error, l.Error)
	}
	for _, b := range second.Brokers {
		for i := range r.Brokers {
			if r.Brokers[i].HTTPAddress == b.HTTPAddress {
				r.Brokers[i].Error = cmp.Or(r.Brokers[i].Error, b.Error)
			}
		}
	}
}

// look asks once. Lookupds are asked about the topics of all brokers, or about
// those among them that are in only.
func (c *checker) look(ctx context.Context, only map[string]bool) report {
	r := report{Time: time.Now(), Lookupds: make([]lookupdReport, len(c.lookupds)), Findings: []listing.Finding{}}
	c.progress.begin("asking lookupds", len(c.lookupds))
	c.eachLookupd(func(i int) {
		r.Lookupds[i] = c.lookupd(ctx, c.lookupds[i])
		c.progress.step()
	})

	asked := c.nsqds
	if len(asked) == 0 {
		asked = listed(r.Lookupds)
	}
	r.Brokers = make([]brokerReport, len(asked))
	c.progress.begin("asking brokers", len(asked))
	listing.Parallel(len(asked), maxBrokers, func(i int) {
		r.Brokers[i] = c.broker(ctx, asked[i])
		c.progress.step()
	})

	c.askTopics(ctx, r, only)
	c.compare(ctx, &r)
	return r
}

// eachLookupd calls do for all lookupds at once: a slow one delays no other.
func (c *checker) eachLookupd(do func(i int)) {
	listing.Parallel(len(c.lookupds), len(c.lookupds), do)
}

// lookupd asks for what a lookupd knows, but for the topics' details.
func (c *checker) lookupd(ctx context.Context, address string) lookupdReport {
	l := lookupdReport{Address: address, view: listing.View{Lookupd: address}}
	var err error
	if l.Version, err = c.client.Version(ctx, address); err == nil {
		if l.view.Nodes, err = c.client.Nodes(ctx, address); err == nil {
			l.names, err = c.client.Topics(ctx, address)
		}
	}
	if err != nil {
		l.Error = err.Error()
	}
	l.Brokers, l.Topics = len(l.view.Nodes), len(l.names)
	return l
}

// listed returns the HTTP addresses of the brokers that the lookupds list.
func listed(lookupds []lookupdReport) []string {
	found := make(map[string]bool)
	for _, l := range lookupds {
		for _, n := range l.view.Nodes {
			found[n.HTTPAddress()] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (c *checker) broker(ctx context.Context, address string) brokerReport {
	b, err := c.client.Broker(ctx, address)
	if err != nil {
		return brokerReport{HTTPAddress: address, Error: err.Error()}
	}
	channels := 0
	for _, names := range b.Topics {
		channels += len(names)
	}
	return brokerReport{
		HTTPAddress: address, Address: b.Address(), Hostname: b.Hostname, Version: b.Version,
		Topics: len(b.Topics), Channels: channels, broker: b,
	}
}

// askTopics asks each lookupd who has the topics.
func (c *checker) askTopics(ctx context.Context, r report, only map[string]bool) {
	all := make(map[string]bool)
	for _, b := range r.Brokers {
		for topic := range b.broker.Topics {
			if only == nil || only[topic] {
				all[topic] = true
			}
		}
	}
	topics := slices.Sorted(maps.Keys(all))
	c.progress.begin("asking about topics", len(topics)*len(c.lookupds))
	c.eachLookupd(func(i int) {
		l := &r.Lookupds[i]
		if l.Error != "" {
			return
		}
		var err error
		if l.view.Topics, err = c.client.Lookups(ctx, l.Address, topics, c.progress.step); err != nil {
			l.Error = err.Error()
		}
	})
}

// compare fills in the findings.
func (c *checker) compare(ctx context.Context, r *report) {
	names := make(map[string][]string)
	for _, l := range r.Lookupds {
		if l.Error == "" {
			names[l.Address] = l.names
		}
	}
	var brokers []listing.Broker
	for _, b := range r.Brokers {
		if b.Error == "" {
			brokers = append(brokers, b.broker)
		}
	}
	for _, l := range r.Lookupds {
		for _, b := range brokers {
			r.Findings = append(r.Findings, listing.Compare(b, l.view)...)
		}
	}
	r.Findings = append(r.Findings, listing.Differences(names, brokers)...)

	producers := c.producers(r.Lookupds, brokers)
	reached := make([][]listing.Finding, len(producers))
	listing.Parallel(len(producers), maxBrokers, func(i int) {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		reached[i] = listing.Reach(ctx, c.dial, producers[i])
	})
	r.Findings = append(r.Findings, slices.Concat(reached...)...)
}

// producers returns whose address should be reachable: the brokers and, if none
// was named, all that the lookupds list, as some may not have an HTTP API.
func (c *checker) producers(lookupds []lookupdReport, brokers []listing.Broker) []listing.Producer {
	found := make(map[string]listing.Producer)
	for _, b := range brokers {
		found[b.Address()] = b.Producer
	}
	for _, l := range lookupds {
		for _, n := range l.view.Nodes {
			if len(c.nsqds) == 0 {
				found[n.Address()] = n.Producer
			}
		}
	}
	var producers []listing.Producer
	for _, address := range slices.Sorted(maps.Keys(found)) {
		producers = append(producers, found[address])
	}
	return producers
}
