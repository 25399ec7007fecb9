package lookuploop

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
