package lookuploop

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestFileOfRealNsqdIsUnderstood(t *testing.T) {
	data, err := os.ReadFile("testdata/nsqd-1.3.0.dat")
	require.NoError(t, err)
	m, err := decodeMetadata(data)
	require.NoError(t, err)
	require.Equal(t, Metadata{
		Version: "1.3.0",
		Topics: []TopicMetadata{
			{Name: "empty"},
			{Name: "paused.topic", Paused: true},
			{Name: "orders", Channels: []ChannelMetadata{{Name: "ship", Paused: true}, {Name: "mail"}}},
		},
	}, m)

	clean, skipped := sanitize(m)
	require.Equal(t, m, clean)
	require.Empty(t, skipped)
	require.NoError(t, m.validate())
}

func TestDecodingIsAsLooseAsNsqds(t *testing.T) {
	topicA := []TopicMetadata{{Name: "a"}}
	for content, want := range map[string]Metadata{
		`null`:                              {},
		`{}`:                                {},
		`{"topics":null,"version":"1.3.0"}`: {Version: "1.3.0"},
		" {\n\t\"topics\" : [ ] } \n":       {Topics: []TopicMetadata{}},
		`{"topics":[{"name":"a"}]}`:         {Topics: topicA},
		`{"x":[{"y":1}],"topics":[{"name":"a","channels":null,"z":{}}]}`: {Topics: topicA},
	} {
		m, err := decodeMetadata([]byte(content))
		require.NoError(t, err, content)
		require.Equal(t, want, m, content)
	}
}

func TestEncodedMetadataIsOneLineOfJSON(t *testing.T) {
	require.Equal(t, `{"topics":[],"version":""}`, encoded(t, Metadata{}))
	require.Equal(t,
		`{"topics":[{"name":"a","paused":true,"channels":[]},`+
			`{"name":"b","paused":false,"channels":[{"name":"c","paused":true},{"name":"d","paused":false}]}],"version":"1.3.0"}`,
		encoded(t, Metadata{Version: "1.3.0", Topics: []TopicMetadata{
			{Name: "a", Paused: true},
			{Name: "b", Channels: []ChannelMetadata{{Name: "c", Paused: true}, {Name: "d"}}},
		}}))
}

func TestEncodingEqualsJSONMarshal(t *testing.T) {
	channel := rapid.Custom(func(t *rapid.T) ChannelMetadata {
		return ChannelMetadata{Name: rapid.String().Draw(t, "channel"), Paused: rapid.Bool().Draw(t, "paused")}
	})
	topic := rapid.Custom(func(t *rapid.T) TopicMetadata {
		return TopicMetadata{
			Name:     rapid.String().Draw(t, "topic"),
			Paused:   rapid.Bool().Draw(t, "paused"),
			Channels: rapid.SliceOf(channel).Draw(t, "channels"),
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		m := Metadata{Topics: rapid.SliceOf(topic).Draw(rt, "topics"), Version: rapid.String().Draw(rt, "version")}
		want, err := json.Marshal(m)
		require.NoError(rt, err)
		want = bytes.ReplaceAll(want, []byte(":null"), []byte(":[]"))
		require.Equal(rt, string(want), encoded(t, m))
	})
}

// meter records how it was written to and fails from a number of bytes on.
type meter struct{ written, largest, limit int }

func (w *meter) Write(data []byte) (int, error) {
	w.written += len(data)
	w.largest = max(w.largest, len(data))
	if w.limit > 0 && w.written > w.limit {
		return 0, errors.New("full")
	}
	return len(data), nil
}

func TestEncodingStreams(t *testing.T) {
	m := manyTopics(1)
	m.Topics[0].Channels = make([]ChannelMetadata, 100_000)
	var w meter
	require.NoError(t, m.encode(&w))
	require.Greater(t, w.written, 2_000_000)
	require.LessOrEqual(t, w.largest, 64<<10)

	require.EqualError(t, m.encode(&meter{limit: 1_000_000}), "full")
}

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
	require.Equal(t, []string{
		`lookuploop: invalid name: topic "a b"`,
		`lookuploop: channel "c" of topic "a" is declared twice`,
		`lookuploop: invalid name: channel "c\n" of topic "a"`,
		`lookuploop: topic "a" is declared twice`,
		`lookuploop: invalid name: topic "` + strings.Repeat("x", 65) + `"`,
		`lookuploop: invalid name: topic ""`,
		`lookuploop: invalid name: channel "" of topic ""`,
	}, strings.Split(err.Error(), "\n"))

	twice := Metadata{Topics: []TopicMetadata{{Name: "a"}, {Name: "a"}}}
	require.NotErrorIs(t, twice.validate(), ErrInvalidName)
}

func TestSanitizeSkipsInvalidNamesAndMergesDuplicates(t *testing.T) {
	m := Metadata{Version: "0.2.30", Topics: []TopicMetadata{
		{Name: "b", Channels: []ChannelMetadata{{Name: "x"}, {Name: "y", Paused: true}}},
		{Name: "bad name", Channels: []ChannelMetadata{{Name: "x"}}},
		{Name: "a", Paused: true},
		{Name: "b", Paused: true, Channels: []ChannelMetadata{{Name: "z"}, {Name: ""}, {Name: "x", Paused: true}, {Name: "y"}}},
		{Name: "a"},
	}}
	before := encoded(t, m)
	clean, skipped := sanitize(m)
	require.Equal(t, Metadata{Version: "0.2.30", Topics: []TopicMetadata{
		{Name: "b", Paused: true, Channels: []ChannelMetadata{{Name: "x", Paused: true}, {Name: "y", Paused: true}, {Name: "z"}}},
		{Name: "a", Paused: true},
	}}, clean)
	require.Equal(t, []string{`topic "bad name" with its 1 channels`, `channel "" of topic "b"`}, skipped)
	require.Equal(t, before, encoded(t, m), "the argument is left alone")
}

// manyTopics has n topics of one channel each.
func manyTopics(n int) Metadata {
	m := Metadata{Version: "1.3.0", Topics: make([]TopicMetadata, n)}
	for i := range m.Topics {
		m.Topics[i] = TopicMetadata{Name: fmt.Sprint("topic", i), Channels: []ChannelMetadata{{Name: "channel"}}}
	}
	return m
}

func BenchmarkEncodeMetadata(b *testing.B) {
	m := manyTopics(20_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := m.encode(new(meter)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeMetadata(b *testing.B) {
	data := []byte(encoded(b, manyTopics(100_000)))
	b.ReportAllocs()
	for b.Loop() {
		m, err := decodeMetadata(data)
		if err != nil {
			b.Fatal(err)
		}
		sanitize(m)
	}
}

// FuzzLoadMetadata: whatever is in the file, it is either reported as corrupt
// or becomes a valid set, which is the same after it was written and read again.
func FuzzLoadMetadata(f *testing.F) {
	real, err := os.ReadFile("testdata/nsqd-1.3.0.dat")
	require.NoError(f, err)
	f.Add(real)
	f.Fuzz(func(t *testing.T, data []byte) {
		disk := newMemoryDisk(map[string]string{"data/nsqd.dat": string(data)})
		file, err := openMetadataFile("data", disk)
		require.NoError(t, err)
		loaded, err := file.load()
		if err != nil {
			require.ErrorIs(t, err, ErrCorruptMetadata)
			require.Zero(t, loaded)
			var at, size int
			_, place, _ := strings.Cut(err.Error(), ": data/nsqd.dat: ")
			_, err := fmt.Sscanf(place, "byte %d of %d: ", &at, &size)
			require.NoError(t, err)
			require.Equal(t, len(data), size)
			require.LessOrEqual(t, at, size)
			require.True(t, at > 0 || size == 0)
			return
		}
		clean, _ := sanitize(loaded)
		require.NoError(t, clean.validate())

		require.NoError(t, file.write(clean))
		again, err := file.load()
		require.NoError(t, err)
		same, skipped := sanitize(again)
		require.Empty(t, skipped)
		require.Equal(t, clean, same)
	})
}
