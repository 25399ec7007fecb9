package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/listing"
)

func TestTableForPeople(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		d := s.nsqd("a.test")
		d.topics = map[string][]string{"orders": {"mail"}}
		for i := range 12 {
			d.topics[fmt.Sprintf("t%02d", i)] = nil
		}
		d.connect(1)
		(&nsqd{s: s, host: "b.test"}).connect(1)
		s.lookupds[1].Stop()
		for topic := range d.topics {
			s.post(1, "/topic/delete?topic="+topic)
		}
		require.Equal(t, exitNotAsked, s.run())
		require.Equal(t, `LOOKUPD             VERSION  BROKERS  TOPICS
lookupd1.test:4161  1.3.0    2        0
lookupd2.test:4161  Get "http://lookupd2.test:4161/info": dial tcp lookupd2.test:4161: connect: connection refused

BROKER       HTTP         HOSTNAME     VERSION  TOPICS  CHANNELS
a.test:4150  a.test:4151  a.test-name  1.3.0    13      1
-            b.test:4151  Get "http://b.test:4151/info": dial tcp b.test:4151: connect: connection refused

not listed: broker a.test:4150, at lookupd lookupd1.test:4161
  of: orders, t00, t01, t02, t03, t04, t05, t06, t07, t08, and 3 more
  seen: the lookupd doesn't know the topic
  consumers that ask this lookupd don't find the broker, perhaps because the topic was deleted there: remove the lookupd from the broker's addresses and add it again, or restart the broker; a broker with lookuploop's VerifyInterval announces it again by itself

not reachable: broker b.test:4150
  seen: dial tcp b.test:4150: connect: connection refused
  consumers like this machine can't dial the broadcast address: set the address and port at which they reach the broker, or open the firewall

findings: 14, but not all lookupds and brokers could be asked
`, s.stdout.String())
	})
}

func TestColourIsForTerminals(t *testing.T) {
	well := report{Lookupds: []lookupdReport{{Address: l1}}}
	wrong := well
	wrong.Findings = []listing.Finding{{Kind: listing.Stale, Lookupd: l1, Broker: "a.test:4150", Topic: "orders"}}
	for _, r := range []report{well, wrong} {
		var plainText, styled bytes.Buffer
		require.NoError(t, writeTable(output{&plainText, false}, r))
		require.NoError(t, writeTable(output{&styled, true}, r))
		require.NotContains(t, plainText.String(), "\x1b")
		require.Contains(t, styled.String(), map[bool]string{true: red, false: green}[len(r.Findings) > 0])
		unstyled := strings.NewReplacer(red, "", green, "", plain, "").Replace(styled.String())
		require.Equal(t, plainText.String(), unstyled)
	}
}

func TestProgressIsForTerminals(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		var shown bytes.Buffer
		var p progress
		p.start(output{&shown, true})
		p.begin("asking about topics", 800)
		time.Sleep(progressInterval + time.Millisecond)
		p.step()
		p.step()
		time.Sleep(progressInterval)
		p.begin("waiting", 0)
		time.Sleep(progressInterval)
		p.stop()
		require.Equal(t, "\r\x1b[Kasking about topics: 0 of 800\r\x1b[Kasking about topics: 2 of 800\r\x1b[Kwaiting\r\x1b[K", shown.String())

		shown.Reset()
		p.start(output{&shown, false})
		time.Sleep(10 * progressInterval)
		p.stop()
		require.Empty(t, shown.String())
	})
}

// What takes long is shown while it does.
func TestLongWorkShowsProgress(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.nsqd("a.test").connect(1)
		s.network.SetLatency(time.Second)
		var stderr bytes.Buffer
		args := []string{"-lookupd-http-address", l1, "-json"}
		require.Equal(t, exitWell, run(t.Context(), args, s.dial, output{io.Discard, false}, output{&stderr, true}))
		synctest.Wait()
		for _, want := range []string{"asking lookupds: 0 of 1", "asking brokers: 0 of 1", "asking about topics: 0 of 2"} {
			require.Contains(t, stderr.String(), want)
		}
	})
}

func TestOutputThatCannotBeWrittenIsAnError(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		for _, args := range [][]string{nil, {"-json"}} {
			args = append(args, "-lookupd-http-address", l1)
			var stderr bytes.Buffer
			require.Equal(t, exitNotAsked, run(t.Context(), args, s.dial, output{full{}, false}, output{&stderr, false}))
			require.Equal(t, "lookupcheck: disk full\n", stderr.String())
		}
		synctest.Wait()
	})
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAFileIsNoTerminal(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "report"))
	require.NoError(t, err)
	require.False(t, isTerminal(file))
	require.NoError(t, file.Close())
	require.False(t, isTerminal(file), "nor is what can't be asked")
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	require.True(t, isTerminal(null), "it is a device, as a terminal is")
}
