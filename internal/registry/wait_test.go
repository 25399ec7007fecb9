package registry

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// modelWatch is one who waits, and what the lookupds' standing was when it looked last.
type modelWatch struct {
	*Watch
	seen []Standing
}

// look is what Loop.WaitRegistered does.
func (w *registryWorld) look(watch *Watch) []Standing {
	var cursors []*Cursor
	for _, p := range w.peers {
		cursors = append(cursors, p.cursor)
	}
	return w.reg.Standing(cursors, watch.Place())
}

// watch lets one more wait, and the oldest of five wait no more.
func (w *registryWorld) watch() {
	if len(w.watches) == 5 {
		w.watches[0].Stop()
		w.watches = w.watches[1:]
	}
	watch := w.reg.Watch()
	w.watches = append(w.watches, &modelWatch{watch, w.look(watch)})
}

// checkWatches makes sure that nobody sleeps through what may end its wait.
func (w *registryWorld) checkWatches(t require.TestingT) {
	for _, watch := range w.watches {
		now := w.look(watch.Watch)
		select {
		case <-watch.Changed():
		default:
			for i, seen := range watch.seen {
				require.False(t, now[i].Acknowledged && !seen.Acknowledged, "lookupd %d knows place %d", i, watch.Place())
				require.False(t, now[i].Refuses && !seen.Refuses, "lookupd %d refuses something up to place %d", i, watch.Place())
			}
		}
		watch.seen = now
	}
}

func TestOnlyThoseAreWokenWhoWaitForWhatWasAcknowledged(t *testing.T) {
	w := newRegistryWorld(2)
	for _, p := range w.peers {
		p.connect()
	}
	var watches []*Watch
	for _, name := range []string{"a", "b", "c"} {
		w.change(Change{TopicCreated, name, ""})
		watches = append(watches, w.reg.Watch())
	}
	woken := func() (places []uint64) {
		for _, watch := range watches {
			select {
			case <-watch.Changed():
				places = append(places, watch.Place())
			default:
			}
		}
		return places
	}
	require.Empty(t, woken())
	c := w.peers[0].cursor
	commands, _ := w.reg.Read(c, 10, nil)
	require.Len(t, commands, 3)
	w.reg.Acknowledge(c, 1, commands[0])
	require.Equal(t, []uint64{1}, woken())
	w.reg.Acknowledge(c, 2, commands[2])
	require.Equal(t, []uint64{2, 3}, woken())
	watches[1].Stop()
	watches[2].Stop()
	w.reg.Wake()
	require.Equal(t, []uint64{1}, woken())
}

// The waiter may have looked between the end of the connection and what ended it.
func TestARefusalWakesThoseWhoWait(t *testing.T) {
	w := newRegistryWorld(1)
	w.change(Change{TopicCreated, "a", ""})
	p := w.peers[0]
	p.connect()
	watch := w.reg.Watch()
	chunk, _ := w.reg.Read(p.cursor, ChunkSize, nil)
	w.reg.Release(p.cursor, chunk, false)
	<-watch.Changed()
	require.Equal(t, []Standing{{}}, w.look(watch))
	w.reg.Refused(p.cursor, chunk[0], true, refusalError("a"), w.now)
	require.Len(t, watch.Changed(), 1)
	require.Equal(t, []Standing{{Refuses: true}}, w.look(watch))
}
