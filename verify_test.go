package lookuploop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// newVerifyScene is a scene of two lookupds that know topics orders and invoices,
// and where the broker's address can be dialled.
func newVerifyScene(t *testing.T) *scene {
	s := prepareVerifyScene(t)
	s.begin()
	return s
}

// prepareVerifyScene is newVerifyScene before begin.
func prepareVerifyScene(t *testing.T, edits ...func(*Options)) *scene {
	s := newScene(t, 2, edits...)
	s.loop.opts.HTTPClient = s.network.Client()
	s.loop.opts.HTTPClient.Timeout = time.Second
	t.Cleanup(s.loop.opts.HTTPClient.Transport.(*http.Transport).CloseIdleConnections) // ends dials that hang
	t.Cleanup(s.network.NewServer("broker.test:4150").Close)
	return s
}

func (s *scene) begin() {
	s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"), TopicCreated("invoices"))
	s.run()
	s.registered()
}

// found verifies, and returns "kind lookupd topic/channel" of each finding.
func (s *scene) found(topics ...string) (found []string) {
	s.t.Helper()
	v, err := s.loop.Verify(s.t.Context(), topics...)
	require.NoError(s.t, err)
	for _, l := range v.Lookupds {
		require.NoError(s.t, l.Err)
	}
	for _, f := range v.Findings {
		require.NotEmpty(s.t, f.Advice)
		found = append(found, strings.TrimRight(fmt.Sprintf("%s %s %s/%s", f.Kind, strings.TrimSuffix(f.Lookupd, ".test:4160"), f.Topic, f.Channel), " /"))
	}
	return found
}

// post sends an administrator's order to a lookupd.
func (s *scene) post(lookupd *lookupdtest.Server, path string) {
	s.t.Helper()
	response, err := s.network.Client().Post("http://"+lookupd.HTTPAddress+path, "", nil)
	require.NoError(s.t, err)
	response.Body.Close()
	require.Equal(s.t, http.StatusOK, response.StatusCode)
}

// another runs one more Loop with what the scene's has.
func (s *scene) another(edits ...func(*Options)) {
	other := &scene{t: s.t, network: s.network}
	other.loop = newLoop(s.t, append([]func(*Options){addresses(s.lookupds[0].TCPAddress), func(o *Options) { o.Dial = s.network.Dial }}, edits...)...)
	other.notify(TopicCreated("orders"))
	other.run()
	other.registered()
}

// rewriting makes a lookupd's answers by HTTP differ.
func (s *scene) rewriting(from, to string) {
	inner := s.loop.opts.HTTPClient.Transport
	s.loop.opts.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
		response, err := inner.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		response.Body = io.NopCloser(bytes.NewReader(bytes.ReplaceAll(body, []byte(from), []byte(to))))
		return response, err
	})
}

func TestVerifyFindsNothingWhereAllIsWell(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		started := time.Now()
		require.Empty(t, s.found())
		require.Empty(t, s.found("orders"))
		require.Empty(t, s.found("unknown"))
		s.another(func(o *Options) { o.BroadcastTCPPort, o.BroadcastHTTPPort = 5150, 5151 }) // on this machine
		require.Empty(t, s.found())
		require.Zero(t, time.Since(started), "there is no need to look twice")

		v, err := s.loop.Verify(t.Context())
		require.NoError(t, err)
		text, err := json.Marshal(v)
		require.NoError(t, err)
		require.JSONEq(t, `{"topics":2,"sampled":false,"findings":[],"lookupds":[
			{"address":"lookupd1.test:4160","http_address":"lookupd1.test:4161","pending":0},
			{"address":"lookupd2.test:4160","http_address":"lookupd2.test:4161","pending":0}]}`, string(text))
	})
}

func TestVerifyFindsEachKind(t *testing.T) {
	refuse := func(err error) func(*scene) {
		return func(s *scene) {
			s.loop.dialBroker = func(context.Context, string, string) (net.Conn, error) { return nil, err }
		}
	}
	for name, tt := range map[string]struct {
		act  func(*scene)
		want []string
	}{
		"deleted":    {func(s *scene) { s.post(s.lookupds[1], "/topic/delete?topic=orders") }, []string{"not listed lookupd2 orders"}},
		"tombstoned": {func(s *scene) { s.post(s.lookupds[1], "/topic/tombstone?topic=orders&node=broker.test:4151") }, []string{"tombstoned lookupd2 orders"}},
		"channel":    {func(s *scene) { s.post(s.lookupds[0], "/channel/delete?topic=orders&channel=mail") }, []string{"channel missing lookupd1 orders/mail"}},
		"half-open":  {func(s *scene) { s.another() }, []string{"listed twice lookupd1"}},
		"shared":     {func(s *scene) { s.another(func(o *Options) { o.Hostname = "other" }) }, []string{"address shared lookupd1"}},
		"address":    {func(s *scene) { s.rewriting("broker.test", "other.test") }, []string{"listed elsewhere lookupd1", "listed elsewhere lookupd2"}},
		"version":    {func(s *scene) { s.rewriting(version, "0.0.1") }, []string{"other version lookupd1", "other version lookupd2"}},
		"not connected": {func(s *scene) {
			s.lookupds[0].Do(lookupdtest.Refuse())
			s.lookupds[0].CloseConnections()
			time.Sleep(time.Second)
		}, []string{"not listed lookupd1"}},
		"stale": {func(s *scene) {
			s.lookupds[0].Do(lookupdtest.On("UNREGISTER invoices", lookupdtest.Reply("OK"))) // and does nothing
			s.notify(TopicDeleted("invoices"))
			s.registered()
		}, []string{"stale lookupd1 invoices"}},
		"not reachable":  {refuse(errors.New("refused")), []string{"not reachable"}},
		"not resolvable": {refuse(&net.DNSError{Err: "no such host"}), []string{"not resolvable"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newVerifyScene(t)
				tt.act(s)
				require.Equal(t, tt.want, s.found("orders", "invoices"))
			})
		})
	}
}

// Where nothing is said to be wrong with a topic, a lookupd isn't asked for its
// nodes, which costs it more than all the rest.
func TestVerifyAsksForNodesOnlyWhereSomethingIsWrong(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		var mu sync.Mutex
		var asked []string
		inner := s.loop.opts.HTTPClient.Transport
		s.loop.opts.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			asked = append(asked, r.URL.Host+r.URL.RequestURI())
			mu.Unlock()
			return inner.RoundTrip(r)
		})
		require.Empty(t, s.found("orders", "orders"))
		slices.Sort(asked)
		require.Equal(t, []string{"lookupd1.test:4161/lookup?topic=orders", "lookupd2.test:4161/lookup?topic=orders"}, asked)

		asked = nil
		s.post(s.lookupds[0], "/topic/delete?topic=orders")
		require.NotEmpty(t, s.found())
		slices.Sort(asked)
		require.Equal(t, []string{
			"lookupd1.test:4161/lookup?topic=invoices", "lookupd1.test:4161/lookup?topic=invoices",
			"lookupd1.test:4161/lookup?topic=orders", "lookupd1.test:4161/lookup?topic=orders",
			"lookupd1.test:4161/nodes", "lookupd1.test:4161/nodes",
			"lookupd2.test:4161/lookup?topic=invoices", "lookupd2.test:4161/lookup?topic=invoices",
			"lookupd2.test:4161/lookup?topic=orders", "lookupd2.test:4161/lookup?topic=orders",
		}, asked)
	})
}

func TestVerifyTakesASampleOfManyTopics(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		for i := range 199 {
			s.notify(TopicCreated(fmt.Sprint("t", i)))
		}
		s.registered()
		v, err := s.loop.Verify(t.Context())
		require.NoError(t, err)
		require.True(t, v.Sampled)
		require.Equal(t, 200, v.Topics)
		s.notify(TopicDeleted("t0"))
		s.registered()
		v, err = s.loop.Verify(t.Context())
		require.NoError(t, err)
		require.False(t, v.Sampled)
		require.Equal(t, 200, v.Topics)

		s.notify(TopicCreated("t0"))
		drawn := make(map[string]bool)
		for range 5 {
			for _, topic := range s.loop.sample(nil).topics {
				drawn[topic] = true
			}
		}
		require.Len(t, drawn, 201, "each is drawn one time or another")
	})
}

// Of topics that it wasn't asked about, Verify finds those that are listed though
// the broker doesn't have them, unless it is asked about others.
func TestVerifyJudgesOtherTopicsOnlyWhenNoneIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.staleAmongMany()
		require.Empty(t, s.found("orders"))
		s.rewriting(version, "0.0.1") // whoever is asked about
		require.Equal(t, []string{"other version lookupd1", "other version lookupd2"}, s.found("orders"))
		require.Equal(t, []string{"other version lookupd1", "stale lookupd1 gone"}, s.found("gone"))
		require.Equal(t, []string{"other version lookupd1", "stale lookupd1 gone", "other version lookupd2"}, s.found())
	})
}

func TestVerifySaysWhoCouldNotBeAsked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.post(s.lookupds[0], "/topic/delete?topic=orders")
		s.network.Partition(s.lookupds[1].HTTPAddress)
		require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{s.lookupds[0].TCPAddress, s.lookupds[1].TCPAddress, "gone.test:4160"}))
		time.Sleep(time.Second)
		v, err := s.loop.Verify(t.Context())
		require.NoError(t, err)
		require.Len(t, v.Findings, 1)
		require.Equal(t, NotListed, v.Findings[0].Kind)
		require.True(t, strings.HasPrefix(v.Findings[0].String(), "lookupd1.test:4160: orders: not listed: the lookupd doesn't know the topic: consumers that"), v.Findings[0])
		require.NoError(t, v.Lookupds[0].Err)
		require.ErrorContains(t, v.Lookupds[1].Err, `lookuploop: lookupd2.test:4160: verification: Get "http://lookupd2.test:4161/lookup?topic=`)
		require.ErrorIs(t, v.Lookupds[1].Err, context.DeadlineExceeded)
		require.ErrorContains(t, v.Lookupds[2].Err, "lookuploop: gone.test:4160: verification: lookuploop: gone.test:4160: dial: ")
		text, err := json.Marshal(v)
		require.NoError(t, err)
		require.Contains(t, string(text), `"address":"gone.test:4160","pending":0,"error":"lookuploop: gone.test:4160: verification: `)
	})
}

// What fails in the second look only was not confirmed, and is told.
func TestVerifySaysWhoFailedTheSecondTime(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.post(s.lookupds[0], "/topic/delete?topic=orders")
		time.AfterFunc(verifyPause/2, func() { s.network.Partition(s.lookupds[0].HTTPAddress) })
		v, err := s.loop.Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, v.Findings)
		require.Error(t, v.Lookupds[0].Err)
		require.NoError(t, v.Lookupds[1].Err)
	})
}

func TestVerifyWithNobodyToAskIsAnError(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, err := newLoop(t).Verify(t.Context())
		require.ErrorIs(t, err, ErrNotConnected)
		s := newVerifyScene(t)
		_, err = s.loop.Verify(t.Context(), "orders", "a b")
		require.ErrorIs(t, err, ErrInvalidName)
		require.ErrorContains(t, err, `topic "a b"`)
	})
}

func TestVerifyEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.network.Partition()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		started := time.Now()
		_, err := s.loop.Verify(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 100*time.Millisecond, time.Since(started))
	})
}

func TestVerifyKnowsWhatALookupdHasNotAcknowledgedOrRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		lift := s.lookupds[0].Do(lookupdtest.On("REGISTER new", lookupdtest.Delay(500*time.Millisecond)))
		s.notify(TopicCreated("new"))
		require.Empty(t, s.found(), "it is waited for")
		lift()

		s.lookupds[0].Do(lookupdtest.On("REGISTER bad", lookupdtest.Reject("E_BAD_TOPIC no")))
		s.lookupds[1].Do(lookupdtest.On("REGISTER orders bad", lookupdtest.Reject("E_BAD_CHANNEL no")))
		s.notify(TopicCreated("bad"), ChannelCreated("orders", "bad"))
		time.Sleep(time.Minute)
		require.Empty(t, s.found(), "Status shows what is refused")

	})
}

// A lookupd that is behind says nothing of topics that it may hear of yet, for
// longer than Verify waits.
func TestVerifyDoesNotJudgeALookupdThatIsBehind(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Delay(500*time.Millisecond)))
		for i := range 20 {
			s.notify(TopicCreated(fmt.Sprint("late", i)))
		}
		v, err := s.loop.Verify(t.Context())
		require.NoError(t, err)
		require.Empty(t, v.Findings)
		require.Positive(t, v.Lookupds[0].Pending)
		require.Zero(t, v.Lookupds[1].Pending)
	})
}

// A broker whose topics change all the time is verified all the same.
func TestVerifyFindsWhatIsWrongAmidChanges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.post(s.lookupds[0], "/topic/delete?topic=orders")
		s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Delay(9*time.Millisecond)))
		ctx, cancel := context.WithCancel(t.Context())
		changed := make(chan struct{})
		go func() {
			defer close(changed)
			for i := 0; ctx.Err() == nil; i++ {
				s.loop.Notify(TopicCreated(fmt.Sprint("t", i)))
				time.Sleep(8 * time.Millisecond) // there is always one that isn't acknowledged
			}
		}()
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, []string{"not listed lookupd1 orders"}, s.found("orders", "invoices"))
		cancel()
		<-changed
	})
}

// A topic that is deleted while a lookupd is asked, each time, is no finding.
func TestVerifyKnowsWhatIsDeletedMeanwhile(t *testing.T) {
	for _, path := range []string{"/lookup?topic=flap", "/nodes"} {
		inBubble(t, func(t *testing.T) {
			s := newVerifyScene(t)
			s.notify(TopicCreated("flap"))
			s.registered()
			s.post(s.lookupds[0], "/topic/delete?topic=orders")
			inner := s.loop.opts.HTTPClient.Transport
			s.loop.opts.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				if r.URL.Host != s.lookupds[0].HTTPAddress || r.URL.RequestURI() != path {
					return inner.RoundTrip(r)
				}
				if path == "/nodes" { // which lists it still
					defer s.loop.Notify(TopicDeleted("flap"))
				} else {
					s.loop.Notify(TopicDeleted("flap"))
					s.registered()
				}
				time.AfterFunc(verifyPause/2, func() { s.loop.Notify(TopicCreated("flap")) })
				return inner.RoundTrip(r)
			})
			require.Equal(t, []string{"not listed lookupd1 orders"}, s.found())
		})
	}
}

// So is one that is there before and after, but not when the lookupd answers.
func TestVerifyKnowsWhatIsMadeAgainMeanwhile(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		inner := s.loop.opts.HTTPClient.Transport
		s.loop.opts.HTTPClient.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == s.lookupds[0].HTTPAddress {
				s.loop.Notify(TopicDeleted("orders"))
				s.registered()
				defer func() { s.loop.Notify(TopicCreated("orders")) }()
			}
			return inner.RoundTrip(r)
		})
		require.Empty(t, s.found("orders"))
	})
}

// Whatever a broker does, as long as its lookupds work there is nothing to find.
func TestVerifyFindsNothingInRandomHealthyHistories(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	inBubble(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := newVerifyScene(t)
		s.network.SetLatency(3 * time.Millisecond)
		ctx, cancel := context.WithCancel(t.Context())
		churned := make(chan struct{})
		go func() {
			defer close(churned)
			for ctx.Err() == nil {
				topic := fmt.Sprint("t", random.IntN(6))
				event := []Event{TopicCreated(topic), TopicDeleted(topic), ChannelCreated(topic, "c"), ChannelDeleted(topic, "c")}[random.IntN(4)]
				s.loop.Notify(event) // unknown ones are refused
				time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
			}
		}()
		rounds := 100
		if *long {
			rounds *= 10
		}
		for range rounds {
			require.Empty(t, s.found())
		}
		cancel()
		<-churned
	})
}

func TestVerifyResultsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newVerifyScene(t)
		s.loop.opts.HTTPClient = &http.Client{Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			w := httptest.NewRecorder()
			io.WriteString(w, strings.Repeat(" ", 1<<20+1))
			return w.Result(), nil
		})}
		v, err := s.loop.Verify(t.Context())
		require.ErrorIs(t, err, ErrResponseTooLarge)
		require.ErrorIs(t, v.Lookupds[0].Err, ErrResponseTooLarge)
		require.EqualError(t, v.Lookupds[1].Err, "lookuploop: lookupd2.test:4160: verification: answer too large: more than 1048576 bytes, MaxResponseSize is 1048576")
	})
}
