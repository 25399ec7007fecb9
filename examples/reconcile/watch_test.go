package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

const interval = time.Second

// scene is a directory that is watched for three lookupds, in virtual time.
type scene struct {
	t   *testing.T
	dir string

	mu   sync.Mutex
	log  strings.Builder
	sent [3][]string // what each lookupd got since it was last asked; PING and IDENTIFY left out
}

// Write takes what is logged.
func (s *scene) Write(line []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.Write(line)
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, dir: filepath.Join(t.TempDir(), "topics")}
	require.NoError(t, os.Mkdir(s.dir, 0o700))
	network := lookupdtest.NewNetwork()
	var addresses []string
	for i := range s.sent {
		lookupd := network.NewServer(fmt.Sprintf("lookupd%d.test:4160", i))
		t.Cleanup(lookupd.Close)
		lookupd.Do(lookupdtest.Observe(func(c lookupdtest.Command) {
			s.mu.Lock()
			defer s.mu.Unlock()
			if c.Name != "PING" && c.Name != "IDENTIFY" {
				s.sent[i] = append(s.sent[i], c.String())
			}
		}))
		addresses = append(addresses, lookupd.TCPAddress)
	}
	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: addresses,
		BroadcastAddress:    "broker.test", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151,
		Dial: network.Dial, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	w := watcher{dir: s.dir, interval: interval, declare: loop.SetMetadata, logger: slog.New(slog.NewTextHandler(s, nil))}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()
	go func() { ended <- w.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, errors.Join(<-ended, <-ended))
	})
	synctest.Wait()
	return s
}

func (s *scene) write(name, text string) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

// pass lets n intervals pass.
func (s *scene) pass(n int) {
	time.Sleep(time.Duration(n) * interval)
	synctest.Wait()
}

// heard lets the directory be looked at twice and fails unless each lookupd
// got these commands, in any order, and no other.
func (s *scene) heard(commands ...string) {
	s.t.Helper()
	s.pass(2)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sent := range s.sent {
		require.ElementsMatch(s.t, commands, sent, "lookupd %d", i)
		s.sent[i] = nil
	}
}

// logged returns the lines logged since it was last asked, without time.
func (s *scene) logged() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.log.Reset()
	text := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(s.log.String(), "")
	return slices.Collect(strings.Lines(text))
}

func TestNothingThatStaysFlickers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.pass(1)
		s.heard()

		s.write("orders", "mail\narchive\n")
		s.write("returns", "")
		s.heard("REGISTER orders mail", "REGISTER orders archive", "REGISTER returns")

		// The same in other words.
		s.write("orders", "# who gets orders\n\r\n archive\r\nmail")
		s.write(".orders.swp", "left by an editor")
		s.heard()

		// Changes, of which only the difference is said.
		s.write("orders", "mail\nship\n")
		s.heard("UNREGISTER orders archive", "REGISTER orders ship")
		s.write("live#ephemeral", "view#ephemeral\n")
		require.NoError(t, os.Remove(s.path("returns")))
		s.heard("REGISTER live#ephemeral view#ephemeral", "UNREGISTER returns")
		require.NoError(t, os.Rename(s.path("live#ephemeral"), s.path("alive")))
		s.heard("UNREGISTER live#ephemeral view#ephemeral", "UNREGISTER live#ephemeral", "REGISTER alive view#ephemeral")

		s.pass(1000)
		s.heard()
	})
}

// TestHalfWrittenFilesDontCount looks at a file once while it is being written.
func TestHalfWrittenFilesDontCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.write("orders", "mail\narchive\n")
		s.heard("REGISTER orders mail", "REGISTER orders archive")
		s.write("orders", "")
		s.pass(1)
		s.write("orders", "mail\n")
		s.pass(1)
		s.write("orders", "mail\narchive\nship\n")
		s.heard("REGISTER orders ship")
	})
}

func TestFaultsAreLoggedOnceAndTheRestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.write("orders", "mail\nto whom?\nmail\n"+strings.Repeat("x", 1000))
		s.write("no topic", "mail\n")
		require.NoError(t, os.Mkdir(s.path("folder"), 0o700))
		s.heard("REGISTER orders mail")
		s.pass(10)
		require.Equal(t, []string{
			"level=WARN msg=\"left out\" fault=\"" + s.dir + "/folder is no file\"\n",
			"level=WARN msg=\"left out\" fault=\"\\\"no topic\\\" can't be the name of a topic\"\n",
			"level=WARN msg=\"left out\" fault=\"orders:2: \\\"to whom?\\\" can't be the name of a channel\"\n",
			"level=WARN msg=\"left out\" fault=\"orders:3: channel \\\"mail\\\" is there twice\"\n",
			"level=WARN msg=\"left out\" fault=\"orders:4: \\\"" + strings.Repeat("x", 80) + "\\\" can't be the name of a channel\"\n",
			"level=INFO msg=declared topics=1\n",
		}, s.logged())

		require.NoError(t, os.Remove(s.path("no topic")))
		require.NoError(t, os.Remove(s.path("folder")))
		s.write("orders", "mail\nship")
		s.heard("REGISTER orders ship")
		require.Equal(t, []string{"level=INFO msg=declared topics=1\n"}, s.logged())
	})
}

func TestWhatCanNotBeReadStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		s.write("orders", "mail\n")
		s.write("returns", "")
		s.heard("REGISTER orders mail", "REGISTER returns")
		s.logged()

		// A link to itself can't be read by anyone; the others go on.
		require.NoError(t, os.Remove(s.path("orders")))
		require.NoError(t, os.Symlink("orders", s.path("orders")))
		require.NoError(t, os.Remove(s.path("returns")))
		s.heard("UNREGISTER returns")
		log := s.logged()
		require.Len(t, log, 2)
		require.Contains(t, log[0], "too many levels of symbolic links")

		// Nor can a directory that isn't there.
		require.NoError(t, os.Rename(s.dir, s.dir+"-away"))
		s.heard()
		log = s.logged()
		require.Len(t, log, 2)
		require.Contains(t, log[0], "no such file or directory")
		require.NoError(t, os.Rename(s.dir+"-away", s.dir))
		s.heard()

		// A link to nothing is as good as no file.
		require.NoError(t, os.Remove(s.path("orders")))
		require.NoError(t, os.Symlink("nothing", s.path("orders")))
		s.heard("UNREGISTER orders mail", "UNREGISTER orders")
	})
}

// TestWatchingEndsWithTheLoop and returns any other error, which would come again.
func TestWatchingEndsWithTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "orders"), nil, 0o600))
		fault := errors.New("fault")
		for declared, want := range map[error]error{lookuploop.ErrClosed: nil, fault: fault} {
			w := watcher{dir, interval, func(lookuploop.Metadata) error { return declared }, slog.New(slog.DiscardHandler)}
			require.Equal(t, want, w.run(t.Context()))
		}
	})
}
