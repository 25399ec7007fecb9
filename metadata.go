package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nsqio/go-nsq"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
)

// Metadata is what a broker has: topics with their channels. Its JSON form is the
// content of nsqd.dat, as nsqd v1 reads and writes it.
type Metadata struct {
	Topics []TopicMetadata `json:"topics"`

	// Version is the version of the broker that wrote the file. It is informational.
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

// newMetadata makes a Metadata of what the registry says.
func newMetadata(content registry.Content, version string) Metadata {
	m := Metadata{Topics: make([]TopicMetadata, 0, content.Topics), Version: version}
	channels := make([]ChannelMetadata, 0, content.Channels) // of all topics, one after another
	for item := range content.Items {
		if item.Channel == "" {
			m.Topics = append(m.Topics, TopicMetadata{Name: item.Topic, Paused: item.Paused, Channels: channels[len(channels):]})
			continue
		}
		channels = append(channels, ChannelMetadata{Name: item.Channel, Paused: item.Paused})
		t := &m.Topics[len(m.Topics)-1]
		n := len(t.Channels) + 1
		t.Channels = channels[len(channels)-n : len(channels) : len(channels)]
	}
	return m
}

// items is m as the registry wants it.
func (m Metadata) items() iter.Seq[registry.Item] {
	return func(yield func(registry.Item) bool) {
		for _, t := range m.Topics {
			if !yield(registry.Item{Topic: t.Name, Paused: t.Paused}) {
				return
			}
			for _, c := range t.Channels {
				if !yield(registry.Item{Topic: t.Name, Channel: c.Name, Paused: c.Paused}) {
					return
				}
			}
		}
	}
}

// validate returns every invalid name and every name that m declares twice.
func (m Metadata) validate() error {
	var faults []error
	topics := make(map[string]bool, len(m.Topics))
	channels := make(map[string]bool) // of the topic at hand
	for _, t := range m.Topics {
		switch {
		case !nsq.IsValidTopicName(t.Name):
			faults = append(faults, fmt.Errorf("%w: topic %q: %s", ErrInvalidName, t.Name, registry.NameRule))
		case topics[t.Name]:
			faults = append(faults, fmt.Errorf("lookuploop: topic %q is declared twice", t.Name))
		}
		topics[t.Name] = true

		clear(channels)
		for _, c := range t.Channels {
			switch {
			case !nsq.IsValidChannelName(c.Name):
				faults = append(faults, fmt.Errorf("%w: channel %q of topic %q: %s", ErrInvalidName, c.Name, t.Name, registry.NameRule))
			case channels[c.Name]:
				faults = append(faults, fmt.Errorf("lookuploop: channel %q of topic %q is declared twice", c.Name, t.Name))
			}
			channels[c.Name] = true
		}
	}
	return errors.Join(faults...)
}

// persistent is the part of a registry that belongs into nsqd.dat.
type persistent struct{ *registry.Registry }

func (p persistent) Walk(yield func(nsqdat.Item) bool) (version uint64) {
	content := p.Snapshot(true)
	for item := range content.Items {
		if !yield(nsqdat.Item(item)) {
			break
		}
	}
	return content.Version
}

// metadataOf returns what a file held.
func metadataOf(c *nsqdat.Contents) Metadata {
	m := Metadata{Version: c.Version, Topics: slices.Grow([]TopicMetadata(nil), c.Topics)}
	channels := make([]ChannelMetadata, 0, c.Channels) // of all topics, one after another
	for item := range c.Items() {
		if item.Channel == "" {
			m.Topics = append(m.Topics, TopicMetadata{Name: item.Topic, Paused: item.Paused})
			continue
		}
		channels = append(channels, ChannelMetadata{Name: item.Channel, Paused: item.Paused})
		topic := &m.Topics[len(m.Topics)-1]
		n := len(channels)
		first := n - 1 - len(topic.Channels)
		topic.Channels = channels[first:n:n]
	}
	return m
}

// holdings is what the broker has, as lookupds are compared with it: channels by topic.
type holdings map[string][]string

// holdings returns what the broker has of these topics.
func (l *Loop) holdings(topics []string) holdings {
	held := make(holdings, len(topics))
	for _, name := range topics {
		if items, found := l.reg.Topic(name); found {
			held[name] = nil
			for _, channel := range items[1:] {
				held[name] = append(held[name], channel.Channel)
			}
		}
	}
	return held
}

// allTopics returns the names of all topics that the broker has.
func (l *Loop) allTopics() (topics []string) {
	for item := range l.reg.Snapshot(false).Items {
		if item.Channel == "" {
			topics = append(topics, item.Topic)
		}
	}
	return topics
}

// hadOrHas tells whether the broker has a topic, or had it before.
func (l *Loop) hadOrHas(before []string, topic string) bool {
	_, had := slices.BinarySearch(before, topic)
	_, has := l.reg.Topic(topic)
	return had || has
}

// without returns what is left of h without refused names.
func (h holdings) without(refused []*ResponseError) holdings {
	if len(refused) == 0 {
		return h
	}
	h = maps.Clone(h)
	for _, r := range refused {
		if r.Channel == "" {
			delete(h, r.Topic)
		} else if channels, ok := h[r.Topic]; ok {
			h[r.Topic] = slices.DeleteFunc(slices.Clone(channels), func(name string) bool { return name == r.Channel })
		}
	}
	return h
}

// LoadMetadata restores the topics and channels from nsqd.dat and returns them. It
// locks DataPath until Run or Close returns. The Loop has these topics and channels
// from then on: create them in the broker, but don't pass them to Notify. If there is no file or no DataPath, it
// returns an empty Metadata. A missing file is written when Run begins.
//
// With a DataPath, LoadMetadata must be called once, before Notify, SetMetadata and
// Run. After an error it may be called again. Names that NSQ doesn't allow are
// dropped with a warning, and nsqd.dat is written without them.
//
// Files of nsqd 0.3, such as nsqd.512.dat, are not read. If DataPath has such a
// file and no nsqd.dat, a warning names it. To keep its topics, stop the broker and
// rename the file to nsqd.dat; otherwise move it away. nsqd up to 1.1 refuses to
// start with both files.
//
// LoadMetadata fails if DataPath is not writable. The error is [ErrDataPathLocked]
// if an nsqd or another Loop uses the directory, and [ErrCorruptMetadata] if the
// file can't be parsed. The file is then left unchanged.
func (l *Loop) LoadMetadata() (Metadata, error) {
	if err := l.startLoading(); err != nil {
		return Metadata{}, err
	}
	defer l.loads.Done()
	m, err := l.load()

	l.mu.Lock()
	defer l.mu.Unlock()
	l.loaded.Store(err == nil)
	switch {
	case l.phase == running: // Close was called, and waits
	case err != nil:
		l.phase = fresh
	default:
		l.phase = inUse
	}
	return m, err
}

func (l *Loop) startLoading() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.hasEnded():
		return ErrClosed
	case l.phase != fresh || l.reg.WasChanged():
		return errors.New("lookuploop: LoadMetadata must be the first call, and the only one")
	}
	l.phase = loading
	l.loads.Add(1)
	return nil
}

func (l *Loop) load() (Metadata, error) {
	if l.opts.DataPath == "" {
		return Metadata{}, nil
	}
	file, err := nsqdat.Open(l.disk, l.opts.DataPath)
	if err != nil {
		return Metadata{}, public(err)
	}
	contents, err := file.Load()
	if err != nil {
		return Metadata{}, public(errors.Join(err, file.Close()))
	}
	if n := contents.LeftOut.Count; n > 0 {
		l.opts.Logger.Warn("names that NSQ doesn't allow were left out of the metadata",
			"path", file.Path(), "count", n, "first", strings.Join(contents.LeftOut.Some, ", "))
	}
	if contents.Nsqd03 != "" {
		l.opts.Logger.Warn("this file of nsqd 0.3 is not read: rename it to nsqd.dat to keep its topics, or move it away",
			"path", filepath.Join(l.opts.DataPath, contents.Nsqd03))
	}
	m := metadataOf(contents)
	onDisk := l.reg.Load(m.items())
	l.file = file
	l.writer = nsqdat.NewWriter(file, persistent{l.reg}, l.opts.Version, l.opts.Logger)
	if contents.IsClean { // otherwise it is written again
		l.writer.Loaded(onDisk)
	}
	return m, nil
}

// PersistMetadata waits until everything that was accepted before the call is on
// disk. It returns the error of the first write that began after the call and
// failed; Run retries such writes. If nsqd.dat was removed or replaced, it is
// written again. Without a DataPath, PersistMetadata returns nil.
//
// When ctx ends, the error wraps ctx.Err(). Before Run, PersistMetadata writes the
// file itself, and ctx doesn't interrupt it. Once Run's context has ended it returns
// [ErrClosed].
func (l *Loop) PersistMetadata(ctx context.Context) error {
	if err := l.mayChange(); err != nil {
		return err
	}
	if l.writer == nil {
		return nil
	}
	return public(l.writer.Persist(ctx))
}
