package nsqdat_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

// writerBench is a Writer on a disk in memory, and its source: a list of topics
// whose length is its version. Make it in a synctest bubble.
type writerBench struct {
	t      *testing.T
	disk   *nsqdattest.Disk
	file   *nsqdat.File
	writer *nsqdat.Writer
	began  time.Time
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex
	topics []nsqdat.Item
	logs   []string
}

func newWriterBench(t *testing.T) *writerBench {
	b := newWriterBenchOn(t, nsqdattest.NewDisk(map[string]string{nsqdat.Name: fileOf(t, "")}))
	load(t, b.file)
	b.disk.Steps()
	b.writer.Loaded(0)
	return b
}

// newWriterBenchOn makes a Writer that takes it that there is no file.
func newWriterBenchOn(t *testing.T, disk *nsqdattest.Disk) *writerBench {
	b := &writerBench{t: t, disk: disk, began: time.Now(), ended: make(chan error, 1)}
	file, err := nsqdat.Open(b.disk, "data")
	require.NoError(t, err)
	b.disk.Steps()
	b.file = file
	b.writer = nsqdat.NewWriter(file, b, "", slog.New(b))
	return b
}

// change adds n topics, each as a change of its own.
func (b *writerBench) change(n int) {
	for range n {
		b.mu.Lock()
		b.topics = append(b.topics, nsqdat.Item{Topic: fmt.Sprint("topic", len(b.topics))})
		b.mu.Unlock()
		b.writer.Changed()
	}
}

func (b *writerBench) Version() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return uint64(len(b.topics))
}

func (b *writerBench) Walk(yield func(nsqdat.Item) bool) (version uint64) {
	b.writer.Status() // hangs if the writer holds its lock
	b.mu.Lock()
	topics := slices.Clone(b.topics)
	b.mu.Unlock()
	slices.Values(topics)(yield)
	return uint64(len(topics))
}

// run starts the writer; end ends it and returns its error.
func (b *writerBench) run() {
	ctx, cancel := context.WithCancel(b.t.Context())
	b.cancel = cancel
	go func() { b.ended <- b.writer.Run(ctx) }()
	synctest.Wait()
}

func (b *writerBench) end() error {
	b.cancel()
	return <-b.ended
}

// persistLater calls persist and returns where its result will be.
func (b *writerBench) persistLater() <-chan error {
	result := make(chan error, 1)
	go func() { result <- b.writer.Persist(b.t.Context()) }()
	synctest.Wait()
	return result
}

// failWith lets each step of this name fail; nil lifts that.
func (b *writerBench) failWith(step string, err error) {
	b.disk.Order(func(s string) nsqdattest.Fault {
		if s == step {
			return nsqdattest.Fault{Err: err}
		}
		return nsqdattest.Fault{}
	})
}

func (b *writerBench) requireOnDisk(topics int) {
	b.t.Helper()
	_, items := load(b.t, b.file)
	require.Len(b.t, items, topics)
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
	b.writer.Status() // hangs if the writer holds its lock
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

		time.Sleep(nsqdat.CoalescePause)
		b.change(1)
		synctest.Wait()
		b.requireOnDisk(2)
		b.requireElapsed(nsqdat.CoalescePause)
		require.NoError(t, b.end())
	})
}

func TestFileThatIsMissingIsWrittenWithoutAChange(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBenchOn(t, nsqdattest.NewDisk(nil))
		require.True(t, b.writer.Status().Dirty)
		b.run()
		require.Equal(t, map[string]string{nsqdat.Name: fileOf(t, "")}, b.disk.Files())
		require.EqualValues(t, 1, b.writer.Status().Writes)
		require.NoError(t, b.writer.Persist(t.Context()))
		time.Sleep(time.Hour)
		require.NoError(t, b.end())
		require.EqualValues(t, 1, b.writer.Status().Writes)
	})
}

func TestBurstOfChangesCostsAFewWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		b.change(1000)
		time.Sleep(time.Second)
		b.requireOnDisk(1000)
		require.LessOrEqual(t, b.writer.Status().Writes, uint64(2))

		for range 1000 { // for one second
			b.change(1)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		b.requireOnDisk(2000)
		require.LessOrEqual(t, b.writer.Status().Writes, uint64(2+11))
		require.NoError(t, b.end())
	})
}

func TestNothingIsWrittenWithoutAChange(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.change(5)
		b.writer.Loaded(5)
		b.run()
		require.NoError(t, b.writer.Persist(t.Context()))
		time.Sleep(time.Hour)
		require.NoError(t, b.end())
		require.NoError(t, b.writer.Persist(t.Context()))
		require.NotContains(t, b.disk.Steps(), "create")
		require.Equal(t, nsqdat.Status{Path: filepath.Join("data", nsqdat.Name)}, b.writer.Status())
	})
}

func TestChangeNeverWaitsForTheDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.disk.Order(func(string) nsqdattest.Fault { time.Sleep(time.Hour); return nsqdattest.Fault{} })
		b.run()
		b.change(1000)
		synctest.Wait()
		b.change(1000)
		require.True(t, b.writer.Status().Dirty)
		b.requireElapsed(0)
		require.NoError(t, b.end())
		require.False(t, b.writer.Status().Dirty)
	})
}

// TestWritesTakeAQuarterOfTheTimeAtMost is about a large file and changes that
// never cease, on a disk that works and on one that is full in the end.
func TestWritesTakeAQuarterOfTheTimeAtMost(t *testing.T) {
	for _, outcome := range []error{nil, syscall.ENOSPC} {
		inBubble(t, func(t *testing.T) {
			const took = 2 * time.Second
			b := newWriterBench(t)
			b.disk.Order(func(step string) nsqdattest.Fault {
				if step != "sync" {
					return nsqdattest.Fault{}
				}
				time.Sleep(took)
				return nsqdattest.Fault{Err: outcome}
			})
			b.run()
			const minute = 60
			for range minute * 10 {
				b.change(1)
				time.Sleep(100 * time.Millisecond)
			}
			status := b.writer.Status()
			writes := int(status.Writes + status.Failures)
			require.LessOrEqual(t, writes*int(took/time.Second), minute/4+int(took/time.Second))
			require.GreaterOrEqual(t, writes, 7, "and not much less")

			b.disk.Order(func(step string) nsqdattest.Fault {
				if step == "sync" {
					time.Sleep(took)
				}
				return nsqdattest.Fault{}
			})
			began := time.Now()
			require.NoError(t, b.writer.Persist(t.Context()))
			require.LessOrEqual(t, time.Since(began), 2*took, "what somebody waits for is not put off")
			b.cancel()
			<-b.ended
		})
	}
}

// TestPauseAfterAWriteIsBounded: a disk that hung for an hour isn't left alone for three.
func TestPauseAfterAWriteIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.disk.Order(func(step string) nsqdattest.Fault {
			if step == "sync" {
				time.Sleep(time.Hour)
			}
			return nsqdattest.Fault{}
		})
		b.run()
		b.change(1)
		time.Sleep(time.Hour)
		synctest.Wait()
		b.disk.Order(nil)
		b.change(1)
		time.Sleep(nsqdat.MaxPause)
		synctest.Wait()
		b.requireOnDisk(2)
		require.NoError(t, b.end())
	})
}

func TestFailedWriteIsRetriedWithGrowingPausesUntilItSucceeds(t *testing.T) {
	for _, errno := range []error{syscall.ENOSPC, syscall.EACCES} {
		inBubble(t, func(t *testing.T) {
			b := newWriterBench(t)
			var attempts []time.Duration
			b.disk.Order(func(step string) nsqdattest.Fault {
				if step == "create" {
					attempts = append(attempts, time.Since(b.began))
					return nsqdattest.Fault{Err: errno}
				}
				return nsqdattest.Fault{}
			})
			b.run()
			b.change(1)
			time.Sleep(17 * time.Second)
			synctest.Wait()
			ms := time.Millisecond
			require.Equal(t, []time.Duration{0, 100 * ms, 300 * ms, 700 * ms, 1500 * ms, 3100 * ms, 6300 * ms, 11300 * ms, 16300 * ms}, attempts)

			b.change(100) // doesn't hurry a failing disk
			synctest.Wait()
			status := b.writer.Status()
			require.ErrorIs(t, status.LastError, errno)
			require.Equal(t, nsqdat.Status{Path: b.file.Path(), Dirty: true, LastError: status.LastError, Failures: 9}, status)
			require.Equal(t, []string{"ERROR metadata can't be written, will retry"}, b.logged())

			b.disk.Order(nil)
			time.Sleep(nsqdat.MaxRetryPause)
			b.requireOnDisk(101)
			require.Equal(t, nsqdat.Status{
				Path: b.file.Path(), LastWrite: b.began.Add(21300 * ms), Writes: 1, Failures: 9,
			}, b.writer.Status())
			require.Equal(t, []string{"ERROR metadata can't be written, will retry", "INFO metadata is written again"}, b.logged())

			b.change(1) // with the pause of a write that succeeded, and without a word
			time.Sleep(nsqdat.CoalescePause)
			synctest.Wait()
			b.requireOnDisk(102)
			require.Len(t, b.logged(), 2)

			b.failWith("create", errno) // from the shortest pause on again
			b.change(1)
			time.Sleep(nsqdat.CoalescePause + nsqdat.MinRetryPause)
			synctest.Wait()
			require.EqualValues(t, 9+2, b.writer.Status().Failures)
			b.disk.Order(nil)
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
		require.NoError(t, b.writer.Run(ctx))
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
			b.disk.Order(func(step string) nsqdattest.Fault {
				if step != "sync" {
					return nsqdattest.Fault{}
				}
				attempts++
				if attempts <= failures {
					return nsqdattest.Fault{Err: syscall.EIO}
				}
				return nsqdattest.Fault{}
			})
			b.run()
			err := b.end() // the first attempt was before this
			require.LessOrEqual(t, time.Since(b.began), 500*time.Millisecond)
			b.disk.Order(nil)
			later := b.writer.Persist(t.Context())
			if failures <= 1+len(nsqdat.LastRetries) {
				require.NoError(t, err)
				require.NoError(t, later)
				b.requireOnDisk(1)
				return
			}
			require.ErrorIs(t, err, syscall.EIO)
			require.ErrorIs(t, later, nsqdat.ErrClosed)
			require.ErrorIs(t, later, syscall.EIO)
			require.True(t, b.writer.Status().Dirty)
		})
	}
}

// TestManyUseAWriterAtOnce is for the race detector.
func TestManyUseAWriterAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		var all sync.WaitGroup
		for _, use := range []func(){
			func() { b.change(1) },
			func() { b.writer.Persist(t.Context()) },
			func() { b.writer.Persist(t.Context()) },
			func() {
				soon, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
				defer cancel()
				b.writer.Persist(soon)
			},
			func() { b.writer.Status() },
			func() { b.writer.Loaded(0) },
			func() { b.disk.Remove(nsqdat.Name) },
			func() { b.disk.Files() },
			func() { b.disk.Steps() },
			func() {
				b.disk.Order(func(string) nsqdattest.Fault {
					runtime.Gosched()
					return nsqdattest.Fault{}
				})
			},
			func() { b.disk.AfterCrash() },
		} {
			all.Go(func() {
				for range 30 {
					use()
					runtime.Gosched()
				}
			})
		}
		all.Wait()
		b.change(1)
		for range 3 {
			all.Go(func() { b.writer.Persist(t.Context()); b.writer.Status() })
		}
		require.NoError(t, b.end())
		all.Wait()
		b.requireOnDisk(31)
	})
}
