package nsqdat

import (
	"fmt"
	"slices"
	"strings"

	"github.com/nsqio/go-nsq"
)

// sanitize returns what nsqd makes of a file that holds m, creating one name
// after the other: a name that is invalid is left out, one that is there twice
// is one, paused if either says so. It makes use of m's memory.
func sanitize(m metadata) *Contents {
	c := &Contents{Version: m.Version, IsClean: true, topics: m.Topics[:0]}
	index := make(map[string]int, len(m.Topics)) // in c.topics
	for _, t := range m.Topics {
		at, isKnown := index[t.Name]
		switch {
		case !isValid(t.Name):
			c.leaveOut("topic %.100q with its %d channels", t.Name, len(t.Channels))
		case isKnown:
			known := &c.topics[at]
			known.Paused = known.Paused || t.Paused
			known.Channels = append(known.Channels, t.Channels...)
			c.IsClean = false
		default:
			index[t.Name] = len(c.topics)
			c.topics = append(c.topics, t)
			c.IsClean = c.IsClean && !isEphemeral(t.Name)
		}
	}
	c.Topics = len(c.topics)
	for i := range c.topics {
		c.sanitizeChannels(&c.topics[i])
		c.Channels += len(c.topics[i].Channels)
	}
	return c
}

func (c *Contents) sanitizeChannels(t *topic) {
	var index map[string]int // in clean; a few are found without
	if len(t.Channels) > 16 {
		index = make(map[string]int, len(t.Channels))
	}
	clean := t.Channels[:0]
	for _, ch := range t.Channels {
		at, isKnown := index[ch.Name]
		if index == nil {
			at = slices.IndexFunc(clean, func(other channel) bool { return other.Name == ch.Name })
			isKnown = at >= 0
		}
		switch {
		case !isValid(ch.Name):
			c.leaveOut("channel %.100q of topic %q", ch.Name, t.Name)
		case isKnown:
			clean[at].Paused = clean[at].Paused || ch.Paused
			c.IsClean = false
		default:
			if index != nil {
				index[ch.Name] = len(clean)
			}
			clean = append(clean, ch)
			c.IsClean = c.IsClean && !isEphemeral(ch.Name)
		}
	}
	t.Channels = clean
}

func (c *Contents) leaveOut(format string, args ...any) {
	c.LeftOut.Count++
	if len(c.LeftOut.Some) < maxLeftOut {
		c.LeftOut.Some = append(c.LeftOut.Some, fmt.Sprintf(format, args...))
	}
	c.IsClean = false
}

// isValid tells whether NSQ allows the name: it has one rule for topics and
// channels. Almost all names need no regular expression for that.
func isValid(name string) bool {
	for _, c := range []byte(name) {
		isPlain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
		if !isPlain {
			return nsq.IsValidTopicName(name)
		}
	}
	return 1 <= len(name) && len(name) <= 64
}

// isEphemeral tells whether the name of something doesn't belong into a file.
func isEphemeral(name string) bool { return strings.HasSuffix(name, "#ephemeral") }
