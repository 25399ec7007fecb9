package registry

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mustRead reads a chunk and returns its lines.
func mustRead(t require.TestingT, r *Registry, c *Cursor, limit int) string {
	chunk, _, err := r.Read(c, limit, Everything, nil)
	require.NoError(t, err)
	return lines(chunk)
}

func lines(chunk []Command) string {
	var b strings.Builder
	for _, c := range chunk {
		b.WriteString(c.Verb() + " " + commandName(c) + "\n")
	}
	return b.String()
}

// TestChunkDoesNotPartTopicAndChannel is about a topic at the last place of a
// chunk: it takes one channel right behind it along, and no more.
func TestChunkDoesNotPartTopicAndChannel(t *testing.T) {
	r := New()
	for _, c := range []Change{
		{TopicCreated, "users", ""}, {TopicCreated, "orders", ""}, {ChannelCreated, "orders", "mail"}, {ChannelCreated, "orders", "sms"},
		{TopicCreated, "bills", ""}, {ChannelCreated, "users", "mail"}, {TopicCreated, "empty", ""},
	} {
		r.apply(c)
	}
	var cursor Cursor
	r.Attach(&cursor)
	var chunks []string
	for cursor.read < r.seq {
		chunks = append(chunks, mustRead(t, r, &cursor, 2))
	}
	require.Equal(t, []string{
		"REGISTER users\nREGISTER orders mail\n",
		"REGISTER orders sms\nREGISTER bills\n",
		"REGISTER users mail\nREGISTER empty\n",
	}, chunks)
}

// TestOnlyTheLookupdThatLagsIsDetached is about two of which one hears of every
// deletion.
func TestOnlyTheLookupdThatLagsIsDetached(t *testing.T) {
	for _, lagging := range []int{0, 1} {
		r := New()
		r.maxTombstones = 3
		var cursors [2]Cursor
		for i := range cursors {
			r.Attach(&cursors[i])
		}
		for i := range r.maxTombstones + 1 {
			require.False(t, cursors[lagging].lagged)
			topic := fmt.Sprint("topic", i)
			r.apply(Change{TopicCreated, topic, ""})
			r.apply(Change{TopicDeleted, topic, ""})
			if i < r.maxTombstones {
				mustRead(t, r, &cursors[1-lagging], ChunkSize)
			}
		}
		_, _, err := r.Read(&cursors[lagging], ChunkSize, Everything, nil)
		require.ErrorIs(t, err, ErrLagged)
		mustRead(t, r, &cursors[1-lagging], ChunkSize)
		require.Zero(t, r.numTombstones, "nobody needs them any more")
	}
}

// TestAnswerToADetachedLookupdChangesNothing is about one that was detached for
// lagging while a refused name was being tried, and then accepts that.
func TestAnswerToADetachedLookupdChangesNothing(t *testing.T) {
	r := New()
	r.maxTombstones = 1
	r.apply(Change{TopicCreated, "bad", ""})
	var c Cursor
	r.Attach(&c)
	chunk, _, err := r.Read(&c, ChunkSize, Everything, nil)
	require.NoError(t, err)
	require.True(t, r.Refuse(&c, chunk[0], true, refusalOf("bad"), time.Time{}, 0))
	r.Release(&c)

	r.Attach(&c)
	require.Empty(t, mustRead(t, r, &c, ChunkSize))
	chunk, again := r.Retry(&c, time.Time{}, nil)
	require.Zero(t, again)
	require.Len(t, chunk, 1)
	for _, topic := range []string{"first", "second"} {
		r.apply(Change{TopicCreated, topic, ""})
		r.apply(Change{TopicDeleted, topic, ""})
	}
	require.True(t, c.lagged)
	acked := c.acked
	r.Acknowledge(&c, 1, chunk[0])
	require.Equal(t, acked, c.acked)
	require.Len(t, c.refused, 1)
}

// TestDeletingAndCreatingDoesNotGrow: however often a name comes and goes, it
// has one entry, and no other is left behind: neither when all lookupds follow
// nor when one is stuck.
func TestDeletingAndCreatingDoesNotGrow(t *testing.T) {
	r := New()
	create := []Change{{TopicCreated, "orders", ""}, {ChannelCreated, "orders", "archive"}}
	_, err := r.Apply(create)
	require.NoError(t, err)
	var stuck Cursor
	for _, attach := range []func(){func() {}, func() { r.Attach(&stuck) }} {
		attach()
		for range 10_000 {
			_, err := r.Apply([]Change{{ChannelDeleted, "orders", "archive"}, {TopicDeleted, "orders", ""}})
			require.NoError(t, err)
			_, err = r.Apply(create)
			require.NoError(t, err)
		}
		require.Equal(t, len(create), r.size)
		require.Len(t, r.entries, r.size)
		require.Zero(t, r.numTombstones)
	}
	require.False(t, stuck.lagged)
}

// TestFarewellBeforeAnythingWasSent is about a lookupd that is left as soon as
// it identified itself.
func TestFarewellBeforeAnythingWasSent(t *testing.T) {
	r := New()
	r.create(key{name: "live#ephemeral"})
	var c Cursor
	var out []Command
	r.Attach(&c)
	for more := true; more; {
		out, more = r.Farewell(&c, out)
	}
	require.Equal(t, "UNREGISTER live#ephemeral\n", lines(out))
	r.Release(&c)
	require.Same(t, r.log.next, r.log.prev, "the one entry is alone in the log")
}
