package lookuploop

import (
	"bytes"
	"testing"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

// TestCommandsAreEncodedAsByGoNSQ holds our encoder against the one that it
// saves the allocations of.
func TestCommandsAreEncodedAsByGoNSQ(t *testing.T) {
	topic := &entry{key: key{name: "orders"}}
	channel := &entry{key: key{topic, "mail#ephemeral"}}
	var b batch
	var all bytes.Buffer
	for _, tt := range []struct {
		command command
		want    *nsq.Command
	}{
		{commandFor(register, topic), nsq.Register("orders", "")},
		{commandFor(register, channel), nsq.Register("orders", "mail#ephemeral")},
		{command{verb: ping}, nsq.Ping()},
		{commandFor(unregister, channel), nsq.UnRegister("orders", "mail#ephemeral")},
		{commandFor(unregister, topic), nsq.UnRegister("orders", "")},
	} {
		_, err := tt.want.WriteTo(&all)
		require.NoError(t, err)
		b.add(tt.command)
		require.Equal(t, all.String(), b.encoded.String())
	}
}
