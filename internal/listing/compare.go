package listing

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// View is what one lookupd shows.
type View struct {
	Lookupd string
	Nodes   []Node           // nil: it wasn't asked for them
	Topics  map[string]Topic // those that it was asked for
}

// Compare returns what consumers of this lookupd find that isn't so. Of the
// broker's topics it looks at those that the lookupd was asked for. Without Nodes
// it can't tell that a topic is tombstoned, which is not listed then, and finds
// only those stale topics that the lookupd was asked for.
func Compare(b Broker, v View) []Finding {
	c := comparison{broker: b, view: v}
	if !c.connections() {
		return c.found
	}
	for _, topic := range slices.Sorted(maps.Keys(v.Topics)) {
		if channels, ok := b.Topics[topic]; ok {
			c.topic(topic, channels)
		}
	}
	c.stale()
	return c.found
}

// CompareSteady is Compare for a broker that may have changed while the lookupd
// was asked. before and after are what it had, channels by topic; about names that
// are only in one of them nothing is found.
func CompareSteady(p Producer, before, after map[string][]string, v View) []Finding {
	b := Broker{Producer: p, Topics: maps.Clone(after)}
	v.Topics = maps.Clone(v.Topics)
	for topic := range v.Topics {
		_, was := before[topic]
		_, is := after[topic]
		switch {
		case was != is:
			delete(v.Topics, topic)
		case was:
			b.Topics[topic] = common(before[topic], after[topic])
		}
	}
	for topic := range before {
		if _, is := after[topic]; !is {
			b.Topics[topic] = nil // not stale: it was there a moment ago
		}
	}
	return Compare(b, v)
}

// common returns the names of b that are in a, too.
func common(a, b []string) []string {
	in := make(map[string]bool, len(a))
	for _, name := range a {
		in[name] = true
	}
	return slices.DeleteFunc(slices.Clone(b), func(name string) bool { return !in[name] })
}

// comparison is one call of Compare.
type comparison struct {
	broker Broker
	view   View
	found  []Finding
}

func (c *comparison) add(kind Kind, topic, channel, detail string) {
	c.found = append(c.found, Finding{kind, c.view.Lookupd, c.broker.Address(), topic, channel, detail})
}

// isOurs tells the broker from all others.
func (c *comparison) isOurs(p Producer) bool {
	return p.Address() == c.broker.Address() && p.HTTPPort == c.broker.HTTPPort && p.Hostname == c.broker.Hostname
}

// isMoved says whether p looks like the broker at another address. Two brokers of
// one machine differ in both ports, so only one of host and ports may differ.
func (c *comparison) isMoved(p Producer) bool {
	differ := 0
	for _, d := range []bool{
		p.BroadcastAddress != c.broker.BroadcastAddress, p.TCPPort != c.broker.TCPPort, p.HTTPPort != c.broker.HTTPPort,
	} {
		if d {
			differ++
		}
	}
	return differ == 1 && p.Hostname == c.broker.Hostname
}

// connections looks at where and how often the broker is listed, whatever for. It
// returns false if it is useless to go on to topics.
func (c *comparison) connections() bool {
	producers := c.producers()
	listed := slices.ContainsFunc(producers, c.isOurs)
	var moved []Producer
	var remotes, otherVersions []string
	for _, p := range producers {
		switch {
		case c.isOurs(p):
			remotes = append(remotes, p.RemoteAddress)
			if p.Version != c.broker.Version {
				otherVersions = append(otherVersions, p.Version)
			}
		case !listed && c.isMoved(p):
			moved = append(moved, p)
		case p.Address() == c.broker.Address():
			c.add(AddressShared, "", "", seenAs(p))
		}
	}
	switch {
	case len(moved) > 0:
		c.add(ListedElsewhere, "", "", seenAs(moved[0]))
		return false
	case !listed && c.view.Nodes != nil:
		c.add(NotListed, "", "", "the lookupd has no connection of the broker")
		return false
	case len(remotes) > 1:
		c.add(ListedTwice, "", "", "connected from "+strings.Join(remotes, ", "))
	case len(otherVersions) > 0:
		c.add(OtherVersion, "", "", fmt.Sprintf("%s, not %s", otherVersions[0], c.broker.Version))
	}
	return true
}

// producers returns all connections that were seen, in the order of their addresses.
func (c *comparison) producers() []Producer {
	seen := make(map[Producer]bool)
	for _, n := range c.view.Nodes {
		seen[n.Producer] = true
	}
	for _, t := range c.view.Topics {
		for _, p := range t.Producers {
			seen[p] = true
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b Producer) int { return cmp.Compare(a.RemoteAddress, b.RemoteAddress) })
}

func seenAs(p Producer) string {
	return fmt.Sprintf("%s, HTTP port %d, host name %s, version %s, connected from %s",
		p.Address(), p.HTTPPort, p.Hostname, p.Version, p.RemoteAddress)
}

// topic looks at one that the broker has.
func (c *comparison) topic(topic string, channels []string) {
	shown := c.view.Topics[topic]
	switch {
	case slices.ContainsFunc(shown.Producers, c.isOurs):
		known := make(map[string]bool, len(shown.Channels))
		for _, channel := range shown.Channels {
			known[channel] = true
		}
		for _, channel := range channels {
			if !known[channel] {
				c.add(ChannelMissing, topic, channel, "")
			}
		}
	case slices.ContainsFunc(c.view.Nodes, func(n Node) bool { return c.isOurs(n.Producer) && n.Topics[topic] }):
		c.add(Tombstoned, topic, "", "")
	case shown.Known:
		c.add(NotListed, topic, "", "the lookupd knows the topic, but not of the broker")
	default:
		c.add(NotListed, topic, "", "the lookupd doesn't know the topic")
	}
}

// stale looks for topics that the broker doesn't have. Tombstoned ones are no
// finding: consumers don't see them.
func (c *comparison) stale() {
	topics := make(map[string]bool)
	for _, n := range c.view.Nodes {
		if c.isOurs(n.Producer) {
			for topic, tombstoned := range n.Topics {
				topics[topic] = topics[topic] || !tombstoned
			}
		}
	}
	for topic, shown := range c.view.Topics {
		topics[topic] = topics[topic] || slices.ContainsFunc(shown.Producers, c.isOurs)
	}
	for _, topic := range slices.Sorted(maps.Keys(topics)) {
		if _, has := c.broker.Topics[topic]; !has && topics[topic] {
			c.add(Stale, topic, "", "")
		}
	}
}

// Differences returns which topics only some lookupds know, given the names that
// each knows. Those that a broker has are left out: that is up to Compare.
func Differences(names map[string][]string, brokers []Broker) []Finding {
	lookupds := slices.Sorted(maps.Keys(names))
	knownBy := make(map[string][]string) // lookupds by topic
	for _, lookupd := range lookupds {
		for _, topic := range names[lookupd] {
			knownBy[topic] = append(knownBy[topic], lookupd)
		}
	}
	for _, b := range brokers {
		for topic := range b.Topics {
			delete(knownBy, topic)
		}
	}
	var found []Finding
	for _, topic := range slices.Sorted(maps.Keys(knownBy)) {
		for _, lookupd := range lookupds {
			if !slices.Contains(knownBy[topic], lookupd) {
				found = append(found, Finding{Kind: NamesDiffer, Lookupd: lookupd, Topic: topic,
					Detail: "known by " + strings.Join(knownBy[topic], ", ")})
			}
		}
	}
	return found
}
