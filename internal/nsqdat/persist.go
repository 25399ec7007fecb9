package nsqdat

import (
	"context"
	"fmt"
)

// persistCall is one caller who waits in Persist.
type persistCall struct {
	version uint64     // waits for this to be on disk
	begun   uint64     // the failure of a write up to this one doesn't concern the caller
	result  chan error // capacity 1
}

// Persist waits until all that was changed before the call is on disk, or a
// write that began after the call failed, or ctx ends. It doesn't wait for the
// pauses between writes. Callers that wait at the same time share one write.
// What a caller does with the disk by itself is not cut short by ctx: it looks
// whether the file is still there, and before Run one of them writes.
func (w *Writer) Persist(ctx context.Context) error {
	w.look()
	call := &persistCall{version: w.source.Version(), result: make(chan error, 1)}
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

	turn := w.turn
	if ctx.Err() != nil {
		turn = nil // nothing is begun any more
	}
	select {
	case err := <-call.result:
		return err
	case turn <- struct{}{}:
		if len(call.result) == 0 { // whoever had the turn before may have answered
			w.write()
		}
		<-w.turn
		return <-call.result
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, call)
		return fmt.Errorf("lookuploop: changes not in %s yet: %w", w.file.path, ctx.Err())
	}
}

// look finds out whether somebody removed the file or put another one there. It
// need not, when the file will be written anyway. After the end of Run the
// file is not ours any more.
func (w *Writer) look() {
	w.mu.Lock()
	begun := w.begun
	w.mu.Unlock()
	if w.dirty() || w.file.IsOurs() {
		return
	}
	w.mu.Lock()
	isChanged := w.begun == begun && w.isThere && !w.ended // and not by ourselves
	if isChanged {
		w.isThere = false
	}
	w.mu.Unlock()
	if isChanged {
		w.logger.Warn("metadata file was removed or replaced, writing it again", "path", w.file.path)
	}
}

// outcome is what Persist returns for a version, as soon as that is certain.
// The caller holds mu.
func (w *Writer) outcome(version uint64) (done bool, err error) {
	switch {
	case w.isThere && version <= w.onDisk:
		return true, nil
	case !w.ended:
		return false, nil
	case w.endError != nil:
		return true, fmt.Errorf("%w: %w", ErrClosed, w.endError)
	default:
		return true, ErrClosed
	}
}

func (w *Writer) awaited() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting) > 0
}

// answer tells those who wait what became certain: their version is on disk,
// the write begun last failed (failure), or there will be none any more. The caller holds mu.
func (w *Writer) answer(failure error) {
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
