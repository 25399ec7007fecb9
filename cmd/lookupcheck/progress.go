package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"go.uber.org/atomic"
)

// output is a stream. On a terminal it may be styled: coloured, and a line written
// over.
type output struct {
	io.Writer
	styled bool
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

const progressInterval = 200 * time.Millisecond

// progress shows on a terminal how far long work has come. Its zero value shows
// nothing. What is being done may be told by any goroutine.
type progress struct {
	doing       atomic.String
	done, total atomic.Int64

	quit  chan struct{}
	shown sync.WaitGroup // the goroutine that writes; stop waits for it
}

// start begins to show it.
func (p *progress) start(out output) {
	if !out.styled {
		return
	}
	p.quit = make(chan struct{})
	p.shown.Go(func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				io.WriteString(out, "\r\x1b[K")
				return
			case <-tick.C:
				fmt.Fprintf(out, "\r\x1b[K%s", p)
			}
		}
	})
}

// stop clears the line. It may be called without start.
func (p *progress) stop() {
	if p.quit != nil {
		close(p.quit)
		p.shown.Wait()
		p.quit = nil
	}
}

// begin says what is done now, and in how many steps; 0 if there are none to count.
func (p *progress) begin(doing string, steps int) {
	p.done.Store(0)
	p.total.Store(int64(steps))
	p.doing.Store(doing)
}

// step says that one step is done.
func (p *progress) step() { p.done.Inc() }

func (p *progress) String() string {
	if p.total.Load() == 0 {
		return p.doing.Load()
	}
	return fmt.Sprintf("%s: %d of %d", p.doing.Load(), p.done.Load(), p.total.Load())
}
