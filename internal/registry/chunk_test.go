package registry

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFarewellReadsAChunkUnderOneLock(t *testing.T) {
	r := New()
	for _, name := range manyNames(2*ChunkSize - 1) {
		r.create(key{name: name + EphemeralSuffix})
	}
	c := r.NewCursor(0)
	r.Attach(c, noTime)
	var chunks []int
	for more := true; more; {
		var out []Command
		out, more = r.Farewell(c, nil)
		chunks = append(chunks, len(out))
	}
	require.Equal(t, []int{0, 1, ChunkSize, ChunkSize - 2}, chunks, "channels, of which there are none, and then topics")
}
