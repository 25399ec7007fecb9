package lookuploop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// verifiesEachMinute is a verify scene with a VerifyInterval, for which prepare may
// put something in. log returns what was logged about findings since it was called
// last, one line each.
func verifiesEachMinute(t *testing.T, prepare func(*scene)) (s *scene, log func() []string) {
	var mu sync.Mutex
	var text bytes.Buffer
	s = prepareVerifyScene(t, func(o *Options) {
		o.VerifyInterval = time.Minute
		o.Logger = slog.New(slog.NewTextHandler(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return text.Write(p)
		}), nil))
	})
	s.loop.opts.HeartbeatInterval = 290 * time.Second // a PING would send what nobody woke the peer for
	prepare(s)
	s.begin()
	return s, func() (lines []string) {
		mu.Lock()
		defer mu.Unlock()
		for line := range strings.Lines(text.String()) {
			if _, about, ok := strings.Cut(line, `msg="`); ok && regexp.MustCompile(`^(verification|problems) `).MatchString(about) {
				lines = append(lines, about)
			}
		}
		text.Reset()
		return lines
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// nextVerification waits until one has ended that began after the call, and for
// what follows from it.
func (s *scene) nextVerification() VerificationStatus {
	const longest = 10 * time.Second // that a verification takes
	called := time.Now()
	for s.loop.Status().Verification.Ended.Before(called.Add(longest)) {
		time.Sleep(time.Second)
	}
	time.Sleep(time.Second)
	return s.loop.Status().Verification
}

func TestVerifyIntervalAnnouncesWhatALookupdLost(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		started := time.Now()
		s, log := verifiesEachMinute(t, func(*scene) {})
		v := s.nextVerification()
		require.Equal(t, time.Minute, v.Interval)
		require.LessOrEqual(t, time.Since(started), 2*time.Minute+2*time.Second)
		require.NoError(t, v.Error)
		require.Equal(t, 2, v.Found.Topics)
		require.Empty(t, v.Found.Findings)
		require.Empty(t, log())

		s.notify(ChannelCreated("invoices", "post"), ChannelCreated("invoices", "mail"), TopicCreated("live#ephemeral"))
		s.registered()
		heard, elsewhere := listen(s.lookupds[0]), listen(s.lookupds[1])
		s.post(s.lookupds[0], "/topic/delete?topic=invoices")
		s.post(s.lookupds[0], "/channel/delete?topic=orders&channel=mail")
		require.Len(t, s.nextVerification().Found.Findings, 2)
		v = s.nextVerification()
		require.Empty(t, v.Found.Findings, "it is all right again")
		require.EqualValues(t, 2, v.Announced)
		commands := slices.DeleteFunc(heard(), func(c string) bool { return c == "PING" })
		require.Equal(t, []string{"REGISTER invoices", "REGISTER invoices post", "REGISTER invoices mail", "REGISTER orders mail"}, commands)
		require.NotContains(t, strings.Join(elsewhere(), " "), "REGISTER")
		require.Equal(t, announced(s.lookupds[1]), announced(s.lookupds[0]))
		lines := log()
		require.Len(t, lines, 3)
		require.Contains(t, lines[0], "lookupd1.test:4160: invoices: not listed: the lookupd doesn't know the topic: ")
		require.Contains(t, lines[1], "lookupd1.test:4160: orders/mail: channel missing: ")
		require.Contains(t, lines[2], `problems are resolved" resolved=2 remaining=0`)

		s.nextVerification()
		require.Empty(t, log())
		require.Empty(t, slices.DeleteFunc(heard(), func(c string) bool { return c == "PING" }))
	})
}

// A tombstone ends when the lookupd hears of the deletion: what is created again
// before was never gone for it.
func TestATombstoneEndsWithADeletionThatWasAcknowledged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.post(s.lookupds[0], "/topic/tombstone?topic=orders&node=broker.test:4151")
		s.notify(TopicDeleted("orders"), TopicCreated("orders"))
		s.registered()
		require.Equal(t, []string{"tombstoned lookupd1 orders"}, s.found())
		s.notify(TopicDeleted("orders"))
		s.registered()
		s.notify(TopicCreated("orders"))
		s.registered()
		require.Empty(t, s.found())
	})
}

// Another broker at the address is seen where it has a topic that is asked about, and
// otherwise where the lookupd is asked for its nodes.
func TestVerifyFindsAnAddressThatIsSharedForOtherTopicsWhenItLooksCloser(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		other := &scene{t: t, network: s.network}
		other.loop = newLoop(t, addresses(s.lookupds[0].TCPAddress), func(o *Options) { o.Dial, o.Hostname = s.network.Dial, "other" })
		other.notify(TopicCreated("others"))
		other.run()
		other.registered()
		require.Empty(t, s.found())
		require.Equal(t, []string{"address shared lookupd1"}, s.found("others"))
		s.post(s.lookupds[0], "/topic/delete?topic=orders")
		require.Equal(t, []string{"address shared lookupd1", "not listed lookupd1 orders"}, s.found())
	})
}

// What stays wrong is logged once, and shown in Status as long as it is found.
func TestVerifyIntervalLogsEachChangeOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var refusal atomic.Error
		s, log := verifiesEachMinute(t, func(s *scene) {
			s.loop.dialBroker = func(ctx context.Context, network, address string) (net.Conn, error) {
				if err := refusal.Load(); err != nil {
					return nil, err
				}
				return s.network.Dial(ctx, network, address)
			}
		})
		refusal.Store(errors.New("refused"))
		v := s.nextVerification()
		require.Len(t, v.Found.Findings, 1)
		require.Equal(t, NotReachable, v.Found.Findings[0].Kind)
		require.Len(t, log(), 1)
		refusal.Store(errors.New("timeout")) // another detail
		require.Contains(t, s.nextVerification().Found.Findings[0].Detail, "timeout")
		require.Empty(t, log())
		refusal.Store(nil)
		require.Empty(t, s.nextVerification().Found.Findings)
		require.Len(t, log(), 1)
		refusal.Store(errors.New("refused"))
		s.nextVerification()
		require.Len(t, log(), 1, "it is news again")
		require.Zero(t, s.loop.Status().Verification.Announced, "nothing was missing at a lookupd")
	})
}

// Of many findings some are logged, and their number.
func TestVerifyIntervalLogsSomeOfManyFindings(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, log := verifiesEachMinute(t, func(*scene) {})
		for i := range 50 {
			s.notify(TopicCreated(fmt.Sprint("t", i)))
		}
		s.registered()
		for i := range 50 {
			s.post(s.lookupds[1], fmt.Sprint("/topic/delete?topic=t", i))
		}
		s.nextVerification()
		s.nextVerification()
		lines := log()
		require.Len(t, lines, 12)
		require.Contains(t, lines[9], "not listed")
		require.Contains(t, lines[10], `more=40`)
		require.Contains(t, lines[11], `resolved=50`)
	})
}

// staleAmongMany lets the broker have more topics than a sample, and the first
// lookupd list one that is gone.
func (s *scene) staleAmongMany() {
	for i := range maxVerified + 50 {
		s.notify(TopicCreated(fmt.Sprint("t", i)))
	}
	s.registered()
	s.lookupds[0].Do(lookupdtest.On("UNREGISTER gone", lookupdtest.Reply("OK"))) // and does nothing
	s.notify(TopicCreated("gone"))
	s.registered()
	s.notify(TopicDeleted("gone"))
	s.registered()
}

// otherVersion makes something seem wrong each time, or nobody would look for topics
// that the broker doesn't have.
func otherVersion(s *scene) { s.rewriting(defaultVersion, "0.0.1") }

// A topic that is not in the next sample is looked at again nevertheless.
func TestVerifyIntervalFollowsWhatItFound(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, log := verifiesEachMinute(t, otherVersion)
		s.staleAmongMany()
		v := s.nextVerification()
		require.True(t, v.Found.Sampled)
		require.Len(t, log(), 3)
		for range 3 {
			v = s.nextVerification()
			require.Equal(t, maxVerified+1, v.Found.Topics)
			require.Len(t, v.Found.Findings, 3)
		}
		require.Empty(t, log())
	})
}

// Who can't be asked, or is behind, was not seen to be all right.
func TestVerifyIntervalKeepsWhatWasNotJudged(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, log := verifiesEachMinute(t, otherVersion)
		s.lookupds[0].Do(lookupdtest.On("UNREGISTER invoices", lookupdtest.Reply("OK"))) // and does nothing
		s.notify(TopicDeleted("invoices"))
		s.nextVerification()
		require.Len(t, log(), 3)

		lift := s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Delay(900*time.Millisecond)))
		for i := range 200 {
			s.notify(TopicCreated(fmt.Sprint("late", i)))
		}
		v := s.nextVerification()
		require.NoError(t, v.Found.Lookupds[0].Err)
		require.Positive(t, v.Found.Lookupds[0].Pending)
		require.Empty(t, log())
		lift()
		s.registered()

		s.network.Partition(s.lookupds[0].HTTPAddress)
		v = s.nextVerification()
		require.NoError(t, v.Error)
		require.Error(t, v.Found.Lookupds[0].Err)
		require.Empty(t, log())
		for _, l := range s.lookupds {
			l.Do(lookupdtest.Refuse())
			l.CloseConnections()
		}
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{"gone.test:4160"}))
		ended := v.Ended
		v = s.nextVerification()
		require.ErrorIs(t, v.Error, ErrNotConnected)
		require.Greater(t, v.Ended, ended)
		require.Len(t, v.Found.Lookupds, 2, "what was found before")
		require.Len(t, log(), 1)
	})
}

// Over TCP all is well, so nothing else would tell that there are no verifications.
func TestVerificationsThatCanAskNobodyAreErrors(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, log := verifiesEachMinute(t, func(*scene) {})
		s.nextVerification()
		heal := s.network.Partition(s.lookupds[0].HTTPAddress, s.lookupds[1].HTTPAddress)
		v, err := s.loop.Verify(t.Context(), "orders")
		require.ErrorIs(t, err, v.Lookupds[0].Err)
		require.ErrorIs(t, err, v.Lookupds[1].Err)
		require.ErrorContains(t, err, `lookuploop: lookupd2.test:4160: verification: Get "http://lookupd2.test:4161/lookup?topic=orders`)
		require.NotNil(t, v.Findings)

		for range 3 {
			status := s.nextVerification()
			require.ErrorContains(t, status.Error, "lookuploop: lookupd2.test:4160: verification: ")
			require.ErrorIs(t, status.Error, status.Found.Lookupds[0].Err)
		}
		lines := log()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], `verification could ask no lookupd" error="lookuploop: lookupd1.test:4160: verification: Get`)
		heal()
		require.NoError(t, s.nextVerification().Error)
		require.Equal(t, []string{`verification can ask lookupds again"` + "\n"}, log())

		s.network.Partition(s.lookupds[0].HTTPAddress)
		_, err = s.loop.Verify(t.Context())
		require.NoError(t, err, "one answers")
		require.NoError(t, s.loop.Drain(t.Context()))
		require.ErrorIs(t, s.nextVerification().Error, ErrNotConnected)
		require.Empty(t, log(), "there is nobody to ask")
	})
}

// What the advice of these findings says helps.
func TestALookupdThatIsRemovedAndAddedAgainListsWhatTheBrokerHas(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		defer s.lookupds[0].Do(lookupdtest.On("UNREGISTER gone", lookupdtest.Reply("OK")))() // and does nothing
		s.notify(TopicCreated("gone"))
		s.registered()
		s.notify(TopicDeleted("gone"))
		s.registered()
		s.post(s.lookupds[0], "/topic/delete?topic=invoices")
		s.post(s.lookupds[0], "/channel/delete?topic=orders&channel=mail")
		require.Equal(t, []string{"not listed lookupd1 invoices", "channel missing lookupd1 orders/mail", "stale lookupd1 gone"}, s.found("gone", "invoices", "orders"))

		both := addressesOf(s.loop)
		require.NoError(t, s.loop.SetLookupdTCPAddresses(both[1:]))
		require.NoError(t, s.loop.SetLookupdTCPAddresses(both))
		s.registered()
		time.Sleep(time.Second)
		require.Empty(t, s.found("gone", "invoices", "orders"))
	})
}

// Run waits for a verification, which ends with it.
func TestRunEndsDuringAVerification(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		began := make(chan bool, 100)
		s, _ := verifiesEachMinute(t, func(s *scene) {
			s.loop.opts.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				began <- true
				<-r.Context().Done()
				return nil, r.Context().Err()
			})
		})
		<-began
		ended := time.Now()
		require.NoError(t, s.end())
		require.Zero(t, time.Since(ended))
		require.Zero(t, s.loop.Status().Verification.Ended)
	})
}

// A lookupd can list the broker for new topics each time, with names that nobody
// can ask about.
func TestKnownFindingsAreBounded(t *testing.T) {
	known := make(knownFindings)
	v := Verification{Lookupds: []LookupdVerification{{Address: "a:4160"}}}
	for i := range 5 * maxKnown {
		v.Findings = append(v.Findings, Finding{Kind: Stale, Lookupd: "a:4160", Topic: fmt.Sprint("no name ", i)})
	}
	silent := slog.New(slog.DiscardHandler)
	known.update(question{}, v, silent)
	require.Len(t, known, maxKnown)
	v.Findings = nil
	known.update(question{}, v, silent)
	require.Empty(t, known, "what can't be asked about is over when it isn't found any more")
}
