package lookuploop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// requireClosed wants ErrClosed of everything that changes or waits.
func requireClosed(t *testing.T, loop *Loop) {
	t.Helper()
	require.ErrorIs(t, loop.Notify(TopicCreated("late")), ErrClosed)
	require.ErrorIs(t, loop.SetMetadata(Metadata{}), ErrClosed)
	require.ErrorIs(t, loop.SetLookupdTCPAddresses(nil), ErrClosed)
	require.ErrorIs(t, loop.WaitRegistered(t.Context(), 0), ErrClosed)
	require.ErrorIs(t, loop.PersistMetadata(t.Context()), ErrClosed)
	require.ErrorIs(t, loop.Run(t.Context()), ErrClosed)
	_, loaded := loop.LoadMetadata()
	_, asked := loop.TopicChannels(t.Context(), "orders")
	_, verified := loop.Verify(t.Context())
	require.Equal(t, []error{ErrClosed, ErrClosed, ErrClosed}, []error{loaded, asked, verified})
}

// onDisk makes a Loop whose DataPath is on disk.
func onDisk(t *testing.T, disk *nsqdattest.Disk) *Loop {
	loop := newLoop(t, func(o *Options) { o.DataPath = "data" })
	loop.disk = disk
	return loop
}

func TestCloseWithoutRunWritesAndGivesDataPathFree(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		disk := nsqdattest.NewDisk(nil)
		loop := onDisk(t, disk)
		_, err := loop.LoadMetadata()
		require.NoError(t, err)
		require.NoError(t, loop.Notify(TopicCreated("orders")))
		for range 2 {
			require.NoError(t, loop.Close())
			requireClosed(t, loop)
		}

		again := onDisk(t, disk)
		m, err := again.LoadMetadata()
		require.NoError(t, err)
		require.Equal(t, []TopicMetadata{{Name: "orders"}}, m.Topics)
		require.NoError(t, again.Close())
	})
}

func TestCloseOfALoopThatWasNeverUsed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for _, path := range []string{"", "data"} {
			s := newScene(t, 1, func(o *Options) { o.DataPath = path })
			s.loop.disk = nsqdattest.NewDisk(nil)
			require.NoError(t, s.loop.Close())
			requireClosed(t, s.loop)
			synctest.Wait()
			require.Zero(t, s.lookupds[0].Connections())
		}
	})
}

func TestCloseEndsRunAndWaitsForIt(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		s.notify(TopicCreated("orders"), TopicCreated("live#ephemeral"))
		s.registered()
		heard := listen(s.lookupds[0])
		require.NoError(t, s.loop.Close())
		requireClosed(t, s.loop)
		require.NoError(t, s.end(), "Run's context had not ended")
		synctest.Wait()
		require.Equal(t, []string{"UNREGISTER live#ephemeral"}, heard())
		require.Zero(t, s.lookupds[0].Connections())
		require.NoError(t, s.loop.Close())
	})
}

func TestCloseReturnsWhyTheLastWriteFailed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		disk := nsqdattest.NewDisk(nil)
		loop := onDisk(t, disk)
		_, err := loop.LoadMetadata()
		require.NoError(t, err)
		disk.Order(func(step string) (f nsqdattest.Fault) {
			if step == "sync" {
				f.Err = syscall.EIO
			}
			return f
		})
		ran := make(chan error, 1)
		go func() { ran <- loop.Run(t.Context()) }()
		synctest.Wait()
		require.ErrorIs(t, loop.Close(), syscall.EIO)
		require.ErrorIs(t, <-ran, syscall.EIO)
		require.ErrorIs(t, loop.Close(), syscall.EIO)
	})
}

// What Run returns gets lost in go loop.Run(ctx).
func TestRunThatDidNotStartIsInTheLogAndInClose(t *testing.T) {
	var log logBuffer
	loop := newLoop(t, log.infoOf, func(o *Options) { o.DataPath = "data" })
	loop.Run(t.Context())
	require.Contains(t, log.last(), `level=ERROR msg="Run did not start" error="lookuploop: call LoadMetadata before Run`)
	require.ErrorContains(t, loop.Registered(1), "Run did not start (call LoadMetadata before Run")
	require.ErrorContains(t, loop.Close(), "call LoadMetadata before Run")
	requireClosed(t, loop)
	require.Len(t, log.lines("msg="), 1, "Run after Close is no news")
}

// TestCloseDuringLoadMetadataWaitsForIt: otherwise DataPath would stay locked.
func TestCloseDuringLoadMetadataWaitsForIt(t *testing.T) {
	for _, failure := range []error{nil, syscall.EIO} {
		inBubble(t, func(t *testing.T) {
			disk := nsqdattest.NewDisk(nil)
			disk.Order(func(step string) (f nsqdattest.Fault) {
				if step == "stat" {
					time.Sleep(time.Second)
					f.Err = failure
				}
				return f
			})
			loop := onDisk(t, disk)
			loaded := make(chan error, 1)
			go func() { _, err := loop.LoadMetadata(); loaded <- err }()
			synctest.Wait()
			require.NoError(t, loop.Close())
			require.ErrorIs(t, <-loaded, failure)
			requireClosed(t, loop)

			disk.Order(nil)
			again := onDisk(t, disk)
			_, err := again.LoadMetadata()
			require.NoError(t, err)
			require.NoError(t, again.Close())
		})
	}
}

// TestCloseAtAnyTime calls it from many goroutines, while others load, run,
// change and wait.
func TestCloseAtAnyTime(t *testing.T) {
	for delay := range 20 {
		inBubble(t, func(t *testing.T) {
			disk := nsqdattest.NewDisk(nil)
			disk.Order(func(string) nsqdattest.Fault { time.Sleep(time.Millisecond); return nsqdattest.Fault{} })
			loop := onDisk(t, disk)
			var callers sync.WaitGroup
			call := func(after time.Duration, f func() error) {
				callers.Go(func() {
					time.Sleep(after)
					if err := f(); err != nil && !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
				})
			}
			call(0, func() error {
				_, err := loop.LoadMetadata()
				if err == nil {
					call(0, func() error { return loop.Notify(TopicCreated("orders")) })
					call(0, func() error { return loop.PersistMetadata(context.Background()) })
					call(0, func() error { return loop.WaitRegistered(context.Background(), 1) })
					err = loop.Run(context.Background())
				}
				return err
			})
			for range 3 {
				call(time.Duration(delay)*time.Millisecond, loop.Close)
			}
			callers.Wait()
			requireClosed(t, loop)

			_, err := disk.Open("data")
			require.NoError(t, err, "it is not locked")
		})
	}
}

// killedChild is the environment variable that makes the test binary be
// persistUntilKilled, in the data path that it names.
const killedChild = "LOOKUPLOOP_PERSIST_UNTIL_KILLED"

func init() {
	if dir := os.Getenv(killedChild); dir != "" {
		fmt.Fprintln(os.Stderr, persistUntilKilled(dir))
		os.Exit(1)
	}
}

// persistUntilKilled is a broker that adds one topic after another to those in
// dir, as in manyTopics, and prints how many there are each time
// PersistMetadata has confirmed them.
func persistUntilKilled(dir string) error {
	ctx := context.Background()
	opts := validOptions()
	opts.DataPath = dir
	opts.Version = manyTopics(0).Version
	loop, err := New(opts)
	if err != nil {
		return err
	}
	m, err := loop.LoadMetadata()
	if err != nil {
		return err
	}
	go loop.Run(ctx)
	for n := len(m.Topics); ; {
		topic := fmt.Sprint("topic", n)
		n++
		if err := loop.Notify(TopicCreated(topic), ChannelCreated(topic, "channel")); err != nil {
			return err
		}
		if err := loop.PersistMetadata(ctx); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err // the test has ended
		}
	}
}

func TestMetadataSurvivesSIGKILL(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for one that hangs
	defer cancel()
	confirmed, leftovers := 0, 0
	kills := inFull(200)
	for range kills {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), killedChild+"="+dir)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())

		lines := bufio.NewScanner(stdout)
		confirmations := 1 + random.IntN(3)
		delay := time.Duration(random.IntN(2000)) * time.Microsecond
		var kill *time.Timer
		for lines.Scan() {
			_, err := fmt.Sscan(lines.Text(), &confirmed)
			require.NoError(t, err)
			if confirmations--; confirmations == 0 {
				kill = time.AfterFunc(delay, func() { cmd.Process.Kill() })
			}
		}
		require.NotNil(t, kill, "the process ended or hung before it was killed")
		require.Error(t, cmd.Wait())

		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		leftovers += len(files) - 1

		loop := newLoop(t, func(o *Options) { o.DataPath = dir })
		m, err := loop.LoadMetadata() // the lock died with the process
		require.NoError(t, err)
		require.NoError(t, loop.Close())
		require.GreaterOrEqual(t, len(m.Topics), confirmed)
		require.LessOrEqual(t, len(m.Topics), confirmed+1)
		require.Equal(t, manyTopics(len(m.Topics)), m)

		files, err = os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, files, 1)
	}
	if *long {
		require.NotZero(t, leftovers, "no kill hit a write")
	}
	t.Logf("%d rounds, %d confirmed, %d rounds left a temporary file", kills, confirmed, leftovers)
}

// TestEverythingAtOnce calls every method from many goroutines, while the Loop
// runs and after its end. The race detector and the methods' own errors judge.
func TestEverythingAtOnce(t *testing.T) {
	for round := range 20 {
		inBubble(t, func(t *testing.T) {
			var loop *Loop
			s := newScene(t, 2, func(o *Options) {
				o.DataPath = "data"
				o.ResolveInterval = time.Duration(round%2) * time.Minute
				o.OnStateChange = func(LookupdStatus) {
					loop.Notify(TopicCreated("noticed"))
					loop.SetLookupdTCPAddresses(o.LookupdTCPAddresses)
				}
			})
			loop = s.loop
			loop.opts.HTTPClient = s.network.Client()
			loop.names.Resolver = s.network
			loop.disk = nsqdattest.NewDisk(nil)
			_, err := loop.LoadMetadata()
			require.NoError(t, err)
			addresses := loop.opts.LookupdTCPAddresses
			short := func() context.Context {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				t.Cleanup(cancel)
				return ctx
			}
			allowed := func(err error, also ...error) {
				isAllowed := func(target error) bool { return errors.Is(err, target) }
				require.True(t, slices.ContainsFunc(append(also, nil, ErrClosed), isAllowed), err)
			}
			s.run()
			synctest.Wait()
			var callers sync.WaitGroup
			for _, call := range []func(int){
				func(i int) {
					allowed(loop.Notify(TopicCreated("orders"), ChannelCreated("orders", fmt.Sprint("c", i%5))))
				},
				func(i int) { allowed(loop.Notify(TopicDeleted("orders"))) },
				func(i int) { allowed(loop.Notify(ChannelCreated("orders", "late")), ErrUnknown) },
				func(i int) { allowed(loop.SetMetadata(some())) },
				func(i int) { allowed(loop.SetLookupdTCPAddresses(addresses[i%2 : 1+i%2])) },
				func(i int) { allowed(loop.WaitRegistered(short(), i%3), context.DeadlineExceeded) },
				func(i int) { allowed(loop.PersistMetadata(short()), context.DeadlineExceeded) },
				func(i int) { loop.TopicChannels(short(), "orders"); loop.Verify(short()) },
				func(i int) { loop.Status(); loop.Registered(1); loop.Metadata(); loop.TopicMetadata("orders") },
				func(i int) { _, err := loop.LoadMetadata(); require.Error(t, err) },
				func(i int) { require.Error(t, loop.Run(t.Context())) },
			} {
				callers.Go(func() {
					for i := range 20 {
						call(i)
						time.Sleep(time.Millisecond)
					}
				})
			}
			time.Sleep(10 * time.Millisecond)
			allowed(loop.Drain(short()), context.DeadlineExceeded)
			time.Sleep(5 * time.Millisecond)
			require.NoError(t, s.end())
			callers.Wait()
		})
	}
}

// TestNilContext gives nil to each method that takes a context. As in the
// standard library it is a programmer's fault, and a panic where there is no
// error that says it better. Nothing else is harmed.
func TestNilContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var none context.Context
		s := newScene(t, 1, func(o *Options) { o.DataPath = "data" })
		s.loop.disk = nsqdattest.NewDisk(nil)
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		require.ErrorContains(t, s.loop.Run(none), "Run needs a context")
		s.run()
		s.registered()

		for range 2 { // with nothing to wait for, and with something
			require.Panics(t, func() { s.loop.WaitRegistered(none, 0) })
			s.notify(TopicCreated("orders"))
		}
		s.loop.disk.(*nsqdattest.Disk).Order(func(string) nsqdattest.Fault { time.Sleep(time.Second); return nsqdattest.Fault{} })
		s.notify(TopicDeleted("orders"))
		require.Panics(t, func() { s.loop.PersistMetadata(none) })
		_, err = s.loop.TopicChannels(none, "orders")
		require.ErrorContains(t, err, "nil Context")

		s.registered()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.NoError(t, s.end())
	})
}

// TestContextThatHasEnded gives one to each method that waits.
func TestContextThatHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1, func(o *Options) { o.DataPath = "data"; o.HTTPClient = nil })
		s.loop.opts.HTTPClient = s.network.Client()
		s.loop.disk = nsqdattest.NewDisk(nil)
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		s.notify(TopicCreated("orders"))
		ended, cancel := context.WithCancel(t.Context())
		cancel()

		require.ErrorIs(t, s.loop.WaitRegistered(ended, 0), context.Canceled)
		require.ErrorIs(t, s.loop.PersistMetadata(ended), context.Canceled)
		s.run()
		s.registered()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))

		require.NoError(t, s.loop.WaitRegistered(ended, 0), "there is nothing to wait for")
		require.NoError(t, s.loop.PersistMetadata(ended))
		_, err = s.loop.TopicChannels(ended, "orders")
		require.ErrorIs(t, err, context.Canceled)
	})
}

// panickingChild is the environment variable that makes the test binary be panicInCallback.
const panickingChild = "LOOKUPLOOP_PANIC_IN_CALLBACK"

func init() {
	if os.Getenv(panickingChild) != "" {
		panicInCallback()
		os.Exit(0)
	}
}

func panicInCallback() {
	lookupd := lookupdtest.NewServer()
	opts := validOptions()
	opts.LookupdTCPAddresses = []string{lookupd.TCPAddress}
	opts.OnStateChange = func(LookupdStatus) { panic("the embedder's own fault") }
	loop, err := New(opts)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	loop.Run(ctx)
}

// TestOnStateChangeThatPanics is about a fault that isn't ours to hide: the
// process ends, as with a panic in any goroutine.
func TestOnStateChangeThatPanics(t *testing.T) {
	binary, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), binary)
	child.Env = append(os.Environ(), panickingChild+"=1")
	output, err := child.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 2, exit.ExitCode())
	require.Contains(t, string(output), "panic: the embedder's own fault")
	require.Contains(t, string(output), "panicInCallback", "the trace shows whose it is")
}
