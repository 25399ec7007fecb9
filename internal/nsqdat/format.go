package nsqdat

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/nsqio/go-nsq"
)

// Item is a topic, or one of its channels. Channels follow their topic.
type Item struct {
	Topic   string
	Channel string // empty: the topic itself
	Paused  bool
}

// Contents is what a file holds.
type Contents struct {
	Version  string  // of the broker that wrote it; nothing depends on it
	Topics   int     // how many there are
	Channels int     // in all topics together
	IsClean  bool    // the file is there, for good, and is what a Writer would make of this
	LeftOut  LeftOut // names that NSQ doesn't allow
	Nsqd03   string  // the name of a file of nsqd 0.3, if that is all that there is; it isn't read

	topics []topic
}

// LeftOut is what was left out of a file. There may be any number.
type LeftOut struct {
	Count int
	Some  []string // describes the first few
}

const maxLeftOut = 10 // in Some

// Items yields the topics and channels, each once, in the order of the file.
func (c *Contents) Items() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for _, t := range c.topics {
			if !yield(Item{Topic: t.Name, Paused: t.Paused}) {
				return
			}
			for _, ch := range t.Channels {
				if !yield(Item{Topic: t.Name, Channel: ch.Name, Paused: ch.Paused}) {
					return
				}
			}
		}
	}
}

// The JSON form of the file.
type (
	metadata struct {
		Topics  []topic `json:"topics"`
		Version string  `json:"version"`
	}
	topic struct {
		Name     string    `json:"name"`
		Paused   bool      `json:"paused"`
		Channels []channel `json:"channels"`
	}
	channel struct {
		Name   string `json:"name"`
		Paused bool   `json:"paused"`
	}
)

// decode parses the content of a file. As in nsqd, null is an empty list and
// unknown fields are ignored; an empty file is corrupt. The error says at which
// byte, counted from 1, parsing ended.
func decode(data []byte) (metadata, error) {
	var m metadata
	err := json.Unmarshal(data, &m)
	if err == nil {
		return m, nil
	}
	var offset int64
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	} else if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = mismatch.Offset
	}
	return metadata{}, fmt.Errorf("byte %d of %d: %w", offset, len(data), err)
}

// sanitize returns what nsqd makes of a file that holds m, creating one name
// after the other: a name that is invalid is left out, one that is there twice
// is one, paused if either says so. It makes use of m's memory.
func sanitize(m metadata) *Contents {
	c := &Contents{Version: m.Version, IsClean: true, topics: m.Topics[:0]}
	index := make(map[string]int, len(m.Topics)) // in c.topics
	for _, t := range m.Topics {
		at, isKnown := index[t.Name]
		switch {
		case !nsq.IsValidTopicName(t.Name):
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
		case !nsq.IsValidChannelName(ch.Name):
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

// isEphemeral tells whether the name of something doesn't belong into a file.
func isEphemeral(name string) bool { return strings.HasSuffix(name, "#ephemeral") }

// encode writes items as one line of JSON, until a write fails. An empty list
// is [], which every nsqd reads.
func encode(dst io.Writer, items iter.Seq[Item], version string) error {
	w := bufio.NewWriter(dst) // keeps the first error for Flush
	w.WriteString(`{"topics":[`)
	topics, channels := 0, 0 // so far, these of the last topic
	for item := range items {
		var err error
		if item.Channel == "" {
			if topics > 0 {
				w.WriteString(`]},`)
			}
			encodeHead(w, item.Topic, item.Paused)
			_, err = w.WriteString(`,"channels":[`)
			topics, channels = topics+1, 0
		} else {
			if channels > 0 {
				w.WriteByte(',')
			}
			encodeHead(w, item.Channel, item.Paused)
			err = w.WriteByte('}')
			channels++
		}
		if err != nil {
			break
		}
	}
	if topics > 0 {
		w.WriteString(`]}`)
	}
	w.WriteString(`],"version":`)
	encodeString(w, version)
	w.WriteByte('}')
	return w.Flush()
}

// encodeHead writes the fields that topics and channels share, and leaves the object open.
func encodeHead(w *bufio.Writer, name string, paused bool) {
	w.WriteString(`{"name":`)
	encodeString(w, name)
	w.WriteString(`,"paused":`)
	w.Write(strconv.AppendBool(w.AvailableBuffer(), paused))
}

func encodeString(w *bufio.Writer, s string) {
	quoted, _ := json.Marshal(s) // can't fail on a string
	w.Write(quoted)
}
