package lookuploop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/nsqio/go-nsq"
)

// Metadata is a set of topics with their channels: what a broker has. Its JSON
// form is the content of nsqd.dat, as nsqd v1 reads and writes it.
type Metadata struct {
	Topics []TopicMetadata `json:"topics"`

	// Version is that of the broker that wrote the file; nothing depends on it.
	Version string `json:"version"`
}

// TopicMetadata is one topic of a [Metadata].
type TopicMetadata struct {
	Name     string            `json:"name"`
	Paused   bool              `json:"paused"`
	Channels []ChannelMetadata `json:"channels"`
}

// ChannelMetadata is one channel of a [TopicMetadata].
type ChannelMetadata struct {
	Name   string `json:"name"`
	Paused bool   `json:"paused"`
}

// validate returns every invalid name and every name that m declares twice.
func (m Metadata) validate() error {
	var faults []error
	topics := make(map[string]bool, len(m.Topics))
	channels := make(map[string]bool) // of the topic at hand
	for _, t := range m.Topics {
		switch {
		case !nsq.IsValidTopicName(t.Name):
			faults = append(faults, fmt.Errorf("%w: topic %q", ErrInvalidName, t.Name))
		case topics[t.Name]:
			faults = append(faults, fmt.Errorf("lookuploop: topic %q is declared twice", t.Name))
		}
		topics[t.Name] = true

		clear(channels)
		for _, c := range t.Channels {
			switch {
			case !nsq.IsValidChannelName(c.Name):
				faults = append(faults, fmt.Errorf("%w: channel %q of topic %q", ErrInvalidName, c.Name, t.Name))
			case channels[c.Name]:
				faults = append(faults, fmt.Errorf("lookuploop: channel %q of topic %q is declared twice", c.Name, t.Name))
			}
			channels[c.Name] = true
		}
	}
	return errors.Join(faults...)
}

// sanitize returns what nsqd makes of a file that holds m, creating one name
// after the other: a name that is invalid is left out (skipped describes it, for
// a warning), one that is there twice is one, paused if either says so.
func sanitize(m Metadata) (clean Metadata, skipped []string) {
	type channelKey struct{ topic, channel string }
	topics := make(map[string]int, len(m.Topics)) // index in clean.Topics
	channels := make(map[channelKey]int)          // index in the Channels of its topic

	clean.Version = m.Version
	for _, t := range m.Topics {
		if !nsq.IsValidTopicName(t.Name) {
			skipped = append(skipped, fmt.Sprintf("topic %q with its %d channels", t.Name, len(t.Channels)))
			continue
		}
		at, known := topics[t.Name]
		if !known {
			at = len(clean.Topics)
			topics[t.Name] = at
			clean.Topics = append(clean.Topics, TopicMetadata{Name: t.Name})
		}
		topic := &clean.Topics[at]
		topic.Paused = topic.Paused || t.Paused

		for _, c := range t.Channels {
			if !nsq.IsValidChannelName(c.Name) {
				skipped = append(skipped, fmt.Sprintf("channel %q of topic %q", c.Name, t.Name))
				continue
			}
			key := channelKey{t.Name, c.Name}
			if at, known := channels[key]; known {
				topic.Channels[at].Paused = topic.Channels[at].Paused || c.Paused
				continue
			}
			channels[key] = len(topic.Channels)
			topic.Channels = append(topic.Channels, c)
		}
	}
	return clean, skipped
}

// decodeMetadata parses the content of a nsqd.dat. As in nsqd, null is an empty
// list and unknown fields are ignored; an empty file is corrupt. The error says
// at which byte, counted from 1, parsing ended.
func decodeMetadata(data []byte) (Metadata, error) {
	var m Metadata
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
	return Metadata{}, fmt.Errorf("byte %d of %d: %w", offset, len(data), err)
}

// encode writes m as one line of JSON, name by name, so that a large m isn't in
// memory a second time. An empty list is [], which every nsqd reads.
func (m Metadata) encode(dst io.Writer) error {
	w := bufio.NewWriter(dst) // keeps the first error for Flush
	w.WriteString(`{"topics":[`)
	for i, t := range m.Topics {
		if i > 0 {
			w.WriteByte(',')
		}
		encodeHead(w, t.Name, t.Paused)
		w.WriteString(`,"channels":[`)
		for i, c := range t.Channels {
			if i > 0 {
				w.WriteByte(',')
			}
			encodeHead(w, c.Name, c.Paused)
			w.WriteByte('}')
		}
		w.WriteString(`]}`)
	}
	w.WriteString(`],"version":`)
	encodeString(w, m.Version)
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
