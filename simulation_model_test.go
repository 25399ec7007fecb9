package lookuploop

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

// simModel is what the broker of a simulation has, and when it had what. mu is
// the lock that the documentation of Notify asks embedders for: whoever calls
// Notify holds it until the model has changed too.
type simModel struct {
	mu        sync.Mutex
	broker    broker
	lives     map[string][]simLife // by "topic" and "topic channel", oldest first
	deleted   map[string]time.Time // names: the last event that said so, perhaps amid a Notify
	persisted []string             // what may be on disk: what was confirmed last, then each state that followed
	confirmed int                  // the number of the first of these, counted from the beginning
}

// simLife is a time in which a name existed.
type simLife struct {
	from, to time.Time // to is zero while it does
}

func newSimModel() *simModel {
	return &simModel{broker: newBroker(), lives: make(map[string][]simLife), deleted: make(map[string]time.Time), persisted: []string{persistentText(Metadata{})}}
}

// The following are called with mu held.

// become replaces what the broker has.
func (m *simModel) become(b broker) {
	now := time.Now()
	before, after := m.broker.names(), b.names()
	for name := range before {
		if !after[name] {
			lives := m.lives[name]
			lives[len(lives)-1].to = now
		}
	}
	for name := range after {
		if !before[name] {
			m.lives[name] = append(m.lives[name], simLife{from: now})
		}
	}
	m.broker = b
	if text := persistentText(b.metadata()); text != m.persisted[len(m.persisted)-1] {
		m.persisted = append(m.persisted, text)
	}
}

// current is the number of the state that the broker has.
func (m *simModel) current() int { return m.confirmed + len(m.persisted) - 1 }

// confirm notes that the state of that number, or a later one, is on disk.
func (m *simModel) confirm(state int) {
	if state > m.confirmed {
		m.persisted = m.persisted[state-m.confirmed:]
		m.confirmed = state
	}
}

// existed tells whether a name existed at some moment of the instant at.
// Virtual time stands still while goroutines run, so an instant has many.
func (m *simModel) existed(name string, at time.Time) bool {
	for _, life := range m.lives[name] {
		if !life.from.After(at) && (life.to.IsZero() || !life.to.Before(at)) {
			return true
		}
	}
	return false
}

// wasMissing tells whether it didn't exist at some moment of that instant.
func (m *simModel) wasMissing(name string, at time.Time) bool { return m.wasMissingAmid(name, at, at) }

// wasMissingAmid tells whether it didn't exist at some moment of a span of time.
func (m *simModel) wasMissingAmid(name string, from, to time.Time) bool {
	for _, life := range m.lives[name] {
		if life.from.Before(from) && (life.to.IsZero() || life.to.After(to)) {
			return false
		}
	}
	return true
}

// births are the names that the broker has, and since when. One Notify may have deleted
// and created a name, which is no end of its life to who looks from outside.
func (m *simModel) births() map[string]time.Time {
	births := make(map[string]time.Time)
	for name := range m.broker.names() {
		lives := m.lives[name]
		topic, _, _ := strings.Cut(name, " ")
		births[name] = slices.MaxFunc([]time.Time{lives[len(lives)-1].from, m.deleted[name], m.deleted[topic]}, time.Time.Compare)
	}
	return births
}

// lasting are the names that the broker has had since before a moment.
func (m *simModel) lasting(since time.Time) map[string]time.Time {
	births := m.births()
	maps.DeleteFunc(births, func(_ string, birth time.Time) bool { return !birth.Before(since) })
	return births
}

// existedSince tells whether the name existed at a moment or later.
func (m *simModel) existedSince(name string, at time.Time) bool {
	return slices.ContainsFunc(m.lives[name], func(life simLife) bool { return life.to.IsZero() || !life.to.Before(at) })
}

// wasDeleted tells whether the name was deleted in a span of time, its ends included.
func (m *simModel) wasDeleted(name string, from, to time.Time) bool {
	for _, life := range m.lives[name] {
		if !life.to.IsZero() && !life.to.Before(from) && !life.to.After(to) {
			return true
		}
	}
	return false
}

// simPreload is the name of the topic that is there from the beginning.
func simPreload(i int) string {
	if i%7 == 6 {
		return fmt.Sprintf("preload%d#ephemeral", i)
	}
	return fmt.Sprintf("preload%d", i)
}

// preloadEvents make the topics from first on, or delete them.
func preloadEvents(first, end int, deleted bool) (events []Event) {
	for i := first; i < end; i++ {
		if topic := simPreload(i); deleted {
			events = append(events, TopicDeleted(topic))
		} else {
			events = append(events, TopicCreated(topic), ChannelCreated(topic, "x"))
		}
	}
	return events
}

// names are "topic" and "topic channel" of all that the broker has.
func (b broker) names() map[string]bool {
	names := make(map[string]bool)
	for topic, t := range b {
		names[topic] = true
		for channel := range t.channels {
			names[topic+" "+channel] = true
		}
	}
	return names
}

// brokerOf is the broker that has m.
func brokerOf(m Metadata) broker {
	b := newBroker()
	for _, t := range m.Topics {
		b[t.Name] = &brokerTopic{t.Paused, make(map[string]bool)}
		for _, c := range t.Channels {
			b[t.Name].channels[c.Name] = c.Paused
		}
	}
	return b
}

// persistentText is what of m belongs into nsqd.dat, as text to compare.
func persistentText(m Metadata) string {
	var b strings.Builder
	for _, t := range sorted(m).Topics {
		if strings.HasSuffix(t.Name, "#ephemeral") {
			continue
		}
		fmt.Fprintf(&b, "%s %v:", t.Name, t.Paused)
		for _, c := range t.Channels {
			if !strings.HasSuffix(c.Name, "#ephemeral") {
				fmt.Fprintf(&b, " %s %v", c.Name, c.Paused)
			}
		}
		b.WriteString("; ")
	}
	return b.String()
}

// broker is what a broker has, kept in the plainest way.
type broker map[string]*brokerTopic

type brokerTopic struct {
	paused   bool
	channels map[string]bool // whether they are paused
}

func newBroker() broker { return make(broker) }

func (b broker) clone() broker {
	c := newBroker()
	for name, topic := range b {
		c[name] = &brokerTopic{topic.paused, make(map[string]bool)}
		for channel, paused := range topic.channels {
			c[name].channels[channel] = paused
		}
	}
	return c
}

func (b broker) apply(e Event) error {
	valid := func(name string) bool {
		return name != "" && len(name) <= 64 && !strings.ContainsAny(strings.TrimSuffix(name, "#ephemeral"), " \n#") && name != "#ephemeral"
	}
	isAboutChannel := strings.HasPrefix(e.String(), "channel")
	switch {
	case e == Event{}:
		return errZeroEvent
	case !valid(e.change.Topic), isAboutChannel && !valid(e.change.Channel):
		return ErrInvalidName
	}
	topic := b[e.change.Topic]
	var known bool
	if topic != nil {
		_, known = topic.channels[e.change.Channel]
	}
	switch e {
	case TopicCreated(e.change.Topic):
		if topic == nil {
			b[e.change.Topic] = &brokerTopic{channels: make(map[string]bool)}
		}
	case TopicDeleted(e.change.Topic):
		delete(b, e.change.Topic)
	case TopicPaused(e.change.Topic), TopicUnpaused(e.change.Topic):
		if topic == nil {
			return ErrUnknown
		}
		topic.paused = e == TopicPaused(e.change.Topic)
	case ChannelCreated(e.change.Topic, e.change.Channel):
		if topic == nil {
			return ErrUnknown
		}
		if !known {
			topic.channels[e.change.Channel] = false
		}
	case ChannelDeleted(e.change.Topic, e.change.Channel):
		if known {
			delete(topic.channels, e.change.Channel)
		}
	default:
		if !known {
			return ErrUnknown
		}
		topic.channels[e.change.Channel] = e == ChannelPaused(e.change.Topic, e.change.Channel)
	}
	return nil
}

var errZeroEvent = errors.New("zero event")

func (b broker) metadata() Metadata {
	m := Metadata{Version: defaultVersion, Topics: []TopicMetadata{}}
	for name, topic := range b {
		channels := []ChannelMetadata{}
		for channel, paused := range topic.channels {
			channels = append(channels, ChannelMetadata{channel, paused})
		}
		m.Topics = append(m.Topics, TopicMetadata{name, topic.paused, channels})
	}
	return sorted(m)
}

// sorted sorts by name.
func sorted(m Metadata) Metadata {
	slices.SortFunc(m.Topics, func(a, b TopicMetadata) int { return cmp.Compare(a.Name, b.Name) })
	for _, topic := range m.Topics {
		slices.SortFunc(topic.Channels, func(a, b ChannelMetadata) int { return cmp.Compare(a.Name, b.Name) })
	}
	return m
}

func (b broker) requireEqual(t require.TestingT, loop *Loop) {
	m := b.metadata()
	require.Equal(t, m, sorted(loop.Metadata()))
	channels := 0
	for _, topic := range m.Topics {
		channels += len(topic.Channels)
	}
	status := loop.Status()
	require.Equal(t, []int{len(m.Topics), channels}, []int{status.Topics, status.Channels}, "what Status counts")
}

// What follows is asked while everything else goes on, and must be true.

// persist notes what a confirmation says about the disk.
func (w *simWorld) persist(loop *Loop) {
	w.model.mu.Lock()
	called := w.model.current()
	w.model.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	err := loop.PersistMetadata(ctx)
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	switch {
	case err == nil:
		w.model.confirm(called)
		var m Metadata
		err := json.Unmarshal([]byte(w.disk.Files()[nsqdat.Name]), &m)
		if text := persistentText(m); err != nil || !slices.Contains(w.model.persisted, text) {
			w.failf("PersistMetadata returned, and on disk is %q (%v), not one of %q", text, err, w.model.persisted)
		}
	case errors.Is(err, ErrClosed), errors.Is(err, errDiskFull), errors.Is(err, context.DeadlineExceeded), errors.Is(err, nsqdattest.ErrMachineStopped):
	default:
		w.failf("PersistMetadata: %v", err)
	}
}

// waitRegistered returns a call of WaitRegistered for n lookupds, or for all.
func (w *simWorld) waitRegistered(n int) func(*Loop) {
	return func(loop *Loop) {
		called := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err := loop.WaitRegistered(ctx, n)
		w.model.mu.Lock()
		defer w.model.mu.Unlock()
		switch knowing := w.wire.numKnowing(w.model.lasting(called), called); {
		case err == nil && knowing < n:
			w.failf("WaitRegistered(%d) returned after %v, and %d know everything", n, time.Since(called), knowing)
		case err == nil, errors.As(err, new(*ResponseError)), errors.Is(err, ErrClosed), errors.Is(err, context.DeadlineExceeded):
		default:
			w.failf("WaitRegistered(%d): %v", n, err)
		}
	}
}

func (w *simWorld) registered(n int) {
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	err := w.loop.Registered(n)
	switch knowing := w.wire.numKnowing(w.model.births(), time.Now()); {
	case err == nil && knowing < n:
		w.failf("Registered(%d) is nil, and %d know everything", n, knowing)
	case err == nil, errors.Is(err, ErrNotRegistered), errors.As(err, new(*ResponseError)):
	default:
		w.failf("Registered(%d): %v", n, err)
	}
}

// verify looks for findings about names that were not as found when it began, or not
// when it ended. A stale name may have been deleted during the first look.
func (w *simWorld) verify(loop *Loop) {
	called := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	v, _ := loop.Verify(ctx) // an error is to be expected, lookupds being what they are
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	for _, f := range v.Findings {
		if f.Topic == "" { // it is about the connection
			continue
		}
		name := strings.TrimSpace(f.Topic + " " + f.Channel)
		now := time.Now()
		isSo := w.model.existed(name, called) && w.model.existed(name, now)
		if f.Kind == Stale {
			isSo = w.model.wasMissingAmid(name, called, now.Add(-verifyPause)) && w.model.wasMissing(name, now)
		}
		if !isSo {
			w.failf("Verify found %v, which was not so at the broker when it was called or %v later", f, now.Sub(called))
		}
	}
}

func (w *simWorld) askChannels(loop *Loop) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	loop.TopicChannels(ctx, "a") // an error is to be expected, lookupds being what they are
}

// drain lets the Loop leave discovery, the broker go on, and comes back.
func (w *simWorld) drain(batches [][]Event) {
	again := w.configured
	for _, i := range again {
		w.leave(i)
	}
	w.configured, w.steadySince = nil, time.Time{}
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := w.loop.Drain(ctx); err != nil || time.Since(began) > leaveTimeout {
		w.failf("Drain after %v: %v", time.Since(began), err)
	}
	for _, batch := range batches {
		w.notifyOnce(batch)
		w.pause(200 * time.Millisecond)
		if n := w.wire.numOpen(); n > 0 {
			w.failf("%d connections are open after Drain", n)
		}
	}
	w.setAddresses(again)
	w.beginSteady()
}
