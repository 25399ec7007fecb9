package nsqdat_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

func TestPersistBeforeRunWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.change(1)
		b.failWith("sync", syscall.EIO)
		require.ErrorIs(t, b.writer.Persist(t.Context()), syscall.EIO)
		b.failWith("sync", nil)
		require.NoError(t, b.writer.Persist(t.Context()))
		b.requireOnDisk(1)
		require.NoError(t, b.writer.Persist(t.Context()))
		require.EqualValues(t, 1, b.writer.Status().Writes)
		b.requireElapsed(0)

		b.change(1) // Run takes it from here
		b.run()
		time.Sleep(nsqdat.CoalescePause)
		synctest.Wait()
		b.requireOnDisk(2)
		require.NoError(t, b.end())
	})
}

// TestPersistBeforeRunIsTheOnlyOneThatWrites is about several callers, and a
// Run that begins, while one of them writes.
func TestPersistBeforeRunIsTheOnlyOneThatWrites(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		writers := 0
		b.disk.Order(func(step string) nsqdattest.Fault {
			switch step {
			case "create":
				writers++
				if writers != 1 {
					t.Error("two at a time write")
				}
				time.Sleep(time.Second)
			case "sync directory":
				writers--
			}
			return nsqdattest.Fault{}
		})
		b.change(1)
		first, second := b.persistLater(), b.persistLater()
		b.run()
		require.NoError(t, <-first)
		require.NoError(t, <-second)
		require.EqualValues(t, 1, b.writer.Status().Writes)
		b.change(1)
		require.NoError(t, b.end())
		b.requireOnDisk(2)
	})
}

func TestPersistDoesNotWaitForThePause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		for i := range 10 {
			b.change(1)
			require.NoError(t, b.writer.Persist(t.Context()))
			b.requireOnDisk(i + 1)
		}
		b.requireElapsed(0)

		b.failWith("create", syscall.EIO)
		b.change(1)
		synctest.Wait()
		require.ErrorIs(t, b.writer.Persist(t.Context()), syscall.EIO)
		b.requireElapsed(0)
		b.failWith("create", nil)
		require.NoError(t, b.writer.Persist(t.Context()))
		b.requireElapsed(0)
		require.NoError(t, b.end())
	})
}

func TestAnsweredPersistDoesNotShortenALaterPause(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.disk.Order(func(string) nsqdattest.Fault { time.Sleep(time.Millisecond); return nsqdattest.Fault{} })
		b.run()
		b.change(1)
		synctest.Wait() // it is being written
		result := b.persistLater()
		b.change(1)
		require.NoError(t, <-result) // by that first write
		time.Sleep(nsqdat.CoalescePause / 2)
		synctest.Wait()
		require.EqualValues(t, 1, b.writer.Status().Writes)
		require.NoError(t, b.end())
	})
}

func TestPersistAfterRunSaysWhatIsNotOnDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		b.change(1)
		require.NoError(t, b.end())
		require.NoError(t, b.writer.Persist(t.Context()))
		b.change(1)
		require.ErrorIs(t, b.writer.Persist(t.Context()), nsqdat.ErrClosed)
	})
}

func TestPersistDuringTheLastWriteSaysWhatIsNotOnDisk(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.change(1)
		b.disk.Order(func(step string) nsqdattest.Fault {
			if step == "sync" {
				time.Sleep(time.Second)
			}
			return nsqdattest.Fault{}
		})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		go func() { b.ended <- b.writer.Run(ctx) }()
		synctest.Wait()
		in := b.persistLater()
		b.change(1)
		late := b.persistLater()
		require.NoError(t, <-b.ended)
		require.NoError(t, <-in)
		require.ErrorIs(t, <-late, nsqdat.ErrClosed)
	})
}

func TestPersistEndsWithItsContextAndSaysWhatItWaitedFor(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.change(1)
		persist := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return b.writer.Persist(ctx)
		}
		b.disk.Order(func(string) nsqdattest.Fault { time.Sleep(time.Minute); return nsqdattest.Fault{} })
		b.run()
		err := persist()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, b.file.Path())
		b.requireElapsed(time.Second)
		require.Zero(t, b.writer.Waiting())
		require.NoError(t, b.end())
	})
}

func TestConcurrentPersistsShareAWrite(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.disk.Order(func(string) nsqdattest.Fault { time.Sleep(time.Millisecond); return nsqdattest.Fault{} })
		b.run()
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				b.change(1)
				if err := b.writer.Persist(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		require.LessOrEqual(t, b.writer.Status().Writes, uint64(2))
		b.requireOnDisk(100)
		require.NoError(t, b.end())
	})
}

func TestPersistIsNotToldOfTheFailureOfAWriteThatBeganBefore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		writes := 0
		b.disk.Order(func(step string) nsqdattest.Fault {
			if step == "create" {
				writes++
			}
			if step == "sync" && writes == 1 {
				time.Sleep(time.Second)
				return nsqdattest.Fault{Err: syscall.EIO}
			}
			return nsqdattest.Fault{}
		})
		b.run()
		b.change(1)
		synctest.Wait() // in the write that will fail
		require.NoError(t, b.writer.Persist(t.Context()))
		require.Equal(t, 2, writes)
		b.requireElapsed(time.Second)
		require.NoError(t, b.end())
	})
}

func TestPersistTellsTheTruthAboutDurability(t *testing.T) {
	onDisk := func(t *testing.T, rest *nsqdattest.Disk) int {
		f, err := nsqdat.Open(rest, "data")
		require.NoError(t, err)
		_, items := load(t, f)
		return len(items)
	}
	steps := []string{"create", "write", "sync", "close", "stat", "rename", "sync directory"}
	for _, step := range steps {
		for _, at := range []nsqdattest.Fault{{Err: syscall.EIO}, {Err: syscall.ENOSPC, Done: true}, {Crash: true}} {
			for fails := range 4 { // so many attempts meet the fault
				inBubble(t, func(t *testing.T) {
					b := newWriterBench(t)
					met := 0
					b.disk.Order(func(s string) nsqdattest.Fault {
						if s != step || met == fails {
							return nsqdattest.Fault{}
						}
						met++
						return at
					})
					b.run()
					confirmed := 0
					for range 5 {
						b.change(1)
						err := b.writer.Persist(t.Context())
						if err == nil {
							confirmed = len(b.topics)
						} else {
							require.True(t, errors.Is(err, at.Err) || at.Crash && errors.Is(err, nsqdattest.ErrMachineStopped))
						}
						for _, rest := range b.disk.AfterCrash() {
							n := onDisk(t, rest)
							require.LessOrEqual(t, confirmed, n)
							require.LessOrEqual(t, n, len(b.topics))
						}
					}
					if !at.Crash || fails == 0 {
						require.Equal(t, 5, confirmed)
					} else {
						require.Zero(t, confirmed)
					}
					b.end()
				})
			}
		}
	}
}

// TestPersistWhileRunEnds is for the race detector.
func TestPersistWhileRunEnds(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				var err error
				for n := 0; err == nil; n++ {
					if n == 10 {
						b.cancel()
					}
					b.change(1)
					err = b.writer.Persist(t.Context())
				}
				assert.ErrorIs(t, err, nsqdat.ErrClosed)
			})
		}
		all.Wait()
		require.NoError(t, b.end())
	})
}
