package nsqdat

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestFileOfRealNsqdIsUnderstood(t *testing.T) {
	data, err := os.ReadFile("testdata/nsqd-1.3.0.dat")
	require.NoError(t, err)
	m, err := decode(data)
	require.NoError(t, err)
	c := sanitize(m)
	require.Equal(t, "1.3.0", c.Version)
	require.Equal(t, []Item{
		{Topic: "empty"},
		{Topic: "paused.topic", Paused: true},
		{Topic: "orders"}, {Topic: "orders", Channel: "ship", Paused: true}, {Topic: "orders", Channel: "mail"},
	}, slices.Collect(c.Items()))
	require.Equal(t, []int{3, 2}, []int{c.Topics, c.Channels})
	require.Zero(t, c.LeftOut)
}

func TestDecodingIsAsLooseAsNsqds(t *testing.T) {
	topicA := []topic{{Name: "a"}}
	for content, want := range map[string]metadata{
		`null`:                              {},
		`{}`:                                {},
		`{"topics":null,"version":"1.3.0"}`: {Version: "1.3.0"},
		" {\n\t\"topics\" : [ ] } \n":       {Topics: []topic{}},
		`{"topics":[{"name":"a"}]}`:         {Topics: topicA},
		`{"x":[{"y":1}],"topics":[{"name":"a","channels":null,"z":{}}]}`: {Topics: topicA},
	} {
		m, err := decode([]byte(content))
		require.NoError(t, err, content)
		require.Equal(t, want, m, content)
	}
}

// TestWhatWritersMakeIsScanned: the slow way is for what others make.
func TestWhatWritersMakeIsScanned(t *testing.T) {
	real, err := os.ReadFile("testdata/nsqd-1.3.0.dat")
	require.NoError(t, err)
	for _, content := range []string{
		string(real),
		encoded(t, ""),
		encoded(t, "1.3.0", someItems(3)...),
		encoded(t, "1.3.0", Item{Topic: "a"}, Item{Topic: "b", Paused: true}),
		encoded(t, "1.3.0", Item{Topic: "a"}, Item{"a", "x", true}, Item{"a", "y", false}),
	} {
		m, ok := scan(content)
		require.True(t, ok, content)
		var want metadata
		require.NoError(t, json.Unmarshal([]byte(content), &want))
		require.Equal(t, want, m)

		for i := range content {
			_, ok := scan(content[:i])
			require.False(t, ok, content[:i])
		}
	}
	for _, content := range []string{
		`{"topics":[],"version":"1.3.0"} `,
		`{"topics":[],"version":"\u0031"}`,
		`{"topics":[],"version":"é"}`,
		`{"topics":[,],"version":""}`,
		`{"topics":[{"name":"a","paused":false,"channels":nil}],"version":""}`,
		`{"topics":[{"channels":[],"name":"a","paused":false}],"version":""}`,
		`{"topics":[{"name":"a","paused":false,"channels":[]},],"version":""}`,
		`{"topics":[{"name":"a","paused":0,"channels":[]}],"version":""}`,
		`{"topics":[{"name":"a","paused":false,"channels":[]}{"name":"b","paused":false,"channels":[]}],"version":""}`,
	} {
		_, ok := scan(content)
		require.False(t, ok, content)
	}
}

func encoded(t testing.TB, version string, items ...Item) string {
	var b strings.Builder
	require.NoError(t, encode(&b, slices.Values(items), version))
	return b.String()
}

func TestEncodedItemsAreOneLineOfJSON(t *testing.T) {
	require.Equal(t, `{"topics":[],"version":""}`, encoded(t, ""))
	require.Equal(t,
		`{"topics":[{"name":"a","paused":true,"channels":[]},`+
			`{"name":"b","paused":false,"channels":[{"name":"c","paused":true},{"name":"d","paused":false}]}],"version":"1.3.0"}`,
		encoded(t, "1.3.0",
			Item{Topic: "a", Paused: true},
			Item{Topic: "b"}, Item{Topic: "b", Channel: "c", Paused: true}, Item{Topic: "b", Channel: "d"},
		))
}

func TestEncodingEqualsJSONMarshal(t *testing.T) {
	name := rapid.StringN(1, -1, -1)
	rapid.Check(t, func(rt *rapid.T) {
		m := metadata{Topics: []topic{}, Version: rapid.String().Draw(rt, "version")}
		var items []Item
		for _, topicName := range rapid.SliceOf(name).Draw(rt, "topics") {
			top := topic{Name: topicName, Paused: rapid.Bool().Draw(rt, "paused"), Channels: []channel{}}
			items = append(items, Item{Topic: topicName, Paused: top.Paused})
			for _, channelName := range rapid.SliceOf(name).Draw(rt, "channels") {
				ch := channel{Name: channelName, Paused: rapid.Bool().Draw(rt, "paused")}
				top.Channels = append(top.Channels, ch)
				items = append(items, Item{topicName, channelName, ch.Paused})
			}
			m.Topics = append(m.Topics, top)
		}
		want, err := json.Marshal(m)
		require.NoError(rt, err)
		require.Equal(rt, string(want), encoded(t, m.Version, items...))
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

func TestEncodingStreamsAndEndsWithTheFirstError(t *testing.T) {
	endless := func(yield func(Item) bool) {
		for yield(Item{Topic: "orders", Channel: "channel"}) {
		}
	}
	w := meter{limit: 1_000_000}
	require.EqualError(t, encode(&w, endless, ""), "full")
	require.LessOrEqual(t, w.largest, 64<<10)
	require.Less(t, w.written, w.limit+64<<10)
}

func TestSanitizeLeavesInvalidNamesOutAndMergesDuplicates(t *testing.T) {
	m := metadata{Version: "0.2.30", Topics: []topic{
		{Name: "b", Channels: []channel{{Name: "x"}, {Name: "y", Paused: true}}},
		{Name: "bad name", Channels: []channel{{Name: "x"}}},
		{Name: "a", Paused: true},
		{Name: "b", Paused: true, Channels: []channel{{Name: "z"}, {Name: ""}, {Name: "x", Paused: true}, {Name: "y"}}},
		{Name: "a"},
	}}
	c := sanitize(m)
	require.Equal(t, "0.2.30", c.Version)
	require.Equal(t, []Item{
		{Topic: "b", Paused: true}, {"b", "x", true}, {"b", "y", true}, {"b", "z", false},
		{Topic: "a", Paused: true},
	}, slices.Collect(c.Items()))
	require.Equal(t, []int{2, 3}, []int{c.Topics, c.Channels})
	require.Equal(t, []string{`topic "bad name" with its 1 channels`, `channel "" of topic "b"`}, c.LeftOut.Some)
}

// TestWhatWasLeftOutIsBounded is about 6 MB of names that NSQ doesn't allow, and
// about a long one.
func TestWhatWasLeftOutIsBounded(t *testing.T) {
	const n = 2_000_000
	m, err := decode([]byte(`{"topics":[` + strings.Repeat("{},", n-1) + `{}]}`))
	require.NoError(t, err)
	c := sanitize(m)
	require.Equal(t, n, c.LeftOut.Count)
	require.Len(t, c.LeftOut.Some, 10)
	require.Empty(t, slices.Collect(c.Items()))

	long := strings.Repeat("\x00", 1<<20)
	c = sanitize(metadata{Topics: []topic{{Name: long}, {Name: "a", Channels: []channel{{Name: long}}}}})
	require.Equal(t, 2, c.LeftOut.Count)
	for _, name := range c.LeftOut.Some {
		require.Less(t, len(name), 1000)
	}
}

func TestNamesAreValidIfNSQAllowsThem(t *testing.T) {
	check := func(t require.TestingT, name string) {
		require.Equal(t, nsq.IsValidTopicName(name), isValid(name), "%q", name)
		require.Equal(t, nsq.IsValidChannelName(name), isValid(name), "%q", name)
	}
	for c := range 256 {
		check(t, "a"+string([]byte{byte(c)}))
	}
	for length := range 70 {
		check(t, strings.Repeat("x", length))
		check(t, strings.Repeat("x", length)+"#ephemeral")
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.StringMatching(`[a-zA-Z0-9._\-# \x00é]{0,66}(#ephemeral)?`).Draw(t, "name"))
	})
}

// someItems are n topics of one channel each.
func someItems(n int) (items []Item) {
	for i := range n {
		topic := fmt.Sprint("topic", i)
		items = append(items, Item{Topic: topic}, Item{Topic: topic, Channel: "channel"})
	}
	return items
}

func BenchmarkEncode(b *testing.B) {
	items := someItems(20_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := encode(new(meter), slices.Values(items), ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(encoded(b, "1.3.0", someItems(100_000)...))
	b.ReportAllocs()
	for b.Loop() {
		m, err := decode(data)
		if err != nil {
			b.Fatal(err)
		}
		sanitize(m)
	}
}

// FuzzLoad: whatever is in the file, it is either corrupt or becomes a valid
// set, which is the same after it was written and read again.
func FuzzLoad(f *testing.F) {
	real, err := os.ReadFile("testdata/nsqd-1.3.0.dat")
	require.NoError(f, err)
	f.Add(real)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decode(data)
		if scanned, ok := scan(string(data)); ok {
			var want metadata
			require.NoError(t, json.Unmarshal(data, &want))
			require.Equal(t, want, scanned)
		}
		if err != nil {
			require.Zero(t, m)
			var at, size int
			_, err := fmt.Sscanf(err.Error(), "byte %d of %d: ", &at, &size)
			require.NoError(t, err)
			require.Equal(t, len(data), size)
			require.LessOrEqual(t, at, size)
			require.True(t, at > 0 || size == 0)
			return
		}
		c := sanitize(m)
		items := slices.Collect(c.Items())
		known := make(map[Item]bool)
		for i, item := range items {
			if item.Channel == "" {
				require.True(t, nsq.IsValidTopicName(item.Topic))
			} else {
				require.True(t, nsq.IsValidChannelName(item.Channel))
				require.Equal(t, items[i-1].Topic, item.Topic)
			}
			item.Paused = false
			require.False(t, known[item])
			known[item] = true
		}

		again, err := decode([]byte(encoded(t, c.Version, items...)))
		require.NoError(t, err)
		same := sanitize(again)
		require.Zero(t, same.LeftOut)
		require.Equal(t, items, slices.Collect(same.Items()))
	})
}
