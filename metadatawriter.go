package lookuploop

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// coalescePause lies between the end of a write and the start of the next,
	// so that a burst of changes costs a few writes. A change after a longer
	// silence is written at once.
	coalescePause = 100 * time.Millisecond

	// A failed write is tried again after minRetryPause, which doubles with
	// each further failure up to maxRetryPause.
	minRetryPause = 100 * time.Millisecond
	maxRetryPause = 5 * time.Second
)

// lastRetries are the pauses before the attempts that follow a failed last
// write. They are short because somebody waits for the process to end.
var lastRetries = [...]time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 300 * time.Millisecond}

// metadataWriter keeps nsqd.dat up to date with the registry. The goroutine of
// run is the only one that writes; all others tell it what they want and wait.
type metadataWriter struct {
	file     *metadataFile
	snapshot func() (Metadata, uint64) // a copy of what is to be on disk, with its version
	version  func() uint64             // of what is to be on disk, raised by each change
	logger   *slog.Logger

	wake   chan struct{} // capacity 1: readable when something changed; anyone sends, run receives
	urgent chan struct{} // capacity 1: readable when somebody waits in persist; they send, run receives

	// Owned by run's goroutine.
	nextWrite  time.Time     // not before this, unless somebody waits
	retryPause time.Duration // after the last write; 0 if that succeeded

	mu        sync.Mutex // guards what follows; no I/O, callback or log call under it
	onDisk    uint64     // version that the file holds
	begun     uint64     // writes begun so far
	waiting   map[*persistCall]bool
	running   bool
	ended     bool
	endError  error // of the last write; set with ended
	lastWrite time.Time
	lastError error
	writes    uint64
	failures  uint64
}

// persistCall is one caller who waits in persist.
type persistCall struct {
	version uint64     // waits for this to be on disk
	begun   uint64     // the failure of a write up to this one doesn't concern the caller
	result  chan error // capacity 1
}

func newMetadataWriter(file *metadataFile, snapshot func() (Metadata, uint64), version func() uint64, logger *slog.Logger) *metadataWriter {
	return &metadataWriter{
		file:     file,
		snapshot: snapshot,
		version:  version,
		logger:   logger,
		wake:     make(chan struct{}, 1),
		urgent:   make(chan struct{}, 1),
		waiting:  make(map[*persistCall]bool),
	}
}

// loaded says that the file holds this version already.
func (w *metadataWriter) loaded(version uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onDisk = version
}

// changed says that the version was raised. It never waits.
func (w *metadataWriter) changed() { signal(w.wake) }

// persist waits until all that was changed before the call is on disk, or a
// write that began after the call failed, or ctx ends. It doesn't wait for the
// pauses between writes. Callers that wait at the same time share one write.
func (w *metadataWriter) persist(ctx context.Context) error {
	call := &persistCall{version: w.version(), result: make(chan error, 1)}
	w.mu.Lock()
	done, err := w.outcome(call.version)
	if !done {
		call.begun = w.begun
		w.waiting[call] = true
	}
	w.mu.Unlock()
	if done {
		return err
	}
	signal(w.urgent)

	select {
	case err := <-call.result:
		return err
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, call)
		state := "being written"
		if !w.running {
			state = "waiting for Run"
		}
		return fmt.Errorf("lookuploop: changes not in %s yet, %s: %w", w.file.path, state, ctx.Err())
	}
}

// outcome is what persist returns for a version, as soon as that is certain.
// The caller holds mu.
func (w *metadataWriter) outcome(version uint64) (done bool, err error) {
	switch {
	case version <= w.onDisk:
		return true, nil
	case !w.ended:
		return false, nil
	case w.endError != nil:
		return true, fmt.Errorf("%w: %w", ErrClosed, w.endError)
	default:
		return true, ErrClosed
	}
}

// run writes until ctx ends, and then what is not on disk once more. It returns
// the failure of that last write. The caller waits for it.
func (w *metadataWriter) run(ctx context.Context) error {
	w.mu.Lock()
	w.running = true
	w.mu.Unlock()

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

func (w *metadataWriter) dirty() bool {
	version := w.version()
	w.mu.Lock()
	defer w.mu.Unlock()
	return version > w.onDisk
}

// pause waits until the next write is due, or somebody waits for it. It returns
// false when ctx ended. Changes don't wake it.
func (w *metadataWriter) pause(ctx context.Context) bool {
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

func (w *metadataWriter) awaited() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting) > 0
}

// finish makes the last write and answers everybody who waits.
func (w *metadataWriter) finish() error {
	var err error
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
func (w *metadataWriter) write() error {
	w.mu.Lock()
	w.begun++
	w.mu.Unlock()

	m, version := w.snapshot()
	err := w.file.write(m)
	now := time.Now()

	failedBefore := w.retryPause > 0
	if err == nil {
		w.retryPause = 0
		w.nextWrite = now.Add(coalescePause)
	} else {
		w.retryPause = min(max(2*w.retryPause, minRetryPause), maxRetryPause)
		w.nextWrite = now.Add(w.retryPause)
	}

	w.mu.Lock()
	w.lastError = err
	if err == nil {
		w.onDisk = version
		w.lastWrite = now
		w.writes++
	} else {
		w.failures++
	}
	w.answer(err)
	w.mu.Unlock()

	switch {
	case err != nil && !failedBefore:
		w.logger.Error("metadata can't be written, will be tried again", "path", w.file.path, "error", err)
	case err == nil && failedBefore:
		w.logger.Info("metadata is written again", "path", w.file.path)
	}
	return err
}

// answer tells those who wait what became certain: their version is on disk,
// the write begun last failed (failure), or there will be none any more. The caller holds mu.
func (w *metadataWriter) answer(failure error) {
	for call := range w.waiting {
		done, err := w.outcome(call.version)
		if !done && failure != nil && call.begun < w.begun {
			done, err = true, failure
		}
		if done {
			call.result <- err
			delete(w.waiting, call)
		}
	}
}

func (w *metadataWriter) status() MetadataStatus {
	dirty := w.dirty()
	w.mu.Lock()
	defer w.mu.Unlock()
	return MetadataStatus{
		Path:      w.file.path,
		Dirty:     dirty,
		LastWrite: w.lastWrite,
		LastError: w.lastError,
		Writes:    w.writes,
		Failures:  w.failures,
	}
}

// signal makes c, of capacity 1, readable.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
