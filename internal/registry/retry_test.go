package registry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNewRefusalsDoNotPutOffTheRetryOfOldOnes(t *testing.T) {
	w := newRegistryWorld(1)
	p := w.peers[0]
	p.refuses = map[string]bool{"a": true, "b": true}
	p.disliked = p.refuses
	w.change(Change{TopicCreated, "good", ""})
	w.change(Change{TopicCreated, "a", ""})
	p.converge(t)
	_, due := w.reg.NeedsProbe(p.cursor, w.now)
	require.Equal(t, w.now.Add(time.Second), due)

	w.now = w.now.Add(900 * time.Millisecond)
	w.change(Change{TopicCreated, "b", ""})
	p.converge(t)
	require.ElementsMatch(t, []string{"a", "b"}, p.refusedNames())
	_, at := w.reg.NeedsProbe(p.cursor, w.now)
	require.Equal(t, due, at)
}

// TestRefusalOfWhatIsGoneSetsNothingAside, or it would stay there for good.
func TestRefusalOfWhatIsGoneSetsNothingAside(t *testing.T) {
	w := newRegistryWorld(1)
	p := w.peers[0]
	w.change(Change{TopicCreated, "a", ""})
	p.converge(t)
	w.change(Change{TopicDeleted, "a", ""})
	chunk, _ := w.reg.Read(p.cursor, ChunkSize, nil)
	require.Equal(t, "UNREGISTER a\n", lines(chunk))
	w.reg.Release(p.cursor, chunk, false)
	w.reg.Refused(p.cursor, chunk[0], true, refusalError("a"), w.now)
	require.Empty(t, p.cursor.aside)
	require.Empty(t, w.reg.entries)
}

// TestChannelsAreNotTriedAgainWhileTheirTopicIsRefused, though they were refused
// before it: to name them would announce it.
func TestChannelsAreNotTriedAgainWhileTheirTopicIsRefused(t *testing.T) {
	w := newRegistryWorld(1)
	p := w.peers[0]
	p.dislike("a x", "")
	w.change(Change{TopicCreated, "a", ""})
	w.change(Change{ChannelCreated, "a", "x"})
	p.converge(t)
	p.dislike("a", "")
	p.lose(false)
	p.connect()
	p.read(t, ChunkSize)
	p.serve(t, ChunkSize)
	p.connect()
	p.read(t, ChunkSize)
	require.ElementsMatch(t, []string{"a", "a x"}, p.refusedNames())

	w.now = w.now.Add(2 * MaxRetryDelay)
	p.ask(t, ChunkSize)
	require.Equal(t, "REGISTER a\n", lines(p.probe.arriving))
	p.serveProbe(t, ChunkSize)
	require.Equal(t, []string{"a"}, p.refusedNames())
	p.dislike("", "")
	w.now = w.now.Add(2 * MaxRetryDelay)
	p.converge(t)
	require.Empty(t, p.refusedNames())
	require.True(t, p.main.known["a x"])
}
