package wire

import (
	"bytes"
	"testing"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

// TestCommandsAreEncodedAsByGoNSQ holds our encoder against the one that it
// saves the allocations of.
func TestCommandsAreEncodedAsByGoNSQ(t *testing.T) {
	var b Batch[int]
	var all bytes.Buffer
	for _, tt := range []struct {
		add  func()
		want *nsq.Command
	}{
		{func() { b.Add(Register, "orders", "", 0) }, nsq.Register("orders", "")},
		{func() { b.Add(Register, "orders", "mail#ephemeral", 0) }, nsq.Register("orders", "mail#ephemeral")},
		{func() { b.Ping() }, nsq.Ping()},
		{func() { b.Add(Unregister, "orders", "mail#ephemeral", 0) }, nsq.UnRegister("orders", "mail#ephemeral")},
		{func() { b.Add(Unregister, "orders", "", 0) }, nsq.UnRegister("orders", "")},
	} {
		_, err := tt.want.WriteTo(&all)
		require.NoError(t, err)
		tt.add()
		require.Equal(t, all.String(), b.encoded.String())
	}
	require.Equal(t, 5, b.Len())
}

func TestBatchAllocatesNothingButRoom(t *testing.T) {
	var b Batch[int]
	fill := func() {
		for range 1000 {
			b.Add(Register, "orders", "mail", 1)
		}
		b.Ping()
	}
	fill()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		b.Reset()
		fill()
	}))
}

func TestBatchGivesBackTheMemoryOfManyCommandsAlone(t *testing.T) {
	var b Batch[int]
	b.Ping()
	b.Shrink()
	require.Zero(t, b.Len())
	require.NotZero(t, cap(b.commands), "a heartbeat needs it again")
	for range 1000 {
		b.Ping()
	}
	b.Shrink()
	require.Zero(t, b.Len())
	require.Zero(t, cap(b.commands))
	require.Zero(t, b.encoded.Cap())
}
