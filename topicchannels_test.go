package lookuploop

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// newHTTPScene is a scene with connected lookupds, whose HTTP side is behind
// the given handlers where there is one. The client is the default one, on the
// scene's Network.
func newHTTPScene(t *testing.T, handlers ...http.HandlerFunc) *scene {
	s := &scene{t: t, network: lookupdtest.NewNetwork()}
	var addrs []string
	for i, handler := range handlers {
		lookupd := s.network.NewUnstartedServer(fmt.Sprintf("lookupd%d.test:4160", i+1))
		if handler != nil {
			lookupd.WrapHTTP = func(http.Handler) http.Handler { return handler }
		}
		lookupd.Start()
		t.Cleanup(lookupd.Close)
		s.lookupds = append(s.lookupds, lookupd)
		addrs = append(addrs, lookupd.TCPAddress)
	}
	client := newHTTPClient(time.Second, 1024)
	client.Transport.(*http.Transport).DialContext = s.network.Dial
	s.loop = newLoop(t, addresses(addrs...), func(o *Options) {
		o.Dial, o.HTTPClient, o.MaxResponseSize = s.network.Dial, client, 1024
	})
	s.loop.dialBroker = s.network.Dial
	s.run()
	s.registered()
	return s
}

// answer is a handler that answers with a status and a body.
func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// channels is a handler that answers as a lookupd that knows the channels.
func channels(names ...string) http.HandlerFunc {
	return answer(http.StatusOK, fmt.Sprintf(`{"channels":[%s]}`, strings.Join(quoted(names), ",")))
}

func quoted(names []string) (all []string) {
	for _, name := range names {
		all = append(all, fmt.Sprintf("%q", name))
	}
	return all
}

func TestTopicChannelsAreTheUnionOfTheAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t,
			channels("mail", "ship#ephemeral", "audit"),
			channels("ship", "mail", "", "a b", "x\n", "#ephemeral"),
			channels(),
			answer(http.StatusOK, `{"channels":null,"more":1}`),
		)
		names, err := s.loop.TopicChannels(t.Context(), "orders")
		require.NoError(t, err)
		require.Equal(t, []string{"audit", "mail", "ship"}, names)
		require.Empty(t, s.loop.Metadata().Topics, "asking changes nothing")
	})
}

// A topic is asked for at the lookupds themselves, not at a canned answer.
func TestTopicChannelsAreThoseOfOtherBrokersToo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t, nil)
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"), TopicCreated("other"), ChannelCreated("other", "hidden"))
		s.registered()
		other := newLoop(t, addresses(s.lookupds[0].TCPAddress), func(o *Options) {
			o.Dial = s.network.Dial
		})
		second := &scene{t: t, network: s.network, loop: other}
		second.run()
		second.notify(TopicCreated("orders"), ChannelCreated("orders", "ship"), ChannelCreated("orders", "tail#ephemeral"))
		second.registered()

		names, err := s.loop.TopicChannels(t.Context(), "orders")
		require.NoError(t, err)
		require.Equal(t, []string{"mail", "ship"}, names)
		names, err = s.loop.TopicChannels(t.Context(), "unknown")
		require.NoError(t, err)
		require.Empty(t, names)
	})
}

func TestPartOfTheAnswersComesWithAnErrorThatNamesWhoFailed(t *testing.T) {
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		want    string
		is      error
		after   time.Duration
	}{
		"status 500":       {answer(500, `{"channels":["wrong"]}`), "HTTP status 500 Internal Server Error", nil, 0},
		"status 404":       {answer(404, `{"message":"NOT_FOUND"}`), "HTTP status 404 Not Found", nil, 0},
		"no JSON":          {answer(200, "hello"), `answer "hello": invalid character`, nil, 0},
		"other JSON":       {answer(200, `{"channels":"mail"}`), "cannot unmarshal string", nil, 0},
		"cut JSON":         {answer(200, `{"channels":["wrong"`), "unexpected end of JSON input", nil, 0},
		"1025 bytes":       {answer(200, `{"channels":["wrong"]}`+strings.Repeat(" ", 1025-22)), "MaxResponseSize is 1024", ErrResponseTooLarge, 0},
		"long headers":     {longHeader, "server response headers exceeded 4096 bytes", nil, 0},
		"endless":          {endless, "MaxResponseSize is 1024", ErrResponseTooLarge, 0},
		"a redirect":       {http.RedirectHandler("http://lookupd2.test:4161/channels?topic=orders", http.StatusFound).ServeHTTP, "HTTP status 302 Found", nil, 0},
		"no answer":        {hang, "deadline exceeded", context.DeadlineExceeded, time.Second},
		"half an answer":   {halfThenHang, "deadline exceeded", context.DeadlineExceeded, time.Second},
		"the end too soon": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "EOF", io.EOF, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newHTTPScene(t, tt.handler, channels("mail"))
				started := time.Now()
				names, err := s.loop.TopicChannels(t.Context(), "orders")
				require.Equal(t, tt.after, time.Since(started))
				require.Equal(t, []string{"mail"}, names)
				require.ErrorContains(t, err, "lookuploop: lookupd1.test:4160: channels of topic orders: ")
				require.ErrorContains(t, err, tt.want)
				require.NotContains(t, err.Error(), "lookuploop: lookupd2.test")
				if tt.is != nil {
					require.ErrorIs(t, err, tt.is)
				}
			})
		})
	}
}

func longHeader(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
	io.WriteString(w, `{"channels":["wrong"]}`)
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for {
		if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
			return
		}
	}
}

func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func halfThenHang(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, `{"channels":["wrong"`)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func TestAnswerOfMaxResponseSizeIsNotTooLarge(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t, answer(200, `{"channels":["mail"]}`+strings.Repeat(" ", 1024-21)))
		names, err := s.loop.TopicChannels(t.Context(), "orders")
		require.NoError(t, err)
		require.Equal(t, []string{"mail"}, names)
	})
}

func TestAllLookupdsAreAskedAtOnce(t *testing.T) {
	slow := func(names ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(600 * time.Millisecond)
			channels(names...)(w, r)
		}
	}
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t, slow("a"), slow("b"), hang)
		started := time.Now()
		names, err := s.loop.TopicChannels(t.Context(), "orders")
		require.ErrorContains(t, err, "lookupd3.test")
		require.Equal(t, []string{"a", "b"}, names)
		require.Equal(t, time.Second, time.Since(started))
	})
}

func TestTopicChannelsEndWithTheirContext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t, hang, channels("mail"))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		started := time.Now()
		names, err := s.loop.TopicChannels(ctx, "orders")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{"mail"}, names)
		require.Equal(t, 100*time.Millisecond, time.Since(started))
	})
}

// As in nsqd, a lookupd is asked whose HTTP address is known, connected or not. One
// that hangs would keep everybody waiting for nothing.
func TestLookupdsAreAskedUnlessTheyHang(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t, channels("mail"), channels("sms"))
		s.lookupds[1].Do(lookupdtest.Refuse())
		s.lookupds[1].CloseConnections()
		time.Sleep(time.Minute)
		names, err := s.loop.TopicChannels(t.Context(), "orders")
		require.NoError(t, err)
		require.Equal(t, []string{"mail", "sms"}, names)

		s.lookupds[0].Do(lookupdtest.Hang())
		s.lookupds[0].CloseConnections()
		time.Sleep(time.Minute)
		names, err = s.loop.TopicChannels(t.Context(), "orders")
		require.NoError(t, err)
		require.Equal(t, []string{"sms"}, names)
	})
}

func TestTopicChannelsWithNobodyToAsk(t *testing.T) {
	names, err := newLoop(t, addresses("lookupd.test:4160")).TopicChannels(t.Context(), "orders")
	require.ErrorIs(t, err, ErrNotConnected)
	require.EqualError(t, err, "lookuploop: no lookupd is connected: no channels of topic orders")
	require.Nil(t, names)
}

func TestTopicChannelsOfAnInvalidTopicAreAnError(t *testing.T) {
	for _, topic := range []string{"", "a b", "a\n", "a?topic=b", strings.Repeat("x", 65)} {
		_, err := newLoop(t).TopicChannels(t.Context(), topic)
		require.ErrorIs(t, err, ErrInvalidName)
	}
}

// A name may have characters that mean something in a URL.
func TestEphemeralTopicIsAskedForByItsWholeName(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var got *http.Request
		s := newHTTPScene(t, func(w http.ResponseWriter, r *http.Request) {
			got = r
			channels("mail")(w, r)
		})
		_, err := s.loop.TopicChannels(t.Context(), "orders#ephemeral")
		require.NoError(t, err)
		require.Equal(t, "/channels", got.URL.Path)
		require.Equal(t, "orders#ephemeral", got.URL.Query().Get("topic"))
		require.Equal(t, "application/vnd.nsq; version=1.0", got.Header.Get("Accept"))
	})
}

// As a container does that announces its own host name.
func TestLookupdThatGaveAnUnknownHostIsNamed(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newHTTPScene(t, nil)
		s.loop.opts.HTTPClient.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, &net.DNSError{Err: "no such host", Name: "lookupd1.test", IsNotFound: true}
		})
		const hint = "no such host (the lookupd announced this host for HTTP: correct its -broadcast-address, or DNS)"
		_, err := s.loop.TopicChannels(t.Context(), "orders")
		require.ErrorContains(t, err, hint)
		_, err = s.loop.Verify(t.Context(), "orders")
		require.ErrorContains(t, err, hint)
	})
}

func TestLookupdIsAskedAtTheAddressItGave(t *testing.T) {
	for name, tt := range map[string]struct{ info, host, want string }{
		"address and port": {`{"broadcast_address":"public.test","http_port":80}`, "public.test:80", ""},
		"IPv6 address":     {`{"broadcast_address":"2001:db8::1","http_port":4161}`, "[2001:db8::1]:4161", ""},
		"no address":       {`{"http_port":4161}`, "lookupd1.test:4161", ""},
		"no port":          {`{"broadcast_address":"public.test"}`, "", "no usable HTTP port (0)"},
		"a wrong port":     {`{"broadcast_address":"public.test","http_port":65536}`, "", "no usable HTTP port (65536)"},
		"nothing":          {"OK", "", "no usable HTTP port (0)"},
		"a wrong address":  {`{"broadcast_address":"a b/c","http_port":4161}`, "", "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				var asked []string
				s := newScene(t, 1, func(o *Options) {
					o.HTTPClient = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
						asked = append(asked, r.URL.Host)
						return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(`{"channels":["mail"]}`))}, nil
					})}
				})
				s.lookupds[0].Do(lookupdtest.On("IDENTIFY", lookupdtest.Reply(tt.info)))
				s.notify(TopicCreated("ignored"))
				s.lookupds[0].Do(lookupdtest.On("REGISTER", lookupdtest.Reply("OK")))
				s.run()
				s.registered()
				names, err := s.loop.TopicChannels(t.Context(), "orders")
				if tt.want != "" {
					require.ErrorContains(t, err, "lookuploop: lookupd1.test:4160: channels of topic orders: ")
					require.ErrorContains(t, err, tt.want)
					require.Empty(t, asked)
					return
				}
				require.NoError(t, err)
				require.Equal(t, []string{"mail"}, names)
				require.Equal(t, []string{tt.host}, asked)
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
