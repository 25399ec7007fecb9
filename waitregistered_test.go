package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// waitLater calls WaitRegistered in a goroutine of its own, and returns
// whether it has returned yet, and what.
func (s *scene) waitLater(ctx context.Context, n int) (returned func() (bool, error)) {
	result := make(chan error, 1)
	go func() { result <- s.loop.WaitRegistered(ctx, n) }()
	return func() (bool, error) {
		synctest.Wait()
		select {
		case err := <-result:
			return true, err
		default:
			return false, nil
		}
	}
}

func requireWaits(t *testing.T, returned func() (bool, error)) {
	t.Helper()
	done, err := returned()
	require.False(t, done, "it returned %v", err)
}

func requireReturned(t *testing.T, returned func() (bool, error)) error {
	t.Helper()
	done, err := returned()
	require.True(t, done, "it still waits")
	return err
}

func TestWaitRegisteredMayPrecedeRun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		s.notify(TopicCreated("orders"))
		all, one := s.waitLater(t.Context(), 0), s.waitLater(t.Context(), 1)
		time.Sleep(time.Hour)
		requireWaits(t, all)
		requireWaits(t, one)
		s.run()
		time.Sleep(time.Second)
		require.NoError(t, requireReturned(t, all))
		require.NoError(t, requireReturned(t, one))
	})
}

func TestWaitRegisteredWithoutAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0)
		s.notify(TopicCreated("orders"))
		require.NoError(t, s.loop.WaitRegistered(t.Context(), 0), "all of none")
		require.NoError(t, s.loop.WaitRegistered(t.Context(), -1))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := s.loop.WaitRegistered(ctx, 1)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "lookuploop: not registered: 1 wanted, 0 configured (Drain, or no addresses), Run isn't running (start it: go loop.Run(ctx)): context deadline exceeded")
	})
}

func TestWaitRegisteredForMoreThanThereAreWaitsForThem(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		s.notify(TopicCreated("orders"))
		s.registered()
		two := s.waitLater(t.Context(), 2)
		time.Sleep(time.Hour)
		requireWaits(t, two)
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{"lookupd1.test:4160", s.start(2).TCPAddress}))
		time.Sleep(time.Millisecond)
		require.NoError(t, requireReturned(t, two))
		require.Equal(t, []string{"orders"}, announced(s.lookupds[1]))
	})
}

// An address that goes takes the wait for it along.
func TestWaitRegisteredForAllFollowsTheAddresses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		s.lookupds[1].Stop()
		s.run()
		all := s.waitLater(t.Context(), 0)
		time.Sleep(time.Minute)
		requireWaits(t, all)
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{s.lookupds[0].TCPAddress}))
		require.NoError(t, requireReturned(t, all))
	})
}

// It waits for what was accepted before the call, and not for what came later.
func TestWaitRegisteredIsAboutWhatWasAcceptedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		s.registered()
		s.network.SetLatency(100 * time.Millisecond)
		s.notify(TopicCreated("before"))
		wait := s.waitLater(t.Context(), 0)
		requireWaits(t, wait)
		time.Sleep(199 * time.Millisecond)
		s.lookupds[0].Do(lookupdtest.Hang())
		s.notify(TopicCreated("later"))
		requireWaits(t, wait)
		time.Sleep(time.Millisecond)
		require.NoError(t, requireReturned(t, wait))
		require.Equal(t, []string{"before"}, announced(s.lookupds[0]))

		later := s.waitLater(t.Context(), 0)
		time.Sleep(time.Minute)
		requireWaits(t, later)
	})
}

// A deletion has to be acknowledged, too.
func TestWaitRegisteredWaitsForDeletions(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"))
		s.run()
		s.registered()
		lift := s.lookupds[0].Do(lookupdtest.Delay(300 * time.Millisecond))
		s.notify(TopicDeleted("orders"))
		started := time.Now()
		s.registered()
		lift()
		require.Equal(t, 600*time.Millisecond, time.Since(started), "UNREGISTER of the channel and of the topic")
		require.Empty(t, announced(s.lookupds[0]))
	})
}

// A lookupd that lost its connection knows nothing, whatever it acknowledged.
func TestWaitRegisteredCountsConnectedLookupdsOnly(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		s.notify(TopicCreated("orders"))
		s.run()
		s.registered()
		lift := s.lookupds[1].Do(lookupdtest.Refuse())
		s.lookupds[1].CloseConnections()
		synctest.Wait()
		wait, one := s.waitLater(t.Context(), 2), s.waitLater(t.Context(), 1)
		requireWaits(t, wait)
		require.NoError(t, requireReturned(t, one))
		lift()
		time.Sleep(time.Second)
		require.NoError(t, requireReturned(t, wait))
	})
}

func TestWaitRegisteredReturnsRefusalsWhenItCannotDoWithoutThem(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 3)
		for i, refused := range []string{"orders", "orders mail"} {
			s.lookupds[i].Do(lookupdtest.On("REGISTER "+refused, lookupdtest.Reject([]string{"E_BAD_TOPIC no", "E_BAD_CHANNEL no"}[i])))
		}
		s.notify(TopicCreated("good"), TopicCreated("orders"), ChannelCreated("orders", "mail"))
		s.run()
		one, two := s.waitLater(t.Context(), 1), s.waitLater(t.Context(), 2)
		all, four := s.waitLater(t.Context(), 0), s.waitLater(t.Context(), 4)
		time.Sleep(14 * time.Second) // before refused names are tried again
		require.NoError(t, requireReturned(t, one), "there is one that refused nothing")
		requireWaits(t, four)
		refusals := []error{
			&ResponseError{Address: "lookupd1.test:4160", Command: "REGISTER", Topic: "orders", Channel: "mail", Code: "E_BAD_TOPIC", Message: "no"},
			&ResponseError{Address: "lookupd2.test:4160", Command: "REGISTER", Topic: "orders", Channel: "mail", Code: "E_BAD_CHANNEL", Message: "no"},
		}
		require.Equal(t, refusals, faults(requireReturned(t, two)), "with one refusal there were two left")
		require.Subset(t, refusals, faults(requireReturned(t, all)), "one was enough")
		require.Equal(t, []string{"good"}, announced(s.lookupds[0]))
		require.Equal(t, []string{"good", "orders"}, announced(s.lookupds[1]))
		require.Equal(t, []string{"good", "orders", "orders mail"}, announced(s.lookupds[2]))

		// Once the broker gives the name up, there is nothing refused any more.
		s.notify(TopicDeleted("orders"))
		s.registered()
	})
}

func TestWaitRegisteredNamesTenRefusalsAndCountsTheOthers(t *testing.T) {
	for refused, others := range map[int]string{10: "", 12: "lookuploop: and 2 more names"} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			s.lookupds[0].Do(lookupdtest.On("REGISTER bad-*", lookupdtest.BadTopic()))
			require.NoError(t, s.loop.SetMetadata(withBad(3, refused)))
			s.run()
			s.settled()
			all := faults(s.loop.WaitRegistered(t.Context(), 0))
			for i := range 10 {
				require.Equal(t, fmt.Sprintf("bad-%d", i), all[i].(*ResponseError).Topic, "the oldest first")
			}
			if others == "" {
				require.Len(t, all, 10)
			} else {
				require.EqualError(t, errors.Join(all[10:]...), others)
			}
		})
	}
}

func TestWaitRegisteredSaysWhichLookupdsAreMissingAndWhy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 5)
		s.lookupds[1].Stop()
		s.lookupds[2].Do(lookupdtest.Hang())
		s.lookupds[3].Do(lookupdtest.On("REGISTER b", lookupdtest.Reject("E_BAD_TOPIC no")))
		s.lookupds[4].Do(lookupdtest.On("REGISTER", lookupdtest.Delay(700*time.Millisecond)))
		for _, topic := range []string{"a", "b", "c"} {
			s.notify(TopicCreated(topic))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		s.run()
		started := time.Now()
		err := s.loop.WaitRegistered(ctx, 6)
		require.Equal(t, 1500*time.Millisecond, time.Since(started))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, ErrNotRegistered)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "lookupd3's")
		require.Regexp(t, `^lookuploop: not registered: 6 wanted, 5 configured, `+
			`lookupd2.test:4160 is \w+ \(dial: .*connection refused\), `+
			`lookupd3.test:4160 is \w+ \(IDENTIFY: no answer within 1s: .*\), `+
			`lookupd4.test:4160 refused 1 name \(REGISTER b: E_BAD_TOPIC no\), `+
			`lookupd5.test:4160 has 1 change to acknowledge: context deadline exceeded$`, err.Error())
	})
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := s.loop.WaitRegistered(ctx, 0)
		require.ErrorIs(t, err, context.Canceled)
		require.EqualError(t, err, "lookuploop: not registered: Run isn't running (start it: go loop.Run(ctx)): context canceled")
	})
}

// Registered is about this instant.
func TestRegisteredSaysAtOnceWhoIsMissingAndWhy(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		s.network.SetLatency(100 * time.Millisecond)
		registered := func(n int) string { return fmt.Sprint(s.loop.Registered(n)) }
		require.Equal(t, "lookuploop: not registered: Run isn't running (start it: go loop.Run(ctx))", registered(0))
		s.run()
		synctest.Wait()
		require.Equal(t, "lookuploop: not registered: lookupd1.test:4160 is connecting, lookupd2.test:4160 is connecting", registered(1))
		s.registered()
		began := time.Now()
		require.NoError(t, s.loop.Registered(0))
		require.NoError(t, s.loop.Registered(2))
		require.Equal(t, "lookuploop: not registered: 5 wanted, 2 configured", registered(5))

		s.notify(TopicCreated("orders"))
		require.Equal(t, "lookuploop: not registered: lookupd1.test:4160 has 1 change to acknowledge, lookupd2.test:4160 has 1 change to acknowledge", registered(0))
		require.Equal(t, began, time.Now(), "it doesn't wait")
		s.registered()
		require.NoError(t, s.loop.Registered(0))

		s.lookupds[1].Stop()
		s.lookupds[1].CloseConnections()
		time.Sleep(time.Minute)
		require.NoError(t, s.loop.Registered(1))
		err := s.loop.Registered(2)
		require.ErrorIs(t, err, ErrNotRegistered)
		require.ErrorIs(t, err, s.status(2).LastError)
		require.Regexp(t, `^lookuploop: not registered: lookupd2.test:4160 is \w+ \(dial: .*connection refused\)$`, err.Error())

		s.lookupds[0].Do(lookupdtest.On("REGISTER bad", lookupdtest.BadTopic()))
		s.notify(TopicCreated("bad"))
		time.Sleep(time.Second)
		refused, isRefusal := errors.AsType[*ResponseError](s.loop.Registered(2))
		require.True(t, isRefusal)
		require.Equal(t, "bad", refused.Topic)
		require.ErrorAs(t, s.loop.Registered(1), &refused, "lookupd2 might do")

		require.NoError(t, s.end())
		require.ErrorIs(t, s.loop.Registered(0), ErrClosed)
	})
}

func TestWaitsEndWithRun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.lookupds[0].Do(lookupdtest.Hang())
		s.notify(TopicCreated("orders"))
		before := s.waitLater(t.Context(), 1)
		s.run()
		during := s.waitLater(t.Context(), 2)
		requireWaits(t, before)
		requireWaits(t, during)
		go s.end()
		require.ErrorIs(t, requireReturned(t, before), ErrClosed)
		require.ErrorIs(t, requireReturned(t, during), ErrClosed)
		require.NoError(t, s.end())
		require.ErrorIs(t, s.loop.WaitRegistered(t.Context(), 0), ErrClosed)
		require.ErrorIs(t, s.loop.WaitRegistered(t.Context(), 1), ErrClosed)
	})
}

// PersistMetadata may precede Run, and is answered when Run ends: by then
// everything is on disk.
func TestPersistMetadataBeforeDuringAndAfterRun(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0, func(o *Options) { o.DataPath = dir })
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.Empty(t, topicsOnDisk(t, dir), "a file without topics, so that an operator sees where it is")

		s.notify(TopicCreated("orders"))
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.Equal(t, []string{"orders"}, topicsOnDisk(t, dir))

		s.run()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		for i := range 3 {
			s.notify(TopicCreated(fmt.Sprint("topic", i)))
		}
		require.NoError(t, s.end())
		require.ErrorIs(t, s.loop.PersistMetadata(t.Context()), ErrClosed)

		again := newScene(t, 0, func(o *Options) { o.DataPath = dir })
		m, err := again.loop.LoadMetadata()
		require.NoError(t, err)
		require.Len(t, m.Topics, 4)
		again.run()
	})
}

func TestPersistMetadataWithoutADataPathHasNothingToWaitFor(t *testing.T) {
	loop := newLoop(t)
	require.NoError(t, loop.Notify(TopicCreated("orders")))
	require.NoError(t, loop.PersistMetadata(t.Context()))
}

// TestPersistMetadataAfterAWriteThatWasNotSynced is about a Loop that could
// replace nsqd.dat but not sync the directory, and the one that follows: it
// finds the new file, which a crash would still take back.
func TestPersistMetadataAfterAWriteThatWasNotSynced(t *testing.T) {
	const orders = `{"topics":[{"name":"orders","paused":false,"channels":[]}],"version":"1.3.0+lookuploop.0.1.0"}`
	const nothing = `{"topics":[],"version":"1.3.0+lookuploop.0.1.0"}`
	for name, tt := range map[string]struct {
		before    string
		change    Event
		after     string
		atLoading error // of syncing the directory
	}{
		"the disk is fine again":              {nothing, TopicCreated("orders"), orders, nil},
		"it can't be synced either":           {nothing, TopicCreated("orders"), orders, syscall.EIO},
		"nothing is left and can't be synced": {orders, TopicDeleted("orders"), nothing, syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				disk := nsqdattest.NewDisk(map[string]string{"nsqd.dat": tt.before})
				load := func() *Loop {
					loop := newLoop(t, func(o *Options) { o.DataPath = "data" })
					loop.disk = disk
					_, err := loop.LoadMetadata()
					require.NoError(t, err)
					return loop
				}
				failToSync := func(err error) {
					disk.Order(func(step string) (f nsqdattest.Fault) {
						if step == "sync directory" {
							f.Err = err
						}
						return f
					})
				}
				first := load()
				require.NoError(t, first.Notify(tt.change))
				failToSync(syscall.EIO)
				ended, cancel := context.WithCancel(context.Background())
				cancel()
				require.ErrorIs(t, first.Run(ended), syscall.EIO)

				failToSync(tt.atLoading)
				second := load()
				failToSync(nil)
				running, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				go second.Run(running)
				require.NoError(t, second.PersistMetadata(t.Context()))
				for _, outcome := range disk.AfterCrash() {
					require.Equal(t, tt.after, outcome.Files()["nsqd.dat"])
				}
			})
		})
	}
}

// It is hardly the names' fault, and over for all of them at once.
func TestLookupdThatTookNothingForHoursHasAllAMinuteLater(t *testing.T) {
	for how, order := range refusals {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			require.NoError(t, s.loop.SetMetadata(manyTopics(100)))
			lift := s.lookupds[0].Do(lookupdtest.On("REGISTER", order))
			s.run()
			time.Sleep(5 * time.Hour)
			lift()
			time.Sleep(time.Minute + time.Second)
			require.Len(t, announced(s.lookupds[0]), 200, how)
		})
	}
}
