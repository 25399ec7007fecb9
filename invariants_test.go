package lookuploop

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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

// TestPersistMetadataAfterAWriteThatWasNotSynced is about a Loop that could
// replace nsqd.dat but not sync the directory, and the one that follows: it
// finds the new file, which a crash would still take back.
func TestPersistMetadataAfterAWriteThatWasNotSynced(t *testing.T) {
	for name, atLoading := range map[string]fault{
		"the disk is fine again":    {},
		"it can't be synced either": {err: syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newMemoryDisk(nil)
				onDisk := func(o *Options) { o.DataPath = "data" }
				load := func() *Loop {
					loop := newLoop(t, onDisk)
					loop.disk = disk
					_, err := loop.LoadMetadata()
					require.NoError(t, err)
					return loop
				}
				before := load()
				disk.order(func(step string) (f fault) {
					if step == "sync directory" {
						f.err = syscall.EIO
					}
					return f
				})
				require.NoError(t, before.Notify(TopicCreated("orders")))
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				require.ErrorIs(t, before.Run(ended), syscall.EIO)

				disk.order(func(step string) (f fault) {
					if step == "sync directory" {
						f = atLoading
					}
					return f
				})
				loop := load()
				disk.order(nil)
				running, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				go loop.Run(running)
				require.NoError(t, loop.PersistMetadata(t.Context()))
				for _, outcome := range disk.afterCrash() {
					file := &metadataFile{path: "data/nsqd.dat", fs: outcome}
					m, err := file.load()
					require.NoError(t, err)
					require.Equal(t, []TopicMetadata{{Name: "orders", Channels: []ChannelMetadata{}}}, m.Topics)
				}
			})
		})
	}
}
