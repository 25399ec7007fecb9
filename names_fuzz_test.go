package lookuploop

import (
	"testing"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/registry"
)

// FuzzNotifyNames holds what Notify accepts against go-nsq's rule for names,
// and what is then sent against the one line that it should be.
func FuzzNotifyNames(f *testing.F) {
	f.Fuzz(func(t *testing.T, topic, channel string) {
		loop, err := New(Options{BroadcastAddress: "broker.test", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151})
		require.NoError(t, err)
		err = loop.Notify(TopicCreated(topic), ChannelCreated(topic, channel))
		if !nsq.IsValidTopicName(topic) || !nsq.IsValidChannelName(channel) {
			require.ErrorIs(t, err, ErrInvalidName)
			require.Empty(t, loop.Metadata().Topics)
			return
		}
		require.NoError(t, err)
		var c registry.Cursor
		loop.reg.Attach(&c)
		chunk, _, err := loop.reg.Read(&c, registry.ChunkSize, registry.Everything, nil)
		require.NoError(t, err)
		require.Len(t, chunk, 1)
		require.Equal(t, []string{"REGISTER", topic, channel}, []string{chunk[0].Verb(), chunk[0].Topic(), chunk[0].Channel()})
	})
}
