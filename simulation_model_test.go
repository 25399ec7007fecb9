package lookuploop

import (
	"fmt"
	"strings"
	"sync"
	"time"
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
