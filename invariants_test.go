package lookuploop

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFarewellBeforeAnythingWasSent is about a lookupd that is left as soon as
// it identified itself.
func TestFarewellBeforeAnythingWasSent(t *testing.T) {
	r := newRegistry()
	r.create(key{name: "live#ephemeral"})
	var c cursor
	var b batch
	r.attach(&c)
	for r.farewell(&c, &b) {
	}
	require.Equal(t, "UNREGISTER live#ephemeral\n", b.encoded.String())
	r.release(&c)
	require.Same(t, r.log.next, r.log.prev, "the one entry is alone in the log")
}
