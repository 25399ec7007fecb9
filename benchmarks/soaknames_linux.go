package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/lookuploop/lookuploop"
)

// How many topics the broker of a soak has on average, and at most about how many
// channels a topic has.
const (
	soakTopics   = 200
	soakChannels = 4
)

// soakNames are "topic" and "topic channel", and whether they are paused: what a
// broker has, kept in the plainest way.
type soakNames map[string]bool

func namesOf(m lookuploop.Metadata) soakNames {
	names := make(soakNames)
	for _, topic := range m.Topics {
		names[topic.Name] = topic.Paused
		for _, channel := range topic.Channels {
			names[topic.Name+" "+channel.Name] = channel.Paused
		}
	}
	return names
}

func (n soakNames) metadata() (m lookuploop.Metadata) {
	for _, topic := range n.topics() {
		t := lookuploop.TopicMetadata{Name: topic, Paused: n[topic]}
		for _, channel := range n.channels(topic) {
			t.Channels = append(t.Channels, lookuploop.ChannelMetadata{Name: channel, Paused: n[topic+" "+channel]})
		}
		m.Topics = append(m.Topics, t)
	}
	return m
}

// topics are the topics, sorted.
func (n soakNames) topics() (topics []string) {
	for name := range n {
		if !strings.Contains(name, " ") {
			topics = append(topics, name)
		}
	}
	slices.Sort(topics)
	return topics
}

// channels are the channels of a topic, sorted.
func (n soakNames) channels(topic string) (channels []string) {
	for name := range n {
		if channel, ok := strings.CutPrefix(name, topic+" "); ok {
			channels = append(channels, channel)
		}
	}
	slices.Sort(channels)
	return channels
}

// persistent is what of them belongs into nsqd.dat.
func (n soakNames) persistent() soakNames {
	names := maps.Clone(n)
	maps.DeleteFunc(names, func(name string, _ bool) bool { return strings.Contains(name, "#ephemeral") })
	return names
}

// listed is how often a lookupd should list each name: once.
func (n soakNames) listed() map[string]int {
	listed := make(map[string]int)
	for name := range n {
		listed[name] = 1
	}
	return listed
}

// apply makes a change.
func (n soakNames) apply(c soakChange) {
	name := c.Topic
	if c.Channel != "" {
		name += " " + c.Channel
	}
	_, isThere := n[name]
	switch {
	case c.What == deletes:
		maps.DeleteFunc(n, func(other string, _ bool) bool { return other == name || strings.HasPrefix(other, name+" ") })
	case c.What != creates:
		n[name] = c.What == pauses
	case !isThere:
		n[name] = false
	}
}

// draw draws n changes, one after another, and returns them with what is there then.
// Topics have numbers from first on.
func (n soakNames) draw(random *rand.Rand, count, first int) ([]soakChange, soakNames) {
	var changes []soakChange
	names := maps.Clone(n)
	for range count {
		change := names.drawOne(random, first)
		names.apply(change)
		changes = append(changes, change)
	}
	return changes, names
}

// drawOne draws a change that is possible. It keeps the numbers of topics and
// channels near to what they should be.
func (n soakNames) drawOne(random *rand.Rand, first int) soakChange {
	oneOf := func(names []string) string { return names[random.IntN(len(names))] }
	kind, topics := random.IntN(5), n.topics()
	if len(topics) == 0 || kind == 0 && random.IntN(2*soakTopics) >= len(topics) {
		return soakChange{creates, topicName(first + random.IntN(2*soakTopics)), ""}
	}
	topic := oneOf(topics)
	channels := n.channels(topic)
	switch {
	case kind == 0:
		return soakChange{deletes, topic, ""}
	case kind < 3 && random.IntN(2*soakChannels) >= len(channels):
		return soakChange{creates, topic, channelName(random.IntN(3 * soakChannels))}
	case kind < 3:
		return soakChange{deletes, topic, oneOf(channels)}
	}
	channel := ""
	if kind == 4 && len(channels) > 0 {
		channel = oneOf(channels)
	}
	return soakChange{oneOf([]string{pauses, unpauses}), topic, channel}
}

func topicName(i int) string   { return ephemeral(fmt.Sprintf("topic-%03d", i), i%8 == 0) }
func channelName(i int) string { return ephemeral(fmt.Sprintf("channel-%d", i), i%4 == 0) }

func ephemeral(name string, is bool) string {
	if is {
		name += "#ephemeral"
	}
	return name
}

// difference says how two sets of names differ. It is nil if they don't.
func difference[V comparable](want, got map[string]V) error {
	var all []string
	for name, value := range want {
		if other, ok := got[name]; !ok {
			all = append(all, name+" is missing")
		} else if other != value {
			all = append(all, fmt.Sprintf("%s: %v instead of %v", name, other, value))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			all = append(all, name+" shouldn't be there")
		}
	}
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	return fmt.Errorf("%d differences from %d names, such as %q", len(all), len(want), all[:min(len(all), 10)])
}
