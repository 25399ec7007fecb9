package lookuploop

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// writerBench is a metadataWriter on a memoryDisk, with a stand-in for the
// registry: a list of topics whose length is its version. Make it in a synctest bubble.
type writerBench struct {
	t      *testing.T
	disk   *memoryDisk
	writer *metadataWriter
	began  time.Time
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex
	topics []TopicMetadata
	logs   []string
}

func newWriterBench(t *testing.T) *writerBench {
	b := &writerBench{t: t, disk: newMemoryDisk(nil), began: time.Now(), ended: make(chan error, 1)}
	file, err := openMetadataFile("data", b.disk)
	require.NoError(t, err)
	b.disk.steps = nil
	b.writer = newMetadataWriter(file, b.snapshot, b.version, slog.New(b))
	return b
}

// change adds n topics, each as a change of its own.
func (b *writerBench) change(n int) {
	for range n {
		b.mu.Lock()
		b.topics = append(b.topics, TopicMetadata{Name: fmt.Sprint("topic", len(b.topics)), Channels: []ChannelMetadata{}})
		b.mu.Unlock()
		b.writer.changed()
	}
}

func (b *writerBench) version() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(len(b.topics))
}

func (b *writerBench) snapshot() (Metadata, uint64) {
	b.writer.status() // hangs if the writer holds its lock
	b.mu.Lock()
	defer b.mu.Unlock()
	return Metadata{Topics: b.topics[:len(b.topics):len(b.topics)]}, uint64(len(b.topics))
}

// run starts the writer; end ends it and returns its error.
func (b *writerBench) run() {
	ctx, cancel := context.WithCancel(b.t.Context())
	b.cancel = cancel
	go func() { b.ended <- b.writer.run(ctx) }()
	synctest.Wait()
}

func (b *writerBench) end() error {
	b.cancel()
	return <-b.ended
}

// persistLater calls persist and returns where its result will be.
func (b *writerBench) persistLater() <-chan error {
	result := make(chan error, 1)
	go func() { result <- b.writer.persist(b.t.Context()) }()
	synctest.Wait()
	return result
}

// failWith lets each step of this name fail; nil lifts that.
func (b *writerBench) failWith(step string, err error) {
	b.disk.order(func(s string) fault {
		if s == step {
			return fault{err: err}
		}
		return fault{}
	})
}

func (b *writerBench) requireOnDisk(topics int) {
	b.t.Helper()
	m, err := b.writer.file.load()
	require.NoError(b.t, err)
	require.Len(b.t, m.Topics, topics)
	requireNoTempFile(b.t, b.disk)
}

func (b *writerBench) requireElapsed(d time.Duration) {
	b.t.Helper()
	require.Equal(b.t, d, time.Since(b.began))
}

// writerBench is the writer's slog.Handler, too.
func (b *writerBench) Enabled(context.Context, slog.Level) bool { return true }
func (b *writerBench) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *writerBench) WithGroup(string) slog.Handler            { return b }

func (b *writerBench) Handle(_ context.Context, r slog.Record) error {
	b.writer.status() // hangs if the writer holds its lock
	b.mu.Lock()
	defer b.mu.Unlock()
	b.logs = append(b.logs, r.Level.String()+" "+r.Message)
	return nil
}

func (b *writerBench) logged() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.logs)
}

func TestFirstChangeIsWrittenAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		b.change(1)
		synctest.Wait()
		b.requireOnDisk(1)
		b.requireElapsed(0)

		time.Sleep(coalescePause)
		b.change(1)
		synctest.Wait()
		b.requireOnDisk(2)
		b.requireElapsed(coalescePause)
		require.NoError(t, b.end())
	})
}

func TestBurstOfChangesCostsAFewWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		b.change(1000)
		time.Sleep(time.Second)
		b.requireOnDisk(1000)
		require.LessOrEqual(t, b.writer.status().Writes, uint64(2))

		for range 1000 { // for one second
			b.change(1)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		b.requireOnDisk(2000)
		require.LessOrEqual(t, b.writer.status().Writes, uint64(2+11))
		require.NoError(t, b.end())
	})
}

func TestNothingIsWrittenWithoutAChange(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.change(5)
		b.writer.loaded(5)
		b.run()
		require.NoError(t, b.writer.persist(t.Context()))
		time.Sleep(time.Hour)
		require.NoError(t, b.end())
		require.NoError(t, b.writer.persist(t.Context()))
		require.Empty(t, b.disk.steps)
		require.Equal(t, MetadataStatus{Path: filepath.Join("data", metadataName)}, b.writer.status())
	})
}

func TestChangeNeverWaitsForTheDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.disk.order(func(string) fault { time.Sleep(time.Hour); return fault{} })
		b.run()
		b.change(1000)
		synctest.Wait()
		b.change(1000)
		require.True(t, b.writer.status().Dirty)
		b.requireElapsed(0)
		require.NoError(t, b.end())
		require.False(t, b.writer.status().Dirty)
	})
}

func TestFailedWriteIsRetriedWithGrowingPausesUntilItSucceeds(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EACCES} {
		inBubble(t, func(t *testing.T) {
			b := newWriterBench(t)
			var attempts []time.Duration
			b.disk.order(func(step string) fault {
				if step == "create" {
					attempts = append(attempts, time.Since(b.began))
					return fault{err: errno}
				}
				return fault{}
			})
			b.run()
			b.change(1)
			time.Sleep(17 * time.Second)
			synctest.Wait()
			ms := time.Millisecond
			require.Equal(t, []time.Duration{0, 100 * ms, 300 * ms, 700 * ms, 1500 * ms, 3100 * ms, 6300 * ms, 11300 * ms, 16300 * ms}, attempts)

			b.change(100) // doesn't hurry a failing disk
			synctest.Wait()
			status := b.writer.status()
			require.ErrorIs(t, status.LastError, errno)
			require.Equal(t, MetadataStatus{Path: b.writer.file.path, Dirty: true, LastError: status.LastError, Failures: 9}, status)
			require.Equal(t, []string{"ERROR metadata can't be written, will be tried again"}, b.logged())

			b.disk.order(nil)
			time.Sleep(maxRetryPause)
			b.requireOnDisk(101)
			require.Equal(t, MetadataStatus{
				Path: b.writer.file.path, LastWrite: b.began.Add(21300 * ms), Writes: 1, Failures: 9,
			}, b.writer.status())
			require.Equal(t, []string{"ERROR metadata can't be written, will be tried again", "INFO metadata is written again"}, b.logged())

			b.change(1) // with the pause of a write that succeeded, and without a word
			time.Sleep(coalescePause)
			synctest.Wait()
			b.requireOnDisk(102)
			require.Len(t, b.logged(), 2)

			b.failWith("create", errno) // from the shortest pause on again
			b.change(1)
			time.Sleep(coalescePause + minRetryPause)
			synctest.Wait()
			require.EqualValues(t, 9+2, b.writer.status().Failures)
			b.disk.order(nil)
			require.NoError(t, b.end())
		})
	}
}

func TestEndOfRunWritesWhatIsLeftWithoutThePause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		b.change(1)
		synctest.Wait()
		b.change(1)
		synctest.Wait()
		b.requireOnDisk(1)
		require.NoError(t, b.end())
		b.requireOnDisk(2)
		b.requireElapsed(0)
	})
}

func TestRunWhoseContextHasEndedStillWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.change(3)
		early := b.persistLater()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, b.writer.run(ctx))
		require.NoError(t, <-early)
		b.requireOnDisk(3)
	})
}

func TestLastWriteIsRetriedForHalfASecond(t *testing.T) {
	for failures := range 6 {
		inBubble(t, func(t *testing.T) {
			b := newWriterBench(t)
			b.change(1)
			attempts := 0
			b.disk.order(func(step string) fault {
				if step != "sync" {
					return fault{}
				}
				attempts++
				if attempts <= failures {
					return fault{err: syscall.EIO}
				}
				return fault{}
			})
			b.run()
			err := b.end() // the first attempt was before this
			require.LessOrEqual(t, time.Since(b.began), 500*time.Millisecond)
			b.disk.order(nil)
			later := b.writer.persist(t.Context())
			if failures <= 1+len(lastRetries) {
				require.NoError(t, err)
				require.NoError(t, later)
				b.requireOnDisk(1)
				return
			}
			require.ErrorIs(t, err, syscall.EIO)
			require.ErrorIs(t, later, ErrClosed)
			require.ErrorIs(t, later, syscall.EIO)
			require.True(t, b.writer.status().Dirty)
		})
	}
}
