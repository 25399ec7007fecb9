package nsqdat

import "os"

// What tests outside of the package need of its inside.

const (
	CoalescePause = coalescePause
	MinRetryPause = minRetryPause
	MaxRetryPause = maxRetryPause
	MaxPause      = maxPause
)

var LastRetries = lastRetries

// Waiting is the number of callers who wait in Persist.
func (w *Writer) Waiting() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

// InterceptSync lets sync stand in for (*os.File).Sync on directories.
func InterceptSync(sync func(*os.File) error) (undo func()) {
	before := syncFile
	syncFile = sync
	return func() { syncFile = before }
}
