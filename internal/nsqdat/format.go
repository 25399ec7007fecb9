package nsqdat

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"

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
	Version  string   // of the broker that wrote it; nothing depends on it
	Topics   int      // how many there are
	Channels int      // in all topics together
	IsClean  bool     // the file is there, for good, and is what a Writer would make of this
	LeftOut  []string // describes each name that NSQ doesn't allow, with what it would have had

	topics []topic
}

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
// is one, paused if either says so.
func sanitize(m metadata) *Contents {
	type channelKey struct{ topic, channel string }
	topics := make(map[string]int, len(m.Topics)) // index in c.topics
	channels := make(map[channelKey]int)          // index in the Channels of its topic

	c := &Contents{Version: m.Version}
	for _, t := range m.Topics {
		if !nsq.IsValidTopicName(t.Name) {
			c.LeftOut = append(c.LeftOut, fmt.Sprintf("topic %q with its %d channels", t.Name, len(t.Channels)))
			continue
		}
		at, known := topics[t.Name]
		if !known {
			at = len(c.topics)
			topics[t.Name] = at
			c.topics = append(c.topics, topic{Name: t.Name})
		}
		clean := &c.topics[at]
		clean.Paused = clean.Paused || t.Paused

		for _, ch := range t.Channels {
			if !nsq.IsValidChannelName(ch.Name) {
				c.LeftOut = append(c.LeftOut, fmt.Sprintf("channel %q of topic %q", ch.Name, t.Name))
				continue
			}
			key := channelKey{t.Name, ch.Name}
			if at, known := channels[key]; known {
				clean.Channels[at].Paused = clean.Channels[at].Paused || ch.Paused
				continue
			}
			channels[key] = len(clean.Channels)
			clean.Channels = append(clean.Channels, ch)
		}
	}
	c.Topics, c.Channels = len(topics), len(channels)
	return c
}

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
