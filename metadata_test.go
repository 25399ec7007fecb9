package lookuploop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

func TestValidateReportsEveryFault(t *testing.T) {
	require.NoError(t, Metadata{Topics: []TopicMetadata{
		{Name: "a", Channels: []ChannelMetadata{{Name: "c"}, {Name: "d#ephemeral"}}},
		{Name: "b#ephemeral", Channels: []ChannelMetadata{{Name: "c"}}}, // of another topic
		{Name: strings.Repeat("x", 64)},
	}}.validate())

	err := Metadata{Topics: []TopicMetadata{
		{Name: "a b", Channels: []ChannelMetadata{{Name: "c"}}},
		{Name: "a", Channels: []ChannelMetadata{{Name: "c"}, {Name: "c"}, {Name: "c\n"}}},
		{Name: "a"},
		{Name: strings.Repeat("x", 65)},
		{Name: "", Channels: []ChannelMetadata{{Name: ""}}},
	}}.validate()
	require.ErrorIs(t, err, ErrInvalidName)
	const rule = ": names have 1 to 64 of the characters .a-zA-Z0-9_- and may end in #ephemeral"
	require.Equal(t, []string{
		`lookuploop: invalid name: topic "a b"` + rule,
		`lookuploop: channel "c" of topic "a" is declared twice`,
		`lookuploop: invalid name: channel "c\n" of topic "a"` + rule,
		`lookuploop: topic "a" is declared twice`,
		`lookuploop: invalid name: topic "` + strings.Repeat("x", 65) + `"` + rule,
		`lookuploop: invalid name: topic ""` + rule,
		`lookuploop: invalid name: channel "" of topic ""` + rule,
	}, strings.Split(err.Error(), "\n"))

	twice := Metadata{Topics: []TopicMetadata{{Name: "a"}, {Name: "a"}}}
	require.NotErrorIs(t, twice.validate(), ErrInvalidName)
}

func TestLoadMetadataIsTheFirstCallAndTheOnlyOne(t *testing.T) {
	const want = "LoadMetadata must be the first call, and the only one"
	for name, dataPath := range map[string]string{"without a data path": "", "with a data path": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 0, func(o *Options) { o.DataPath = dataPath })
				m, err := s.loop.LoadMetadata()
				require.NoError(t, err)
				require.Zero(t, m, "there is nothing to load")
				_, err = s.loop.LoadMetadata()
				require.ErrorContains(t, err, want)
				s.run()
				synctest.Wait()
				_, err = s.loop.LoadMetadata()
				require.ErrorContains(t, err, want)
				require.NoError(t, s.end())
				_, err = s.loop.LoadMetadata()
				require.Error(t, err)
			})
		})
	}
	t.Run("after Notify", func(t *testing.T) {
		loop := newLoop(t)
		require.NoError(t, loop.Notify(TopicCreated("orders")))
		_, err := loop.LoadMetadata()
		require.ErrorContains(t, err, want)
	})
}

func TestLoadMetadataReturnsAndTakesWhatIsInTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nsqd.dat")
	content := `{"topics":[{"name":"orders","paused":true,"channels":[{"name":"mail","paused":false},{"name":"a b"}]},{"name":"x y"},{"name":"empty"}],"version":"1.3.0"}`
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	inBubble(t, func(t *testing.T) {
		var log logBuffer
		s := newScene(t, 1, log.infoOf, func(o *Options) { o.DataPath = dir })
		m, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		require.Contains(t, log.last(), `count=2 first="topic \"x y\" with its 0 channels, channel \"a b\" of topic \"orders\""`)
		require.Equal(t, Metadata{Version: "1.3.0", Topics: []TopicMetadata{
			{Name: "orders", Paused: true, Channels: []ChannelMetadata{{Name: "mail"}}},
			{Name: "empty"},
		}}, m)
		requireTopics(t, m, s.loop)
		s.run()
		s.registered()
		require.Equal(t, []string{"empty", "orders", "orders mail"}, announced(s.lookupds[0]))
		require.NoError(t, s.end())
	})
	require.Equal(t, []string{"orders", "empty"}, topicsOnDisk(t, dir), "it is written without what was left out")

	again := newLoop(t, func(o *Options) { o.DataPath = dir })
	_, err := again.LoadMetadata()
	require.NoError(t, err)
	require.False(t, again.Status().Metadata.Dirty, "and once")
	require.NoError(t, again.Close())
}

func TestLoadMetadataThatFailedMayBeTriedAgain(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "nsqd.dat")
	require.NoError(t, os.WriteFile(path, []byte(`{"topics":[{"name":"orders"`), 0o600))
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0, func(o *Options) { o.DataPath = dir })
		for range 2 {
			_, err := s.loop.LoadMetadata()
			require.ErrorIs(t, err, ErrCorruptMetadata)
			require.ErrorContains(t, err, path)
			require.Error(t, s.loop.Notify(TopicCreated("a")))
			require.Error(t, s.loop.Run(t.Context()))
			require.Zero(t, s.loop.Status().Metadata)
		}
		require.NoError(t, os.WriteFile(path, []byte(`{"topics":[{"name":"orders"}]}`), 0o600))
		m, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		require.Len(t, m.Topics, 1)

		if nsqdat.Locks {
			rival := newLoop(t, func(o *Options) { o.DataPath = dir })
			_, err = rival.LoadMetadata()
			require.ErrorIs(t, err, ErrDataPathLocked)
			s.run()
			require.NoError(t, s.end())
			_, err = rival.LoadMetadata()
			require.NoError(t, err, "Run gave the data path free")
			require.NoError(t, rival.Close())
		} else {
			s.run()
		}
	})
}

// TestWhatLoadMetadataLeavesOutIsOneWarning is about a file full of names that
// NSQ doesn't allow.
func TestWhatLoadMetadataLeavesOutIsOneWarning(t *testing.T) {
	const n = 100_000
	content := `{"topics":[` + strings.Repeat(`{"name":"no no"},`, n) + `{"name":"good"}]}`
	var log bytes.Buffer
	loop := newLoop(t, func(o *Options) {
		o.DataPath = "data"
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	loop.disk = nsqdattest.NewDisk(map[string]string{"nsqd.dat": content})
	m, err := loop.LoadMetadata()
	require.NoError(t, err)
	require.Equal(t, []TopicMetadata{{Name: "good"}}, m.Topics)
	require.Equal(t, 1, strings.Count(log.String(), "\n"))
	require.Less(t, log.Len(), 2000)
	for _, part := range []string{filepath.Join("data", "nsqd.dat"), "count=100000", `no no`} {
		require.Contains(t, log.String(), part)
	}
}

// TestFileOfNsqd03IsWarnedOf: it would be ignored, and an nsqd up to 1.1 that
// comes back refuses to start with both.
func TestFileOfNsqd03IsWarnedOf(t *testing.T) {
	var log bytes.Buffer
	loop := newLoop(t, func(o *Options) {
		o.DataPath = "data"
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	loop.disk = nsqdattest.NewDisk(map[string]string{"nsqd.512.dat": encoded(t, manyTopics(3))})
	m, err := loop.LoadMetadata()
	require.NoError(t, err)
	require.Empty(t, m.Topics)
	require.Contains(t, log.String(), "level=WARN")
	require.Contains(t, log.String(), filepath.Join("data", "nsqd.512.dat"))
	require.Contains(t, log.String(), "rename it to nsqd.dat")
}

// manyTopics has n topics of one channel each.
func manyTopics(n int) Metadata {
	m := Metadata{Version: "1.3.0", Topics: make([]TopicMetadata, n)}
	for i := range m.Topics {
		m.Topics[i] = TopicMetadata{Name: fmt.Sprint("topic", i), Channels: []ChannelMetadata{{Name: "channel"}}}
	}
	return m
}

// encoded is m as the content of an nsqd.dat.
func encoded(t testing.TB, m Metadata) string {
	data, err := json.Marshal(m)
	require.NoError(t, err)
	return string(data)
}

// some is what a broker has before it declares something else.
func some() Metadata {
	return Metadata{Version: defaultVersion, Topics: []TopicMetadata{
		{Name: "orders", Channels: []ChannelMetadata{{Name: "mail"}}},
		{Name: "events", Paused: true, Channels: []ChannelMetadata{{Name: "log", Paused: true}}},
		{Name: "live#ephemeral", Channels: []ChannelMetadata{{Name: "view#ephemeral"}}},
		{Name: "empty", Channels: []ChannelMetadata{}},
	}}
}

func TestSetMetadataSendsTheDifferenceAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*Metadata)
		want []string
	}{
		"the same":             {func(m *Metadata) {}, nil},
		"in another order":     {func(m *Metadata) { m.Topics[0], m.Topics[3] = m.Topics[3], m.Topics[0] }, nil},
		"another version":      {func(m *Metadata) { m.Version = "9.9.9" }, nil},
		"pauses":               {func(m *Metadata) { m.Topics[0].Paused, m.Topics[1].Paused = true, false }, nil},
		"a channel less":       {func(m *Metadata) { m.Topics[0].Channels = nil }, []string{"UNREGISTER orders mail"}},
		"a channel instead":    {func(m *Metadata) { m.Topics[0].Channels[0].Name = "ship" }, []string{"UNREGISTER orders mail", "REGISTER orders ship"}},
		"a topic more":         {func(m *Metadata) { m.Topics = append(m.Topics, TopicMetadata{Name: "new"}) }, []string{"REGISTER new"}},
		"a topic less":         {func(m *Metadata) { m.Topics = m.Topics[1:] }, []string{"UNREGISTER orders mail", "UNREGISTER orders"}},
		"an ephemeral less":    {func(m *Metadata) { m.Topics[2].Channels = nil }, []string{"UNREGISTER live#ephemeral view#ephemeral"}},
		"an ephemeral instead": {func(m *Metadata) { m.Topics[3].Name = "x#ephemeral" }, []string{"UNREGISTER empty", "REGISTER x#ephemeral"}},
		"nothing": {func(m *Metadata) { m.Topics = nil }, []string{
			"UNREGISTER orders mail", "UNREGISTER orders",
			"UNREGISTER events log", "UNREGISTER events",
			"UNREGISTER live#ephemeral view#ephemeral", "UNREGISTER live#ephemeral",
			"UNREGISTER empty",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				require.NoError(t, s.loop.SetMetadata(some()))
				s.run()
				s.registered()
				heard := listen(s.lookupds[0])

				m := some()
				tt.edit(&m)
				require.NoError(t, s.loop.SetMetadata(m))
				requireTopics(t, m, s.loop)

				s.registered()
				synctest.Wait()
				require.Equal(t, tt.want, heard())
				require.Equal(t, namesIn(m), announced(s.lookupds[0]))
			})
		})
	}
}

// requireTopics holds what a Loop has against m, in any order.
func requireTopics(t require.TestingT, m Metadata, loop *Loop) {
	truth := newBroker()
	for _, topic := range m.Topics {
		truth[topic.Name] = &brokerTopic{topic.Paused, make(map[string]bool)}
		for _, channel := range topic.Channels {
			truth[topic.Name].channels[channel.Name] = channel.Paused
		}
	}
	truth.requireEqual(t, loop)
}

// namesIn returns the names in m as announced returns them.
func namesIn(m Metadata) (names []string) {
	for _, topic := range m.Topics {
		names = append(names, topic.Name)
		for _, channel := range topic.Channels {
			names = append(names, topic.Name+" "+channel.Name)
		}
	}
	slices.Sort(names)
	return names
}

func TestSetMetadataRejectsFaultsAndChangesNothing(t *testing.T) {
	channels := func(names ...string) (all []ChannelMetadata) {
		for _, name := range names {
			all = append(all, ChannelMetadata{Name: name})
		}
		return all
	}
	for name, tt := range map[string]struct {
		topic TopicMetadata // besides a good one
		want  string
		is    error // nil: no sentinel
	}{
		"topic twice":            {TopicMetadata{Name: "good"}, `topic "good" is declared twice`, nil},
		"channel twice":          {TopicMetadata{Name: "a", Channels: channels("x", "y", "x")}, `channel "x" of topic "a" is declared twice`, nil},
		"topic with a space":     {TopicMetadata{Name: "a b"}, `invalid name: topic "a b": names have 1 to 64`, ErrInvalidName},
		"topic with a newline":   {TopicMetadata{Name: "a\nREGISTER b"}, `topic "a\nREGISTER b"`, ErrInvalidName},
		"topic without a name":   {TopicMetadata{}, `topic ""`, ErrInvalidName},
		"topic of 65 characters": {TopicMetadata{Name: strings.Repeat("x", 65)}, "topic", ErrInvalidName},
		"topic only ephemeral":   {TopicMetadata{Name: "#ephemeral"}, "topic", ErrInvalidName},
		"channel with a newline": {TopicMetadata{Name: "a", Channels: channels("x\n")}, `channel "x\n" of topic "a"`, ErrInvalidName},
		"channel without a name": {TopicMetadata{Name: "a", Channels: channels("")}, `channel "" of topic "a"`, ErrInvalidName},
	} {
		t.Run(name, func(t *testing.T) {
			loop := newLoop(t)
			require.NoError(t, loop.SetMetadata(some()))
			seq := loop.reg.End()
			err := loop.SetMetadata(Metadata{Topics: []TopicMetadata{{Name: "good"}, tt.topic}})
			require.ErrorContains(t, err, tt.want)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.Equal(t, some(), loop.Metadata())
			require.Equal(t, seq, loop.reg.End())
		})
	}
}

func TestChannelsOfDifferentTopicsMayShareAName(t *testing.T) {
	loop := newLoop(t)
	channels := []ChannelMetadata{{Name: "x"}}
	m := Metadata{Topics: []TopicMetadata{{Name: "a", Channels: channels}, {Name: "x", Channels: channels}}}
	require.NoError(t, loop.SetMetadata(m))
	requireTopics(t, m, loop)
}

// TestSetMetadataMakesItSo goes from any set to any other, and holds the
// Loop against the last one declared.
func TestSetMetadataMakesItSo(t *testing.T) {
	loopOf := func() *Loop { return newLoop(t) }
	rapid.Check(t, func(t *rapid.T) {
		loop := loopOf()
		if rapid.Bool().Draw(t, "a lookupd lags") {
			loop.reg.Attach(loop.reg.NewCursor(0), time.Now())
		}
		for range rapid.IntRange(1, 6).Draw(t, "declarations") {
			m := drawMetadata(t)
			require.NoError(t, loop.SetMetadata(m))
			requireTopics(t, m, loop)
			seq, version := loop.reg.End(), loop.reg.Version()
			require.NoError(t, loop.SetMetadata(m))
			require.Equal(t, seq, loop.reg.End())
			require.Equal(t, version, loop.reg.Version())
		}
	})
}

func drawMetadata(t *rapid.T) (m Metadata) {
	distinct := func(names []string, label string) []string {
		return rapid.SliceOfDistinct(rapid.SampledFrom(names), rapid.ID).Draw(t, label)
	}
	for _, name := range distinct([]string{"a", "b", "c#ephemeral"}, "topics") {
		topic := TopicMetadata{Name: name, Paused: rapid.Bool().Draw(t, "paused")}
		for _, name := range distinct([]string{"x", "y", "z#ephemeral"}, "channels") {
			topic.Channels = append(topic.Channels, ChannelMetadata{name, rapid.Bool().Draw(t, "paused")})
		}
		m.Topics = append(m.Topics, topic)
	}
	return m
}

func TestMetadataIsWhatTheBrokerHasInTheOrderOfCreation(t *testing.T) {
	loop := newLoop(t, func(o *Options) { o.Version = "7.8.9" })
	require.Equal(t, Metadata{Version: "7.8.9", Topics: []TopicMetadata{}}, loop.Metadata())

	require.NoError(t, loop.Notify(TopicCreated("b"), TopicCreated("a#ephemeral"), TopicCreated("c"), TopicPaused("c"), ChannelCreated("c", "y")))
	require.NoError(t, loop.Notify(TopicDeleted("b"), TopicCreated("b"), ChannelCreated("b", "x#ephemeral"), ChannelPaused("b", "x#ephemeral")))
	m := loop.Metadata()
	require.Equal(t, Metadata{Version: "7.8.9", Topics: []TopicMetadata{
		{Name: "a#ephemeral", Channels: []ChannelMetadata{}},
		{Name: "c", Paused: true, Channels: []ChannelMetadata{{Name: "y"}}},
		{Name: "b", Channels: []ChannelMetadata{{Name: "x#ephemeral", Paused: true}}},
	}}, m)

	m.Topics[1].Channels[0].Name = "changed"
	m.Topics[1].Channels = append(m.Topics[1].Channels, ChannelMetadata{Name: "added"})
	require.Equal(t, "x#ephemeral", m.Topics[2].Channels[0].Name, "lists of channels don't overlap")
	require.Equal(t, "y", loop.Metadata().Topics[1].Channels[0].Name, "it is the caller's")
}

func topicsOnDisk(t *testing.T, dir string) (names []string) {
	data, err := os.ReadFile(filepath.Join(dir, "nsqd.dat"))
	require.NoError(t, err)
	var m Metadata
	require.NoError(t, json.Unmarshal(data, &m))
	for _, topic := range m.Topics {
		names = append(names, topic.Name)
	}
	return names
}

func TestTopicMetadataIsThatOfOneTopic(t *testing.T) {
	loop := newLoop(t)
	require.NoError(t, loop.SetMetadata(some()))
	for _, want := range some().Topics {
		got, found := loop.TopicMetadata(want.Name)
		require.True(t, found)
		require.Equal(t, want, got)
	}
	got, found := loop.TopicMetadata("unknown")
	require.False(t, found)
	require.Zero(t, got)
}

// TestMillionTopics declares a million topics (100,000 without -long), announces
// them to a lookupd that only counts, and takes them back.
func TestMillionTopics(t *testing.T) {
	million := inFull(1_000_000)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counted := make(chan map[string]int, 1)
	go func() { counted <- countCommands(listener) }()

	loop := newLoop(t, addresses(listener.Addr().String()), func(o *Options) { o.ResponseTimeout = patience })
	before := memoryInUse()
	m := Metadata{Topics: make([]TopicMetadata, million)}
	for i := range m.Topics {
		m.Topics[i].Name = fmt.Sprint("topic", i)
	}
	require.NoError(t, loop.SetMetadata(m))
	require.Less(t, (memoryInUse()-before)/million, 300, "bytes a topic")

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	require.NoError(t, loop.WaitRegistered(ctx, 1))
	require.Equal(t, million, loop.Status().Topics)
	require.NoError(t, loop.SetMetadata(Metadata{}))
	require.NoError(t, loop.WaitRegistered(ctx, 1))
	require.Zero(t, loop.Status().Topics)
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, listener.Close())
	commands := <-counted
	require.Equal(t, million, commands["REGISTER"])
	require.Equal(t, million, commands["UNREGISTER"])
	require.Equal(t, 1, commands["IDENTIFY"], "no number of deletions at once makes a lookupd start over")
}
