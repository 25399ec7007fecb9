package lookuploop

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// hostilities are all the ways in which a lookupd can misbehave for ever.
var hostilities = map[string]lookupdtest.Order{
	"hangs":                lookupdtest.Hang(),
	"hangs after IDENTIFY": lookupdtest.On("REGISTER", lookupdtest.Hang()),
	"is a blackhole":       lookupdtest.Blackhole(),
	"doesn't read":         lookupdtest.On("REGISTER", lookupdtest.HalfOpen()),
	"refuses":              lookupdtest.Refuse(),
	"hangs up":             lookupdtest.Hangup(),
	"is slow":              lookupdtest.Delay(900 * time.Millisecond),
	"is too slow":          lookupdtest.On("REGISTER", lookupdtest.Delay(1100*time.Millisecond)),
	"drips":                lookupdtest.Drip(100 * time.Millisecond),
	"cuts what it gets":    lookupdtest.CutReceived(250),
	"cuts what it says":    lookupdtest.CutSent(150),
	"drops connections":    lookupdtest.On("REGISTER", lookupdtest.Drop()),
	"resets connections":   lookupdtest.On("REGISTER", lookupdtest.Reset()),
	"starts anew":          lookupdtest.On("REGISTER", lookupdtest.Restart()),
	"refuses IDENTIFY":     lookupdtest.On("IDENTIFY", lookupdtest.Reject("E_BAD_BODY")),
	"refuses each topic":   lookupdtest.On("REGISTER", lookupdtest.Reject("E_BAD_TOPIC")),
	"refuses to talk":      lookupdtest.On("REGISTER", lookupdtest.Reject("E_INVALID")),
	"says NO":              lookupdtest.On("REGISTER", lookupdtest.Reply("NO")),
	"says nothing":         lookupdtest.On("REGISTER", lookupdtest.Length(0)),
	"negative length":      lookupdtest.On("REGISTER", lookupdtest.Length(-1)),
	"greatest length":      lookupdtest.Length(1<<31 - 1),
	"longest answer":       lookupdtest.On("REGISTER", lookupdtest.Length(defaultMaxResponseSize)),
	"longer answer":        lookupdtest.On("REGISTER", lookupdtest.Length(defaultMaxResponseSize+1)),
	"garbage":              lookupdtest.Garbage(1, 100_000),
	"HTTP":                 lookupdtest.SpeakHTTP(),
	"unasked answers":      lookupdtest.Unasked("OK"),
	"everything twice":     lookupdtest.Twice(),
}

// TestHostileLookupdHarmsNobodyElse lets one lookupd of two misbehave for some
// minutes. The other hears of each change in the time that the way takes, and
// neither goroutines nor memory grow.
func TestHostileLookupdHarmsNobodyElse(t *testing.T) {
	for name, order := range hostilities {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const way = 10 * time.Millisecond
				s := newScene(t, 2)
				s.network.SetLatency(way)
				s.lookupds[1].Do(order)
				require.NoError(t, s.loop.SetMetadata(manyTopics(10)))
				s.run()
				memory := func() int {
					s.lookupds[1].CloseConnections() // what these hold isn't the library's
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
					return memoryInUse()
				}
				time.Sleep(time.Minute)
				before := memory()
				for i := range inFull(60) {
					time.Sleep(5 * time.Second)
					topic := fmt.Sprint("new", i%10)
					s.notify(TopicDeleted(topic), TopicCreated(topic), ChannelCreated(topic, "mail"))
					time.Sleep(way)
					synctest.Wait()
					require.Len(t, s.lookupds[0].Producers(topic, "mail"), 1, "as soon as it can")
					require.LessOrEqual(t, librarysGoroutines(), 1+2*2+2, "Run, two for each lookupd, and two for a probe")
				}
				require.Less(t, memory()-before, defaultMaxResponseSize+1<<20)
				require.EqualValues(t, 1, s.loop.Status().Lookupds[0].Connects)
				started := time.Now()
				require.NoError(t, s.end())
				require.LessOrEqual(t, time.Since(started), 2*time.Second)
				synctest.Wait()
				require.Zero(t, librarysGoroutines())
			})
		})
	}
}

// TestHostileLookupdCostsOneResponse is about answers as long as allowed, of
// which all but the last byte come.
func TestHostileLookupdCostsOneResponse(t *testing.T) {
	const size = 16 << 20
	for name, tt := range map[string]struct {
		order  lookupdtest.Order
		atMost int
	}{
		"as long as allowed": {lookupdtest.Length(size), size},
		"too long":           {lookupdtest.Length(size + 1), 0},
		"absurdly long":      {lookupdtest.Length(1<<31 - 1), 0},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				const lookupds = 3
				s := newScene(t, lookupds, func(o *Options) { o.MaxResponseSize = size })
				for _, lookupd := range s.lookupds {
					lookupd.Do(tt.order)
				}
				before := memoryInUse()
				s.run()
				most := 0
				for range 200 {
					time.Sleep(50 * time.Millisecond)
					if s.lookupds[0].Connections() > 0 {
						most = max(most, memoryInUse()-before)
					}
				}
				require.GreaterOrEqual(t, most, tt.atMost, "each takes what it can")
				require.Less(t, most, lookupds*tt.atMost+1<<20)
			})
		})
	}
}

// TestHostileLookupdsInfoCostsNextToNothing is about answers to IDENTIFY almost
// as long as allowed, of which no more is kept than anybody would show.
func TestHostileLookupdsInfoCostsNextToNothing(t *testing.T) {
	for name, text := range map[string]string{
		"long":           "v",
		"no valid UTF-8": "\xff", // each of which takes three bytes as U+FFFD
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 3)
				long := "1." + strings.Repeat(text, defaultMaxResponseSize/3-100)
				answer := lookupdtest.Reply(fmt.Sprintf(`{"version":"%s","hostname":"%[1]s","broadcast_address":"%[1]s","tcp_port":1,"http_port":2}`, long))
				for _, lookupd := range s.lookupds {
					lookupd.Do(lookupdtest.On("IDENTIFY", answer))
				}
				before := memoryInUse()
				s.run()
				s.registered()
				for _, lookupd := range s.lookupds {
					lookupd.CloseConnections() // what these hold isn't the library's
				}
				synctest.Wait()
				require.Less(t, memoryInUse()-before, 1<<18)
				for _, lookupd := range s.loop.Status().Lookupds {
					require.Equal(t, 1, lookupd.Info.TCPPort)
					for _, kept := range []string{lookupd.Info.Version, lookupd.Info.Hostname, lookupd.Info.BroadcastAddress} {
						require.True(t, strings.HasPrefix(kept, "1."))
						require.LessOrEqual(t, len(kept), 255)
						require.True(t, utf8.ValidString(kept))
					}
				}
			})
		})
	}
}

// TestTextFromTheNetworkIsShownClippedAndEscaped is about errors, which go to
// logs and terminals.
func TestTextFromTheNetworkIsShownClippedAndEscaped(t *testing.T) {
	long := strings.Repeat("x\x1b[31m\n\u202e", 100_000)
	requireShown := func(t *testing.T, err error, want string) {
		t.Helper()
		require.ErrorContains(t, err, want)
		require.LessOrEqual(t, len(err.Error()), 2048)
		for _, r := range err.Error() {
			require.True(t, strconv.IsPrint(r), "%q in %q", r, err)
		}
	}
	for name, tt := range map[string]struct {
		order lookupdtest.Order
		want  string
	}{
		"a number":                    {lookupdtest.On("IDENTIFY", lookupdtest.Reply(`{"tcp_port":`+strings.Repeat("9", defaultMaxResponseSize-20)+`}`)), "IDENTIFY: answer "},
		"an answer that isn't JSON":   {lookupdtest.On("IDENTIFY", lookupdtest.Reply(long)), "IDENTIFY: answer "},
		"a refusal":                   {lookupdtest.On("IDENTIFY", lookupdtest.Reject("E_BAD_BODY "+long)), `IDENTIFY: E_BAD_BODY x\x1b[31m\n\u202ex`},
		"a code":                      {lookupdtest.On("REGISTER", lookupdtest.Reject("E_BAD\x1b[31m")), `REGISTER orders: E_BAD\x1b[31m`},
		"an answer that isn't OK":     {lookupdtest.On("REGISTER", lookupdtest.Reply(long)), "REGISTER: unexpected answer "},
		"an answer without a command": {lookupdtest.On("REGISTER", lookupdtest.Unasked(long)), "answer without a command"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				s.notify(TopicCreated("orders"))
				s.lookupds[0].Do(tt.order)
				before := memoryInUse()
				s.run()
				synctest.Wait()
				require.Less(t, memoryInUse()-before, 1<<18, "what is kept is clipped, too")
				requireShown(t, s.loop.Status().Lookupds[0].LastError, tt.want)
			})
		})
	}
	t.Run("what Dial met", func(t *testing.T) { // such as the names in a certificate
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			s.loop.opts.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, fmt.Errorf("%w: certificate is valid for %s", os.ErrPermission, long)
			}
			s.run()
			synctest.Wait()
			requireShown(t, s.loop.Status().Lookupds[0].LastError, `dial: permission denied: certificate is valid for x\x1b[31m\n`)
			require.ErrorIs(t, s.loop.Status().Lookupds[0].LastError, os.ErrPermission)
		})
	})
	for name, answer := range map[string]string{
		"a status line":    "HTTP/1.1 500 " + strings.ReplaceAll(long, "\n", "") + "\r\nContent-Length: 0\r\n\r\n",
		"no HTTP":          long,
		"a list":           "HTTP/1.1 200 OK\r\n\r\n" + long,
		"a list otherwise": "HTTP/1.1 200 OK\r\n\r\n" + `{"channels":` + strings.Repeat("9", 1<<19) + "}",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 0)
				lookupd := s.network.NewUnstartedServer("lookupd1.test:4160")
				lookupd.WrapHTTP = func(http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
						conn, buffer, err := w.(http.Hijacker).Hijack()
						if err == nil {
							buffer.WriteString(answer)
							buffer.Flush()
							conn.Close()
						}
					})
				}
				lookupd.Start()
				t.Cleanup(lookupd.Close)
				s.loop.opts.HTTPClient = s.network.Client()
				require.NoError(t, s.loop.SetLookupdTCPAddresses([]string{lookupd.TCPAddress}))
				s.run()
				s.registered()
				_, err := s.loop.TopicChannels(t.Context(), "orders")
				requireShown(t, err, "lookuploop: lookupd1.test:4160: channels of topic orders: ")
			})
		})
	}
}

func TestErrorsShowTextThatCanBePrintedAndNoMoreThanIsRead(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"plain \"quoted\" \\ äö…": "plain \"quoted\" \\ äö…",
		"a\nb\r\t\x00\x1b[31m":    `a\nb\r\t\x00\x1b[31m`,
		"\u202eright to left":     `\u202eright to left`,
		"no UTF-8: \xff":          "no UTF-8: \ufffd",
		strings.Repeat("x", 1024): strings.Repeat("x", 1024),
		strings.Repeat("x", 1025): strings.Repeat("x", 1024) + "…",
		strings.Repeat("ä", 600):  strings.Repeat("ä", 512) + "…",
		strings.Repeat("\n", 1e6): strings.Repeat(`\n`, 512) + "…",
	} {
		require.Equal(t, want, printable(text))
	}
}

func TestIdentifyTakesAnyPeerInfoAndNothingElse(t *testing.T) {
	for name, tt := range map[string]struct {
		answer lookupdtest.Order
		info   PeerInfo
		want   string // error; empty: none
	}{
		"all": {
			lookupdtest.Reply(`{"tcp_port":1,"http_port":2,"version":"v","hostname":"h","broadcast_address":"b","new":[]}`),
			PeerInfo{TCPPort: 1, HTTPPort: 2, Version: "v", Hostname: "h", BroadcastAddress: "b"}, "",
		},
		"nothing":    {lookupdtest.Reply(`{}`), PeerInfo{}, ""},
		"OK":         {lookupdtest.Reply("OK"), PeerInfo{}, ""}, // of a lookupd that can't describe itself
		"no JSON":    {lookupdtest.Reply("hello"), PeerInfo{}, `answer "hello" is no peer info`},
		"other JSON": {lookupdtest.Reply(`{"tcp_port":"1"}`), PeerInfo{}, `answer "{\"tcp_port\":\"1\"}" is no peer info`},
		"an error":   {lookupdtest.Reject("E_BAD_BODY no port"), PeerInfo{}, "E_BAD_BODY no port"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				s.lookupds[0].Do(lookupdtest.On("IDENTIFY", tt.answer))
				s.run()
				if tt.want == "" {
					s.registered()
					require.Equal(t, tt.info, s.status(1).Info)
					return
				}
				synctest.Wait()
				require.Equal(t, PeerInfo{}, s.status(1).Info)
				require.ErrorContains(t, s.status(1).LastError, "lookuploop: lookupd1.test:4160: IDENTIFY: "+tt.want)
				require.Zero(t, s.status(1).LastHeartbeat)
			})
		})
	}
}

func FuzzPeerInfo(f *testing.F) {
	f.Fuzz(func(t *testing.T, answer []byte) {
		info, err := parsePeerInfo("lookupd.test:4160", answer)
		if err != nil {
			require.Zero(t, info)
			require.True(t, strings.HasPrefix(err.Error(), "lookuploop: lookupd.test:4160: IDENTIFY: answer "), err)
			require.Less(t, len(err.Error()), 2048, "an error is no place for a whole answer")
		}
		for _, text := range []string{info.Version, info.Hostname, info.BroadcastAddress} {
			require.LessOrEqual(t, len(text), 255)
		}
	})
}

// TestSlowLookupdNeitherHoldsMemoryNorStartsOver is about a lookupd that takes its
// time while names come and go. Those that it never heard of need not be kept for
// it.
func TestSlowLookupdNeitherHoldsMemoryNorStartsOver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		s.run()
		s.registered()
		lift := s.lookupds[1].Do(lookupdtest.Delay(900 * time.Millisecond))
		for round := range 100 {
			var created, deleted []Event
			for i := range 1000 {
				topic := fmt.Sprintf("topic-%d-%d", round, i)
				created, deleted = append(created, TopicCreated(topic)), append(deleted, TopicDeleted(topic))
			}
			s.notify(created...)
			synctest.Wait()
			s.notify(deleted...)
			synctest.Wait()
			require.LessOrEqual(t, s.loop.reg.Size(), 2*wire.FirstWindow, "what is on its way to the slow one")
		}
		lift()
		s.notify(TopicCreated("orders"))
		s.registered()
		for i := range s.lookupds {
			require.Equal(t, []string{"orders"}, announced(s.lookupds[i]))
			require.EqualValues(t, 1, s.status(i+1).Connects)
		}
	})
}

// TestLookupdCatchesUpWhileNamesComeAndGo is about one that could keep up, and has
// everything to learn.
func TestLookupdCatchesUpWhileNamesComeAndGo(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const topics, perSecond = 50_000, 250
		s := newScene(t, 1)
		s.lookupds[0].Do(lookupdtest.Delay(time.Millisecond))
		require.NoError(t, s.loop.SetMetadata(withBad(topics, 0)))
		s.run()
		churn, started := &churn{scene: s, topic: "good-0"}, time.Now()
		for {
			churn.step(perSecond / 10)
			time.Sleep(100 * time.Millisecond)
			if status := s.status(1); status.State == Connected && status.Pending < perSecond {
				break
			}
			require.Less(t, time.Since(started), 2*topics*time.Millisecond, "twice of what the topics take")
		}
		require.EqualValues(t, 1, s.status(1).Connects)
	})
}

// TestSlowLookupdCostsAFastOneNothing lets ephemeral channels come and go faster
// than the slow one can hear of them.
func TestSlowLookupdCostsAFastOneNothing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		const topics = 1000
		s := newScene(t, 2)
		fast, slow := s.lookupds[0], s.lookupds[1]
		require.NoError(t, s.loop.SetMetadata(withBad(topics, 0)))
		s.run()
		s.registered()
		lift := slow.Do(lookupdtest.Delay(10 * time.Millisecond))
		churn := &churn{scene: s, topic: "good-0"}
		for i := range 600 {
			churn.step(25)
			topic := fmt.Sprintf("new-%d", i)
			s.notify(TopicCreated(topic))
			synctest.Wait()
			require.Len(t, fast.Producers(topic, ""), 1, "at once")
			s.notify(TopicDeleted(topic))
			synctest.Wait()
			require.Empty(t, fast.Producers(topic, ""))
			require.LessOrEqual(t, s.loop.reg.Size(), topics+1000, "what is on its way to the slow one")
			if i%100 == 99 { // it starts over, beside deletions that are kept for the slow one
				fast.CloseConnections()
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.EqualValues(t, 1, s.status(2).Connects)
		stopped := time.Now()
		s.registered()
		require.Less(t, time.Since(stopped), 5*time.Second, "what is on its way, at 100 commands a second")
		lift()
		require.Equal(t, announced(fast), announced(slow))
	})
}

// TestMassDeletionCostsNobodyTheConnection is about a topic with more channels than
// anybody would keep deletions for.
func TestMassDeletionCostsNobodyTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 3)
		s.network.SetLatency(time.Millisecond)
		s.lookupds[2].Do(lookupdtest.Delay(100 * time.Microsecond))
		m := manyChannels(2, 10_001)
		require.NoError(t, s.loop.SetMetadata(m))
		s.run()
		s.registered()
		s.notify(TopicDeleted("topic0"))
		for started := time.Now(); time.Since(started) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
			for _, lookupd := range s.lookupds {
				require.Len(t, lookupd.Producers("topic1", "channel10000"), 1)
			}
		}
		for i, lookupd := range s.lookupds {
			require.Empty(t, lookupd.Producers("topic0", ""))
			require.Empty(t, lookupd.Producers("topic0", "channel10000"))
			require.EqualValues(t, 1, s.status(i+1).Connects)
		}
		require.Equal(t, 10_002, s.loop.reg.Size(), "no deletion is kept")
	})
}

// churn makes ephemeral channels of a topic, each with a name of its own, and
// deletes the oldest of them, of which it keeps a hundred.
type churn struct {
	*scene
	topic string
	made  int
}

func (c *churn) step(n int) {
	channel := func(i int) string { return fmt.Sprintf("tail-%d#ephemeral", i) }
	for range n {
		c.notify(ChannelCreated(c.topic, channel(c.made)))
		if c.made++; c.made > 100 {
			c.notify(ChannelDeleted(c.topic, channel(c.made-101)))
		}
	}
}
