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

// FindingKind is what is wrong with what consumers find.
type FindingKind string

// The kinds of a Finding. README.md says what brings them about.
const (
	NotListed       = FindingKind(listing.NotListed)       // the lookupd doesn't list the broker, for the topic or at all
	Tombstoned      = FindingKind(listing.Tombstoned)      // an administrator hid the topic there
	ListedTwice     = FindingKind(listing.ListedTwice)     // with an old connection
	ListedElsewhere = FindingKind(listing.ListedElsewhere) // at another address or port
	OtherVersion    = FindingKind(listing.OtherVersion)    // with another version
	AddressShared   = FindingKind(listing.AddressShared)   // somebody else announces the broadcast address and port
	ChannelMissing  = FindingKind(listing.ChannelMissing)  // the lookupd doesn't know the channel
	Stale           = FindingKind(listing.Stale)           // the lookupd lists the broker for a topic that it doesn't have
	NotResolvable   = FindingKind(listing.NotResolvable)   // the broadcast address, from here
	NotReachable    = FindingKind(listing.NotReachable)    // the broadcast address and port, from here
)

// Finding is one thing that consumers see and that isn't so. Its texts may come
// from the network; they have no control characters and are clipped.
type Finding struct {
	Kind    FindingKind `json:"kind"`
	Lookupd string      `json:"lookupd,omitempty"` // as LookupdStatus.Address; empty: it concerns the broadcast address
	Topic   string      `json:"topic,omitempty"`   // empty: it concerns all topics
	Channel string      `json:"channel,omitempty"`
	Detail  string      `json:"detail,omitempty"` // what was seen
	Advice  string      `json:"advice"`           // what it means and what to do
}

// String says it in one line.
func (f Finding) String() string {
	var parts []string
	for _, s := range []string{f.Lookupd, strings.TrimSuffix(f.Topic+"/"+f.Channel, "/"), string(f.Kind), f.Detail, f.Advice} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Verification is what Verify found.
type Verification struct {
	Topics   int                   `json:"topics"`   // how many the lookupds were asked about
	Sampled  bool                  `json:"sampled"`  // there are more, of which these were drawn at random
	Lookupds []LookupdVerification `json:"lookupds"` // in the order of Status
	Findings []Finding             `json:"findings"`
}

// LookupdVerification says how far one nsqlookupd could be asked.
type LookupdVerification struct {
	Address     string // as LookupdStatus.Address
	HTTPAddress string // where it was asked
	Pending     int    // changes it has not acknowledged; if there are, its topics weren't compared
	Err         error  // why it could not be asked; nil: it was
}

// MarshalJSON writes the error as a text.
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

// Verify compares what the nsqlookupds show consumers with what the broker has:
// for the topics named, or for all, of which it takes a random sample of 200
// where there are more. When none is named and something seems wrong, it looks as
// well for topics that are listed though the broker doesn't have them. It also
// looks whether the broadcast address can be resolved and dialled from here. What
// seems wrong is looked at again after 1 s, and returned if it still is; what
// changes meanwhile is no finding, and neither is a name that the lookupd refused,
// which Status shows. Nothing is changed.
//
// Every nsqlookupd that ever identified itself is asked, at its HTTP address, 4
// requests at a time, unless its TCP port hangs. One that isn't asked or fails is
// in the result with its error. When there is none to ask, the error is
// ErrNotConnected. A request takes no longer than
// Options.HTTPClient allows, the whole no longer than ctx.
//
// A look costs an nsqlookupd with 100,000 registrations about 2 ms for each
// topic. Only if something seems wrong it is asked for its nodes as well, to tell
// tombstones; that takes it seconds if there are 100 brokers. If that is longer
// than HTTPClient allows, tombstoned topics are NotListed.
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
