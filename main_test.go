package lookuploop

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400)                                // little of what tests make stays
	if err := flag.Set("test.parallel", "4"); err != nil { // what is parallel here waits
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

var long = flag.Bool("long", false, "play in full what tests otherwise do a tenth of")

// inFull is n with -long, and a tenth of that without.
func inFull(n int) int {
	if *long {
		return n
	}
	return n / 10
}

// inBubble is synctest.Test. Under the race detector everything runs on one
// thread: two that look at due timers of one bubble at the same time can crash
// the detector itself (https://github.com/golang/go/issues/78156).
func inBubble(t *testing.T, f func(*testing.T)) {
	defer oneThreadForRaceDetector()()
	synctest.Test(t, f)
}

func hasRaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// oneThreadForRaceDetector returns a function that takes it back.
func oneThreadForRaceDetector() (undo func()) {
	if !hasRaceDetector() {
		return func() {}
	}
	before := runtime.GOMAXPROCS(1)
	return func() { runtime.GOMAXPROCS(before) }
}

// patience is how long a test waits for what is to happen; only a red test does.
const patience = time.Minute

// validOptions are those that every Loop needs, and silence.
func validOptions() Options {
	return Options{
		BroadcastAddress:  "broker.test",
		Hostname:          "broker-host",
		BroadcastTCPPort:  4150,
		BroadcastHTTPPort: 4151,
		Logger:            slog.New(slog.DiscardHandler),
	}
}

func newLoop(t testing.TB, edits ...func(*Options)) *Loop {
	t.Helper()
	opts := validOptions()
	for _, edit := range edits {
		edit(&opts)
	}
	loop, err := New(opts)
	require.NoError(t, err)
	return loop
}

// run runs the Loop. end ends it and waits for it.
func run(t testing.TB, loop *Loop) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- loop.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-result)
	}
}

// someMetadata is a broker with n channels, each in a topic of its own.
func someMetadata(n int) (m Metadata) {
	for i := range n {
		m.Topics = append(m.Topics, TopicMetadata{
			Name:     fmt.Sprintf("orders-%06d", i),
			Channels: []ChannelMetadata{{Name: "archive"}},
		})
	}
	return m
}

// scene is a Loop and its lookupds on a Network. It is made inside a bubble of
// testing/synctest, where time is virtual, and ends with the test.
type scene struct {
	t        *testing.T
	network  *lookupdtest.Network
	lookupds []*lookupdtest.Server // at lookupd1.test:4160 and so on
	loop     *Loop
	end      func() error // ends Run's context and returns what Run returned
}

func newScene(t *testing.T, lookupds int, edits ...func(*Options)) *scene {
	s := &scene{t: t, network: lookupdtest.NewNetwork()}
	var addresses []string
	for i := range lookupds {
		addresses = append(addresses, s.start(i+1).TCPAddress)
	}
	s.loop = newLoop(t, append([]func(*Options){func(o *Options) {
		o.LookupdTCPAddresses = addresses
		o.Dial = s.network.Dial
	}}, edits...)...)
	s.loop.dialBroker = s.network.Dial // Go's resolver must not be used in a bubble first
	return s
}

// start starts lookupd number i.
func (s *scene) start(i int) *lookupdtest.Server {
	lookupd := s.network.NewServer(fmt.Sprintf("lookupd%d.test:4160", i))
	s.t.Cleanup(lookupd.Close)
	s.lookupds = append(s.lookupds, lookupd)
	return lookupd
}

func (s *scene) run() {
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- s.loop.Run(ctx) }()
	s.end = sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	s.t.Cleanup(func() { s.end() })
}

func (s *scene) notify(events ...Event) {
	s.t.Helper()
	require.NoError(s.t, s.loop.Notify(events...))
}

// registered waits until all lookupds know everything.
func (s *scene) registered() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	require.NoError(s.t, s.loop.WaitRegistered(ctx, 0))
}

// eventually waits for something at a lookupd.
func (s *scene) eventually(lookupd *lookupdtest.Server, cond func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	require.NoError(s.t, lookupd.Wait(ctx, cond))
}

// listen returns a function that returns the commands that the lookupd got
// since it was called last.
func listen(lookupd *lookupdtest.Server) (heard func() []string) {
	var mu sync.Mutex
	var commands []string
	lookupd.Do(lookupdtest.Observe(func(c lookupdtest.Command) {
		mu.Lock()
		defer mu.Unlock()
		commands = append(commands, c.String())
	}))
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		defer func() { commands = nil }()
		return slices.Clone(commands)
	}
}

// announced returns the topics ("orders") and channels ("orders mail") that
// have a producer at the lookupd, sorted.
func announced(lookupd *lookupdtest.Server) (names []string) {
	for _, topic := range lookupd.Topics() {
		if len(lookupd.Producers(topic, "")) > 0 {
			names = append(names, topic)
		}
		for _, channel := range lookupd.Channels(topic) {
			if len(lookupd.Producers(topic, channel)) > 0 {
				names = append(names, topic+" "+channel)
			}
		}
	}
	slices.Sort(names)
	return names
}

// dialWatch sees what Options.Dial is asked and what becomes of the connections.
type dialWatch struct {
	mu     sync.Mutex
	dials  map[string][]time.Time // by address
	open   int                    // connections that were not closed
	writes int                    // on all connections
}

// watch is an edit for newScene and newLoop: it puts the watch around Dial.
func (w *dialWatch) watch(o *Options) {
	w.dials = make(map[string][]time.Time)
	dial := o.Dial
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		w.mu.Lock()
		w.dials[address] = append(w.dials[address], time.Now())
		w.mu.Unlock()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.open++
		w.mu.Unlock()
		return &watchedConn{Conn: conn, watch: w}, nil
	}
}

// times returns when the address was dialled.
func (w *dialWatch) times(address string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.dials[address])
}

// gaps returns the times between the dials of an address.
func (w *dialWatch) gaps(address string) (gaps []time.Duration) {
	times := w.times(address)
	for i := 1; i < len(times); i++ {
		gaps = append(gaps, times[i].Sub(times[i-1]))
	}
	return gaps
}

// opened returns how many connections are open.
func (w *dialWatch) opened() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

// written returns how often something was written since it was asked last.
func (w *dialWatch) written() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.writes = 0 }()
	return w.writes
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// watch is an edit for newScene and newLoop: it makes the buffer the log, which
// has all levels.
func (l *logBuffer) watch(o *Options) {
	o.Logger = slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// lines returns the lines of the log that have all the words.
func (l *logBuffer) lines(words ...string) (found []string) {
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			found = append(found, line)
		}
	}
	return found
}

// last returns the last line.
func (l *logBuffer) last() string {
	lines := l.lines("msg=")
	return lines[len(lines)-1]
}

// infoOf makes a log of the levels that operators read.
func (l *logBuffer) infoOf(o *Options) { o.Logger = slog.New(slog.NewTextHandler(l, nil)) }

type watchedConn struct {
	net.Conn
	watch *dialWatch
	once  sync.Once
}

func (c *watchedConn) Write(p []byte) (int, error) {
	c.watch.mu.Lock()
	c.watch.writes++
	c.watch.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *watchedConn) Close() error {
	c.once.Do(func() {
		c.watch.mu.Lock()
		defer c.watch.mu.Unlock()
		c.watch.open--
	})
	return c.Conn.Close()
}

// answerOK is the answer OK as it comes over the network.
const answerOK = "\x00\x00\x00\x02OK"

// troubles is all that Status has of errors.
func troubles(status Status) string {
	errs := []error{status.Verification.Error}
	for _, s := range status.Lookupds {
		errs = append(errs, s.LastError, s.ResolveError)
	}
	for _, s := range status.Names {
		errs = append(errs, s.Error)
	}
	for _, s := range status.Verification.Found.Lookupds {
		errs = append(errs, s.Err)
	}
	return fmt.Sprint(errors.Join(errs...))
}

// handlerFunc has no lock, other than those of package slog: only the line that
// blocks does.
type handlerFunc func(slog.Record)

func (f handlerFunc) Enabled(context.Context, slog.Level) bool      { return true }
func (f handlerFunc) Handle(_ context.Context, r slog.Record) error { f(r); return nil }
func (f handlerFunc) WithAttrs([]slog.Attr) slog.Handler            { return f }
func (f handlerFunc) WithGroup(string) slog.Handler                 { return f }

// librarysGoroutines counts the goroutines that the library started, or that are in Run.
func librarysGoroutines() (n int) {
	var b bytes.Buffer
	pprof.Lookup("goroutine").WriteTo(&b, 2)
	for _, goroutine := range strings.Split(b.String(), "\n\n") {
		for _, method := range []string{"lookuploop.(*Loop).", "lookuploop.(*lookupPeer).", "lookuploop.(*probe).", "nsqdat.(*Writer).", "wire.(*Conn[...])."} {
			if strings.Contains(goroutine, method) {
				n++
				break
			}
		}
	}
	return n
}

// noDeadlinesConn is as a channel of an SSH connection.
type noDeadlinesConn struct{ net.Conn }

func (noDeadlinesConn) SetReadDeadline(time.Time) error {
	return errors.New("ssh: tcpChan: deadline not supported")
}

// lingeringConn is a connection that breaks at a write, and whose reader gets
// good answers for a while after its end.
type lingeringConn struct {
	net.Conn
	answers int
}

func (c *lingeringConn) SetReadDeadline(time.Time) error { return nil }

func (c *lingeringConn) Write(p []byte) (int, error) {
	if strings.HasPrefix(string(p), "REGISTER") {
		return 0, syscall.EPIPE
	}
	return c.Conn.Write(p)
}

func (c *lingeringConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.answers > 0 {
		c.answers--
		time.Sleep(200 * time.Millisecond)
		return copy(p, answerOK), nil
	}
	return n, err
}

// partConn breaks the rule of io.Writer that a short write has an error.
type partConn struct {
	net.Conn
	verb string // in what is not written to the end
}

func (c partConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.verb)) {
		p = p[:len(p)/2]
	}
	return c.Conn.Write(p)
}

type heldConn struct {
	net.Conn
	hold func()
}

func (c heldConn) Close() error {
	c.hold()
	return c.Conn.Close()
}

// statusFault is an error of which a nil pointer is no good.
type statusFault struct{ text string }

func (f *statusFault) Error() string { return f.text }
