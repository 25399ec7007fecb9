package lookuploop

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
)

// simModel is what the broker of a simulation has, and when it had what. mu is
// the lock that the documentation of Notify asks embedders for: whoever calls
// Notify holds it until the model has changed too.
type simModel struct {
	mu        sync.Mutex
	broker    broker
	lives     map[string][]simLife // by "topic" and "topic channel", oldest first
	persisted []string             // what may be on disk: what was confirmed last, then each state that followed
	confirmed int                  // the number of the first of these, counted from the beginning
}

// simLife is a time in which a name existed.
type simLife struct {
	from, to time.Time // to is zero while it does
}

func newSimModel() *simModel {
	return &simModel{broker: newBroker(), lives: make(map[string][]simLife), persisted: []string{persistentText(Metadata{})}}
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
func (m *simModel) wasMissing(name string, at time.Time) bool {
	for _, life := range m.lives[name] {
		if life.from.Before(at) && (life.to.IsZero() || life.to.After(at)) {
			return false
		}
	}
	return true
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

// simWire watches what a Loop writes to its lookupds, and that it closes what it opens.
type simWire struct {
	mu     sync.Mutex
	open   map[*simConn]bool
	dials  map[string]int // by address, those that failed among them
	conns  []*simConn     // all there ever were
	writes []simWrite
}

// simWrite is what was written at once.
type simWrite struct {
	conn  *simConn
	at    time.Time
	lines []string
}

// simConn is a connection of the Loop.
type simConn struct {
	net.Conn
	wire    *simWire
	address string
	dialed  time.Time
	isProbe bool        // it was dialed while there was another one
	closed  time.Time   // guarded by the wire's mu, as said is
	said    []time.Time // when IDENTIFY and PING were written
}

func newSimWire() *simWire {
	return &simWire{open: make(map[*simConn]bool), dials: make(map[string]int)}
}

type simDial func(ctx context.Context, network, address string) (net.Conn, error)

func (w *simWire) watch(dial simDial) simDial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed := time.Now()
		w.mu.Lock()
		w.dials[address]++
		w.mu.Unlock()
		raw, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c := &simConn{Conn: raw, wire: w, address: address, dialed: dialed}
		w.mu.Lock()
		for other := range w.open {
			c.isProbe = c.isProbe || other.address == address
		}
		w.open[c] = true
		w.conns = append(w.conns, c)
		w.mu.Unlock()
		return c, nil
	}
}

func (c *simConn) Write(p []byte) (int, error) {
	w := simWrite{conn: c, at: time.Now()}
	c.wire.mu.Lock()
	if bytes.HasPrefix(p, []byte("  V1IDENTIFY\n")) {
		c.said = append(c.said, w.at)
	} else {
		w.lines = strings.Split(strings.TrimSuffix(string(p), "\n"), "\n")
		if w.lines[0] == "PING" {
			c.said = append(c.said, w.at)
		}
		c.wire.writes = append(c.wire.writes, w)
	}
	c.wire.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *simConn) Close() error {
	c.wire.mu.Lock()
	if c.wire.open[c] {
		delete(c.wire.open, c)
		c.closed = time.Now()
	}
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

func (w *simWire) numOpen() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

func (w *simWire) numDials(address string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[address]
}

// longestSilence is the longest time between two heartbeats on a connection,
// until it ended or, as there is none in a farewell, until the Loop was told to
// leave.
func (c *simConn) longestSilence(left []time.Time) (silence time.Duration) {
	for i := 1; i < len(c.said); i++ {
		silence = max(silence, c.said[i].Sub(c.said[i-1]))
	}
	if len(c.said) == 0 {
		return silence
	}
	last, end := c.said[len(c.said)-1], c.closed
	for _, at := range left {
		if at.After(last) && at.Before(end) {
			end = at
		}
	}
	return max(silence, end.Sub(last))
}
