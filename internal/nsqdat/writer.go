package nsqdat

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// coalescePause lies between the end of a write and the start of the next,
	// so that a burst of changes costs a few writes. A change after a longer
	// silence is written at once.
	coalescePause = 100 * time.Millisecond

	// After a write that took long the pause is restFactor times as long as that,
	// but for maxPause, so that a large file takes a quarter of the time at most.
	restFactor = 3
	maxPause   = time.Minute

	// A failed write is tried again after minRetryPause, which doubles with
	// each further failure up to maxRetryPause.
	minRetryPause = 100 * time.Millisecond
	maxRetryPause = 5 * time.Second
)

// lastRetries are the pauses before the attempts that follow a failed last
// write. They are short because somebody waits for the process to end.
var lastRetries = [...]time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond}

// Source is what the file is to hold. Its methods may be called at any time and
// from any goroutine.
type Source interface {
	// Version is raised by each change.
	Version() uint64

	// Walk yields everything as it was at one instant, until yield returns
	// false, and returns the version of that instant. It holds no lock while it
	// yields: the disk may take its time.
	Walk(yield func(Item) bool) (version uint64)
}

// Writer keeps the file up to date with a [Source]. Once Run is called its
// goroutine is the only one that writes; all others tell it what they want and
// wait. Before that, a caller of Persist writes.
type Writer struct {
	file   *File
	source Source
	broker string // its version
	logger *slog.Logger

	wake   chan struct{} // capacity 1: readable when something changed; anyone sends, Run receives
	urgent chan struct{} // capacity 1: readable when somebody waits in Persist; they send, Run receives

	turn chan struct{} // capacity 1: who has put something in may write; Run does for good

	// Owned by whose turn it is.
	nextWrite  time.Time     // not before this, unless somebody waits
	retryPause time.Duration // after the last write; 0 if that succeeded

	mu       sync.Mutex // guards what follows; no I/O, callback or log call under it
	isThere  bool       // there is a file, and it is ours
	onDisk   uint64     // version that it holds
	begun    uint64     // writes begun so far
	waiting  map[*persistCall]bool
	ended    bool
	endError error  // of the last write; set with ended
	status   Status // but for Dirty
}

// Status is a snapshot of how the file is doing.
type Status struct {
	Path      string
	Dirty     bool      // something isn't on disk yet
	LastWrite time.Time // when it was last written with success
	LastError error     // of the last write; nil if it succeeded
	Writes    uint64    // that succeeded
	Failures  uint64
}

// NewWriter makes a Writer of a file that it takes over until Run has ended. The
// broker's version goes into the file.
func NewWriter(file *File, source Source, brokerVersion string, logger *slog.Logger) *Writer {
	return &Writer{
		file:    file,
		source:  source,
		broker:  brokerVersion,
		logger:  logger,
		wake:    make(chan struct{}, 1),
		urgent:  make(chan struct{}, 1),
		turn:    make(chan struct{}, 1),
		waiting: make(map[*persistCall]bool),
		status:  Status{Path: file.path},
	}
}

// Loaded says that the file holds this version already. Otherwise the Writer
// takes it that there is none.
func (w *Writer) Loaded(version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isThere, w.onDisk = true, version
}

// Changed says that the version was raised. It never waits.
func (w *Writer) Changed() { signal(w.wake) }

// Run writes until ctx ends, and then what is not on disk once more. It returns
// the failure of that last write. It must be called once.
func (w *Writer) Run(ctx context.Context) error {
	w.turn <- struct{}{} // for good: afterwards nobody writes
	for ctx.Err() == nil {
		if w.dirty() {
			if w.pause(ctx) {
				w.write()
			}
			continue
		}
		select {
		case <-w.wake:
		case <-w.urgent:
		case <-ctx.Done():
		}
	}
	return w.finish()
}

func (w *Writer) dirty() bool {
	version := w.source.Version()
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.isThere || version > w.onDisk
}

// pause waits until the next write is due, or somebody waits for it. It returns
// false when ctx ended. Changes don't wake it.
func (w *Writer) pause(ctx context.Context) bool {
	timer := time.NewTimer(time.Until(w.nextWrite))
	defer timer.Stop()
	for !w.awaited() {
		select {
		case <-timer.C:
			return true
		case <-w.urgent: // perhaps from somebody who has his answer by now
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// finish makes the last write and answers everybody who waits.
func (w *Writer) finish() error {
	var err error
	w.look()
	if w.dirty() {
		err = w.write()
		for _, pause := range lastRetries {
			if err == nil {
				break
			}
			time.Sleep(pause)
			err = w.write()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.endError = err
	w.answer(nil)
	return err
}

// write writes once, tells those who wait for the outcome, and logs when
// failures begin and when they are over.
func (w *Writer) write() error {
	w.mu.Lock()
	w.begun++
	w.mu.Unlock()

	began := time.Now()
	var version uint64
	err := w.file.Write(func(yield func(Item) bool) { version = w.source.Walk(yield) }, w.broker)
	now := time.Now()

	failedBefore := w.retryPause > 0
	if err == nil {
		w.retryPause = 0
	} else {
		w.retryPause = min(max(2*w.retryPause, minRetryPause), maxRetryPause)
	}
	rest := min(restFactor*now.Sub(began), maxPause)
	w.nextWrite = now.Add(max(coalescePause, w.retryPause, rest))

	w.mu.Lock()
	w.status.LastError = err
	if err == nil {
		w.isThere, w.onDisk = true, version
		w.status.LastWrite = now
		w.status.Writes++
	} else {
		w.status.Failures++
	}
	w.answer(err)
	w.mu.Unlock()

	switch {
	case err != nil && !failedBefore:
		w.logger.Error("metadata can't be written, will retry", "path", w.file.path, "error", err)
	case err == nil && failedBefore:
		w.logger.Info("metadata is written again", "path", w.file.path)
	}
	return err
}

// Status may be called at any time.
func (w *Writer) Status() Status {
	dirty := w.dirty()
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.status
	s.Dirty = dirty
	return s
}

// signal makes c, of capacity 1, readable.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
