package lookuploop

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nsqio/go-nsq"

	"github.com/lookuploop/lookuploop/internal/listing"
	"github.com/lookuploop/lookuploop/internal/registry"
)

const (
	maxVerified = 200         // topics that Verify asks about when none is named
	verifyPause = time.Second // between its two looks
)

// FindingKind is the kind of a [Finding].
type FindingKind string

// The kinds of a [Finding]. README.md describes their causes.
const (
	NotListed       = FindingKind(listing.NotListed)       // the nsqlookupd doesn't list the broker, for the topic or at all
	Tombstoned      = FindingKind(listing.Tombstoned)      // an administrator tombstoned the topic there
	ListedTwice     = FindingKind(listing.ListedTwice)     // an old connection is still listed
	ListedElsewhere = FindingKind(listing.ListedElsewhere) // the broker is listed at another address or port
	OtherVersion    = FindingKind(listing.OtherVersion)    // the broker is listed with another version
	AddressShared   = FindingKind(listing.AddressShared)   // another broker announces the same broadcast address and port
	ChannelMissing  = FindingKind(listing.ChannelMissing)  // the nsqlookupd doesn't list the channel
	Stale           = FindingKind(listing.Stale)           // the nsqlookupd lists the broker for a topic that the broker doesn't have
	NotResolvable   = FindingKind(listing.NotResolvable)   // the broadcast address can't be resolved from here
	NotReachable    = FindingKind(listing.NotReachable)    // the broadcast address and port can't be reached from here
)

// Finding is one difference between what consumers find and what the broker has.
// Its strings may come from the network. They have no control characters and are
// truncated.
type Finding struct {
	Kind    FindingKind `json:"kind"`
	Lookupd string      `json:"lookupd,omitempty"` // as LookupdStatus.Address; empty if it is about the broadcast address
	Topic   string      `json:"topic,omitempty"`   // empty if it is about all topics
	Channel string      `json:"channel,omitempty"`
	Detail  string      `json:"detail,omitempty"` // what was seen
	Advice  string      `json:"advice"`           // what it means, and what to do
}

// String returns the finding in one line.
func (f Finding) String() string {
	var parts []string
	for _, s := range []string{f.Lookupd, strings.TrimSuffix(f.Topic+"/"+f.Channel, "/"), string(f.Kind), f.Detail, f.Advice} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Verification is the result of [Loop.Verify].
type Verification struct {
	Topics   int                   `json:"topics"`   // number of topics that were checked
	Sampled  bool                  `json:"sampled"`  // whether the topics are a random sample
	Lookupds []LookupdVerification `json:"lookupds"` // in the order of Status
	Findings []Finding             `json:"findings"`
}

// LookupdVerification says whether one nsqlookupd could be asked.
type LookupdVerification struct {
	Address     string // as LookupdStatus.Address
	HTTPAddress string // where the requests went
	Pending     int    // changes that it hasn't acknowledged; if there are any, its topics weren't compared
	Err         error  // why it couldn't be asked; nil if it was
}

// MarshalJSON encodes Err as a string.
func (v LookupdVerification) MarshalJSON() ([]byte, error) {
	text := ""
	if v.Err != nil {
		text = v.Err.Error()
	}
	return json.Marshal(struct {
		Address     string `json:"address"`
		HTTPAddress string `json:"http_address,omitempty"`
		Pending     int    `json:"pending"`
		Err         string `json:"error,omitempty"`
	}{v.Address, v.HTTPAddress, v.Pending, text})
}

// Verify compares what consumers find at the nsqlookupds with what the broker has.
// It changes nothing. It checks the given topics. Without any, it checks all topics,
// or a random sample of 200 if there are more; if it then finds a difference, it
// also looks for listed topics that the broker doesn't have. It also checks whether
// the broadcast address can be resolved and dialed from here.
//
// Differences are checked again after 1 s and returned if they are still there, so
// changes in progress are not reported. Names that an nsqlookupd refused are not
// reported either; Status shows them.
//
// Verify asks every nsqlookupd that has ever identified itself, over HTTP, with 4
// requests at a time, unless its TCP port hangs. If one can't be asked, the result
// contains its error. If there is none to ask, Verify returns [ErrNotConnected]. A
// request is bounded by HTTPClient of [Options], and everything by ctx.
//
// An nsqlookupd with 100,000 registrations needs about 2 ms for each topic. Only if
// there is a difference, Verify also requests /nodes, to detect tombstones. With 100
// brokers that takes seconds. If it takes longer than HTTPClient allows, tombstoned
// topics are reported as [NotListed].
func (l *Loop) Verify(ctx context.Context, topics ...string) (Verification, error) {
	for _, topic := range topics {
		if !nsq.IsValidTopicName(topic) {
			return Verification{}, fmt.Errorf("%w: topic %q: %s", ErrInvalidName, topic, registry.NameRule)
		}
	}
	var v Verification
	q := question{topics: slices.Compact(slices.Sorted(slices.Values(topics)))}
	if len(topics) == 0 {
		q.isGeneral = true
		q.topics, v.Sampled = l.sample()
	}
	v.Topics = len(q.topics)
	if !slices.ContainsFunc(l.lookupPeers(), func(p *lookupPeer) bool { return p.state.Load().mayAnswer() }) {
		return Verification{}, fmt.Errorf("%w: nothing verified", ErrNotConnected)
	}
	result := l.look(ctx, q)
	if len(result.findings) > 0 && wait(ctx, verifyPause) {
		again := l.look(ctx, q)
		result.findings = listing.Confirm(result.findings, again.findings)
		for i := range result.lookupds { // of those that failed nothing is confirmed
			if j := slices.IndexFunc(again.lookupds, func(a LookupdVerification) bool { return a.Address == result.lookupds[i].Address }); j >= 0 {
				result.lookupds[i].Err = cmp.Or(result.lookupds[i].Err, again.lookupds[j].Err)
			}
		}
	}
	if err := ctx.Err(); err != nil {
		return Verification{}, fmt.Errorf("lookuploop: verification: %w", err)
	}
	v.Lookupds = result.lookupds
	v.Findings = []Finding{}
	for _, f := range result.findings {
		v.Findings = append(v.Findings, Finding{FindingKind(f.Kind), f.Lookupd, f.Topic, f.Channel, f.Detail, f.Advice()})
	}
	return v, nil
}

// wait returns false if ctx ends before.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// question is what Verify asks lookupds about.
type question struct {
	topics    []string // sorted
	isGeneral bool     // whatever else is seen on the way counts, too
}

// look is one look of Verify at all lookupds.
type look struct {
	lookupds []LookupdVerification
	findings []listing.Finding // their Lookupd is that of the TCP port
}

// look asks all lookupds about the topics. It belongs to the goroutine of Verify,
// which waits for the one that it starts for each lookupd.
func (l *Loop) look(ctx context.Context, q question) look {
	before := l.holdings(q.topics)
	isSettled := l.settle(ctx)
	peers := l.lookupPeers()
	result := look{lookupds: make([]LookupdVerification, len(peers))}
	findings := make([][]listing.Finding, len(peers)+1)
	listing.Parallel(len(findings), len(findings), func(i int) {
		if i == len(peers) {
			findings[i] = l.reach(ctx)
			return
		}
		findings[i], result.lookupds[i] = l.ask(ctx, peers[i], q, before, isSettled)
	})
	result.findings = slices.Concat(findings...)
	return result
}

// settle waits a moment for changes that lookupds have not acknowledged, if there
// are any. It tells whether all of them know all there was.
func (l *Loop) settle(ctx context.Context) bool {
	isPending := func(s LookupdStatus) bool { return s.State == Connected && s.Pending > 0 }
	if !slices.ContainsFunc(l.Status().Lookupds, isPending) {
		return false // or some aren't connected: each is looked at by itself
	}
	ctx, cancel := context.WithTimeout(ctx, l.opts.ResponseTimeout)
	defer cancel()
	return l.WaitRegistered(ctx, 0) == nil
}

// reach looks whether the broadcast address leads anywhere.
func (l *Loop) reach(ctx context.Context) []listing.Finding {
	ctx, cancel := context.WithTimeout(ctx, l.opts.DialTimeout)
	defer cancel()
	return listing.Reach(ctx, l.dialBroker, l.producer())
}

// producer is the broker as lookupds should show it.
func (l *Loop) producer() listing.Producer {
	return listing.Producer{
		Hostname:         l.opts.Hostname,
		BroadcastAddress: l.opts.BroadcastAddress,
		TCPPort:          l.opts.BroadcastTCPPort,
		HTTPPort:         l.opts.BroadcastHTTPPort,
		Version:          l.opts.Version,
	}
}

// holdings is what the broker has: channels by topic.
type holdings map[string][]string

// holdings returns what the broker has of these topics.
func (l *Loop) holdings(topics []string) holdings {
	held := make(holdings, len(topics))
	for _, name := range topics {
		if items, found := l.reg.Topic(name); found {
			held[name] = nil
			for _, channel := range items[1:] {
				held[name] = append(held[name], channel.Channel)
			}
		}
	}
	return held
}

// allTopics returns the names of all topics that the broker has.
func (l *Loop) allTopics() (topics []string) {
	for item := range l.reg.Snapshot(false).Items {
		if item.Channel == "" {
			topics = append(topics, item.Topic)
		}
	}
	return topics
}

// hadOrHas tells whether the broker has a topic, or had it before.
func (l *Loop) hadOrHas(before []string, topic string) bool {
	_, had := slices.BinarySearch(before, topic)
	_, has := l.reg.Topic(topic)
	return had || has
}

// without returns what is left of h without refused names.
func (h holdings) without(refused []*ResponseError) holdings {
	if len(refused) == 0 {
		return h
	}
	h = maps.Clone(h)
	for _, r := range refused {
		if r.Channel == "" {
			delete(h, r.Topic)
		} else if channels, ok := h[r.Topic]; ok {
			h[r.Topic] = slices.DeleteFunc(slices.Clone(channels), func(name string) bool { return name == r.Channel })
		}
	}
	return h
}

// ask asks one lookupd.
func (l *Loop) ask(ctx context.Context, p *lookupPeer, q question, before holdings, isSettled bool) ([]listing.Finding, LookupdVerification) {
	status := p.status()
	result := LookupdVerification{Address: p.address}
	fail := func(err error) ([]listing.Finding, LookupdVerification) {
		result.Err = fromNetwork(fmt.Errorf("lookuploop: %s: verification: %w", p.address, err))
		return nil, result
	}
	if !p.state.Load().mayAnswer() {
		return fail(cmp.Or(status.LastError, ErrNotConnected))
	}
	var err error
	if result.HTTPAddress, err = httpAddress(p.address, status.Info); err != nil {
		return fail(err)
	}
	if !isSettled {
		result.Pending = status.Pending
	}
	client := l.listingClient()
	view := listing.View{Lookupd: p.address}
	if view.Topics, err = client.Lookups(ctx, result.HTTPAddress, q.topics, func() {}); err != nil {
		return fail(err)
	}
	before = before.without(status.Refused)
	found := listing.CompareSteady(l.producer(), before, l.holdings(q.topics), view)
	if len(found) > 0 {
		var had []string
		if q.isGeneral {
			had = l.allTopics()
			slices.Sort(had)
		}
		if nodes, err := client.Nodes(ctx, result.HTTPAddress); err == nil { // or a tombstone is not told
			view.Nodes = nodes
			found = listing.CompareSteady(l.producer(), before, l.holdings(q.topics), view)
			found = slices.DeleteFunc(found, func(f listing.Finding) bool { // CompareSteady knows of those asked about
				_, isAsked := view.Topics[f.Topic]
				return f.Kind == listing.Stale && !isAsked && (!q.isGeneral || l.hadOrHas(had, f.Topic))
			})
		}
	}
	if result.Pending > 0 {
		found = slices.DeleteFunc(found, func(f listing.Finding) bool { return f.Topic != "" })
	}
	return found, result
}

// sample returns the names of all topics, or of maxVerified drawn at random.
func (l *Loop) sample() (topics []string, isSample bool) {
	topics = l.allTopics()
	if len(topics) <= maxVerified {
		return topics, false
	}
	rand.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
	return topics[:maxVerified], true
}
