package lookuploop

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/nsqio/go-nsq"

	"github.com/lookuploop/lookuploop/internal/listing"
	"github.com/lookuploop/lookuploop/internal/registry"
)

const (
	maxVerified = 200         // topics that Verify asks about when none is named
	verifyPause = time.Second // between its two looks
)

// Verify compares what consumers find at the nsqlookupds with what the broker has. It
// changes nothing. It checks the given topics; one that the broker doesn't have is a
// finding only if an nsqlookupd lists the broker for it. If no topic is given, it
// checks all topics, or a random sample of 200 if there are more; if it then finds a
// difference, it also looks for listed topics that the broker doesn't have. It also
// checks whether the broadcast address can be resolved and dialed from here.
//
// Differences are checked again after 1 s and returned if they are still there, so
// changes in progress are not reported. Names that an nsqlookupd refused are not
// reported either; Status shows them.
//
// Verify asks every nsqlookupd that has ever identified itself, over HTTP, with 4
// requests at a time, unless its TCP port hangs. If one can't be asked, the result
// contains its error: no findings and a nil error don't mean that every nsqlookupd
// answered. If none can be asked, Verify returns these errors, joined, with the
// result. If there is none to ask, it returns [ErrNotConnected]; once Run's context
// has ended, [ErrClosed]. A request is bounded by HTTPClient of [Options], and
// everything by ctx.
//
// An nsqlookupd with 100,000 registrations needs about 2 ms for each topic, and 0.2
// to 0.4 s for a sample of 200. Only if there is a difference, Verify also requests
// /nodes, to detect tombstones. Otherwise it misses a broker that announces the same
// address for other topics only, which cmd/lookupcheck finds. With 100 brokers /nodes
// takes seconds. If it takes longer than HTTPClient allows, tombstoned topics are
// reported as [NotListed].
func (l *Loop) Verify(ctx context.Context, topics ...string) (Verification, error) {
	for _, topic := range topics {
		if !nsq.IsValidTopicName(topic) {
			return Verification{}, fmt.Errorf("%w: topic %q: %s", ErrInvalidName, topic, registry.NameRule)
		}
	}
	if l.hasEnded() {
		return Verification{}, ErrClosed
	}
	if len(topics) == 0 {
		return l.verify(ctx, l.sample(nil))
	}
	return l.verify(ctx, question{topics: sortedOnce(topics)})
}

// sortedOnce returns names in order, each once.
func sortedOnce(names []string) []string { return slices.Compact(slices.Sorted(slices.Values(names))) }

// question is what lookupds are asked about.
type question struct {
	topics    []string // sorted
	isGeneral bool     // whatever else is seen on the way counts, too
	isSampled bool     // the broker has more topics
	place     uint64   // in the registry, when a look began
}

// verify is Verify for a question.
func (l *Loop) verify(ctx context.Context, q question) (Verification, error) {
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
	v := Verification{Topics: len(q.topics), Sampled: q.isSampled, Lookupds: result.lookupds, Findings: []Finding{}}
	for _, f := range result.findings {
		v.Findings = append(v.Findings, Finding{FindingKind(f.Kind), f.Lookupd, f.Topic, f.Channel, f.Detail, f.Advice()})
	}
	return v, v.failure()
}

// look is one look of Verify at all lookupds.
type look struct {
	lookupds []LookupdVerification
	findings []listing.Finding // their Lookupd is that of the TCP port
}

// look asks all lookupds about the topics. It belongs to the goroutine of Verify,
// which waits for the one that it starts for each lookupd.
func (l *Loop) look(ctx context.Context, q question) look {
	q.place = l.reg.End()
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
		return fail(aboutHost(status.Info, err))
	}
	before = before.without(status.Refused)
	found := l.compare(q, before, view)
	if len(found) > 0 {
		var had []string
		if q.isGeneral {
			had = l.allTopics()
			slices.Sort(had)
		}
		if nodes, err := client.Nodes(ctx, result.HTTPAddress); err == nil { // or a tombstone is not told
			view.Nodes = nodes
			found = l.compare(q, before, view)
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

// compare compares what the broker had and has with what a lookupd shows. What was
// deleted and made again meanwhile counts as new.
func (l *Loop) compare(q question, before holdings, view listing.View) []listing.Finding {
	had, has := maps.Clone(before), l.holdings(q.topics)
	for topic, channels := range has {
		if !l.reg.UnchangedSince(q.place, topic, "") {
			had[topic] = nil
			delete(has, topic)
			continue
		}
		has[topic] = slices.DeleteFunc(channels, func(channel string) bool { return !l.reg.UnchangedSince(q.place, topic, channel) })
	}
	return listing.CompareSteady(l.producer(), had, has, view)
}

// sample asks about all topics, or about maxVerified drawn at random and some more.
func (l *Loop) sample(more []string) question {
	topics := l.allTopics()
	isSampled := len(topics) > maxVerified
	if isSampled {
		rand.Shuffle(len(topics), func(i, j int) { topics[i], topics[j] = topics[j], topics[i] })
		topics = topics[:maxVerified]
	}
	return question{topics: sortedOnce(slices.Concat(topics, more)), isGeneral: true, isSampled: isSampled}
}

// keepVerifying verifies each VerifyInterval until ctx ends. Run starts this
// goroutine and waits for it.
func (l *Loop) keepVerifying(ctx context.Context) {
	known := make(knownFindings)
	isFailing := false // and that was logged
	for pause := rand.N(l.opts.VerifyInterval); wait(ctx, pause); pause = l.opts.VerifyInterval {
		q := l.sample(known.topics())
		v, err := l.verify(ctx, q)
		if ctx.Err() != nil {
			return
		}
		status := *l.verification.Load()
		status.Ended, status.Error = time.Now(), err
		switch {
		case err != nil && !isFailing && len(l.lookupPeers()) > 0:
			l.opts.Logger.Warn("verification could ask no lookupd", "error", err)
			isFailing = true
		case err == nil && isFailing:
			l.opts.Logger.Info("verification can ask lookupds again")
			isFailing = false
		}
		if v.Lookupds != nil {
			status.Found = v
			status.Announced += l.announceMissing(v.Findings)
			known.update(q, v, l.opts.Logger)
		}
		l.verification.Store(&status)
	}
}

// announceMissing lets what lookupds lost be announced to them again. It returns
// how many topics that are.
func (l *Loop) announceMissing(found []Finding) (n uint64) {
	for _, p := range l.lookupPeers() {
		var items []registry.Item
		topics := make(map[string]bool)
		for _, f := range found {
			switch {
			case f.Lookupd != p.address || f.Topic == "":
				continue
			case f.Kind == NotListed:
				topic, _ := l.reg.Topic(f.Topic)
				items = append(items, topic...)
			case f.Kind == ChannelMissing:
				items = append(items, registry.Item{Topic: f.Topic, Channel: f.Channel})
			default:
				continue
			}
			topics[f.Topic] = true
		}
		if len(items) > 0 && p.state.Load().state == Connected {
			l.reg.Announce(p.cursor, items)
			signal(p.wake)
			n += uint64(len(topics))
		}
	}
	return n
}

// knownFindings are those that were logged and are not over, without details: at
// most maxKnown, as a lookupd can list what it likes.
type knownFindings map[Finding]bool

const maxKnown = 1000

// topics returns the topics to look at again, at most maxVerified.
func (k knownFindings) topics() (topics []string) {
	for f := range k {
		if len(topics) < maxVerified && nsq.IsValidTopicName(f.Topic) {
			topics = append(topics, f.Topic)
		}
	}
	return topics
}

// update logs what is new and what is over.
func (k knownFindings) update(q question, v Verification, log *slog.Logger) {
	const most = 10 // that are logged at a time
	found := make(map[Finding]bool)
	n := 0
	for _, f := range v.Findings {
		brief := f
		brief.Detail = ""
		found[brief] = true
		if !k[brief] {
			if len(k) < maxKnown {
				k[brief] = true
			}
			if n++; n <= most {
				log.Warn("verification found a problem", "finding", f)
			}
		}
	}
	if n > most {
		log.Warn("verification found more problems", "more", n-most)
	}
	n = 0
	for f := range k {
		if !found[f] && v.judged(q, f) {
			delete(k, f)
			n++
		}
	}
	if n > 0 {
		log.Info("problems are resolved", "resolved", n, "remaining", len(k))
	}
}

// judged tells whether v would have f if it were still so.
func (v Verification) judged(q question, f Finding) bool {
	i := slices.IndexFunc(v.Lookupds, func(l LookupdVerification) bool { return l.Address == f.Lookupd })
	if i < 0 { // it is about no lookupd, or about one that was left
		return true
	}
	_, isAsked := slices.BinarySearch(q.topics, f.Topic)
	isAsked = isAsked || !nsq.IsValidTopicName(f.Topic) // which can't be asked about
	return v.Lookupds[i].Err == nil && (f.Topic == "" || isAsked && v.Lookupds[i].Pending == 0)
}
