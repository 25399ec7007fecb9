package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nsqio/go-nsq"

	"github.com/lookuploop/lookuploop"
)

// watcher declares what is in a directory.
type watcher struct {
	dir      string
	interval time.Duration
	declare  func(lookuploop.Metadata) error
	logger   *slog.Logger
}

// view is what one look at the directory saw.
type view struct {
	topics []lookuploop.TopicMetadata // sorted by name
	faults []string                   // what was left out, and why
}

// run looks until ctx ends. What it sees counts when two looks in a row saw
// it: a file that is being written isn't complete at first, and what it has at
// the end would go and come back.
func (w *watcher) run(ctx context.Context) error {
	ticker := time.NewTicker(w.interval)
	defer ticker.Stop()
	var before, declared view
	for {
		now := w.look(declared.topics)
		if reflect.DeepEqual(now, before) && !reflect.DeepEqual(now, declared) {
			for _, fault := range now.faults {
				w.logger.Warn("left out", "fault", fault)
			}
			err := w.declare(lookuploop.Metadata{Topics: now.topics})
			if errors.Is(err, lookuploop.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			w.logger.Info("declared", "topics", len(now.topics))
			declared = now
		}
		before = now
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// look reads the directory. What can't be read is as in declared: a disk that
// fails for a moment must not take topics away.
func (w *watcher) look(declared []lookuploop.TopicMetadata) view {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return view{declared, []string{err.Error()}}
	}
	var v view
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		if !nsq.IsValidTopicName(name) {
			v.faults = append(v.faults, fmt.Sprintf("%q can't be the name of a topic", name))
			continue
		}
		text, err := readFile(filepath.Join(w.dir, name))
		switch {
		case err == nil:
			topic, faults := parse(name, text)
			v.topics = append(v.topics, topic)
			v.faults = append(v.faults, faults...)
		case errors.Is(err, fs.ErrNotExist): // gone since the directory was read
		default:
			v.faults = append(v.faults, err.Error())
			i := slices.IndexFunc(declared, func(t lookuploop.TopicMetadata) bool { return t.Name == name })
			if i >= 0 {
				v.topics = append(v.topics, declared[i])
			}
		}
	}
	return v
}

// readFile reads a file, or what a link leads to; reading anything else could wait for ever.
func readFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(path)
	return string(text), err
}

// parse returns the topic whose file has the text, without the lines that are at fault.
func parse(name, text string) (topic lookuploop.TopicMetadata, faults []string) {
	topic.Name = name
	seen := make(map[string]bool)
	n := 0
	for line := range strings.Lines(text) {
		n++
		channel := strings.TrimSpace(line)
		switch {
		case channel == "" || strings.HasPrefix(channel, "#"):
		case !nsq.IsValidChannelName(channel):
			faults = append(faults, fmt.Sprintf("%s:%d: %.80q can't be the name of a channel", name, n, channel))
		case seen[channel]:
			faults = append(faults, fmt.Sprintf("%s:%d: channel %q is there twice", name, n, channel))
		default:
			seen[channel] = true
			topic.Channels = append(topic.Channels, lookuploop.ChannelMetadata{Name: channel})
		}
	}
	return topic, faults
}
