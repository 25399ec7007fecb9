package lookuploop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/resolve"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// finish ends all faults, and holds what comes of it against what is promised.
func (w *simWorld) finish() {
	w.tasks.Wait()
	for len(w.lifts) > 0 {
		w.lift(0)
	}
	w.disk.Order(nil)
	if len(w.configured) == 0 {
		w.setAddresses([]int{0, 1})
	}
	w.converge()
	w.checkRefusal()
	w.checkStatus()
	w.checkDisk()
	w.checkEnd()
	w.checkWrites()
	w.checkHeartbeats()
}

// settle is when everything that was under way has arrived, after the faults.
// An answer that was left out is missed at the last command, behind which a PING can
// be that was just sent.
func (w *simWorld) settle() {
	time.Sleep(2*simTimeout + 4*w.history.setting.latency)
	synctest.Wait()
}

// bound is how long it may take until every lookupd knows everything, once
// faults have stopped: an attempt that still fails, a backoff, and some round trips
// of the main connection and of a probe, which asks in groups that grow.
func (w *simWorld) bound() time.Duration {
	s := w.history.setting
	dns := time.Duration(0)
	if s.resolve > 0 {
		dns = resolve.Timeout + 2*time.Second // a look-up that still hangs, and a pause
	}
	return dns + 2*simTimeout + s.maxBackoff + 20*w.roundTrip() + time.Second
}

// roundTrip is what a question and its answer take, on a new connection as well.
func (w *simWorld) roundTrip() time.Duration {
	d := 2 * w.history.setting.latency
	if w.history.setting.bandwidth > 0 {
		d += 20 * time.Millisecond
	}
	return d
}

// converge waits until the lookupds know everything.
func (w *simWorld) converge() {
	// What a lookupd said in its delusion may be under way still.
	w.settle()
	wait := func(n int) error {
		ctx, cancel := context.WithTimeout(context.Background(), w.bound())
		defer cancel()
		return w.loop.WaitRegistered(ctx, n)
	}
	err := wait(0)
	// The pauses double, so one is as long as it took to come there.
	retried := min(time.Since(w.began), registry.MaxRetryDelay) + w.history.setting.maxBackoff + w.bound()
	for began := time.Now(); errors.As(err, new(*ResponseError)); err = wait(0) {
		if others := len(w.configured) - w.refusing(); others > 0 {
			if err := wait(others); err != nil && !errors.As(err, new(*ResponseError)) {
				w.failf("those that refuse nothing: %v", err)
				return
			}
		}
		for w.refusing() > 0 {
			w.pause(time.Second)
			if time.Since(began) > retried {
				w.failf("still refused after %v: %v", retried, err)
				return
			}
		}
	}
	if err != nil {
		w.failf("after the faults: %v", err)
		return
	}
	w.checkDatabases(func(producers int) bool { return producers > 0 })
	w.settle()
	w.checkDatabases(func(producers int) bool { return producers == 1 })
	w.checkNothingElse()
}

// checkRefusal lets a lookupd refuse names, which must not keep it from hearing of
// the others, nor these from being listed from then on.
func (w *simWorld) checkRefusal() {
	refusal := w.history.setting.refusal
	if refusal.pattern == "" || len(w.faults) > 0 {
		return
	}
	w.notifyOnce(preloadEvents(0, w.history.setting.preload, false))
	w.converge()
	names, refused := w.model.broker.names(), 0
	for name := range names {
		if refusal.has(name) {
			refused++
		}
	}
	server := w.servers[w.configured[0]]
	lift := server.Do(lookupdtest.On("REGISTER "+refusal.pattern, refusals[refusal.how]))
	server.CloseConnections()
	isMissing := func() (missing string) {
		known := registrations(server)
		for name := range names {
			if known[name] != 1 && !refusal.has(name) {
				missing = name
			}
		}
		return missing
	}
	// Pauses that end with the first answer, and for each refused name some connections.
	each := 5 * 2 * w.roundTrip()
	switch refusal.how { // to find it among the others
	case "Reset", "Drop":
		each = 10 * 2 * w.roundTrip()
	case "Hang":
		each = 10 * (2*w.roundTrip() + simTimeout)
	}
	soon := 3*time.Second + time.Duration(refused+2)*each
	w.pause(soon)
	for range 20 {
		if name := isMissing(); name != "" {
			w.failf("lookupd %d refuses %v and doesn't list %q %v later", w.configured[0], refusal, name, soon)
			return
		}
		w.pause(500 * time.Millisecond)
	}
	w.pause(time.Duration(refused) * (300*time.Millisecond + each)) // the last trials of those at which it closes
	for _, r := range w.loop.Status().Lookupds[0].Refused {
		if name := strings.TrimSpace(r.Topic + " " + r.Channel); !refusal.has(name) && !refusal.has(r.Topic+" x") {
			w.failf("lookupd %d refuses %v, and Status says %v", w.configured[0], refusal, r)
		}
		refused--
	}
	if isByTopic := !strings.Contains(refusal.pattern, " "); !isByTopic && refused != 0 {
		w.failf("lookupd %d refuses %v, and Status misses %d of them", w.configured[0], refusal, refused)
	}
	lift()
	w.converge()
}

// refusing counts the lookupds that refuse names.
func (w *simWorld) refusing() (n int) {
	for _, s := range w.loop.Status().Lookupds {
		if len(s.Refused) > 0 {
			n++
		}
	}
	return n
}

// registrations counts the producers of each "topic" and "topic channel" that a server knows.
func registrations(s *lookupdtest.Server) map[string]int {
	known := make(map[string]int)
	for _, topic := range s.Topics() {
		known[topic] = len(s.Producers(topic, ""))
		for _, channel := range s.Channels(topic) {
			known[topic+" "+channel] = len(s.Producers(topic, channel))
		}
	}
	maps.DeleteFunc(known, func(_ string, producers int) bool { return producers == 0 })
	return known
}

func (w *simWorld) checkDatabases(right func(producers int) bool) {
	for _, i := range w.configured {
		known := registrations(w.servers[i])
		for name := range w.model.broker.names() {
			if !right(known[name]) {
				w.failf("lookupd %d lists %q %d times", i, name, known[name])
			}
		}
	}
}

// checkNothingElse checks that no lookupd knows what isn't there, and those
// that aren't configured nothing at all.
func (w *simWorld) checkNothingElse() {
	names := w.model.broker.names()
	for i, s := range w.servers {
		for name := range registrations(s) {
			if !slices.Contains(w.configured, i) || !names[name] {
				w.failf("lookupd %d lists %q in vain", i, name)
			}
		}
	}
}

func (w *simWorld) checkStatus() {
	status := w.loop.Status()
	for i, s := range status.Lookupds {
		if want := w.servers[w.configured[i]].TCPAddress; s.Address != want || s.State != Connected || s.Pending != 0 || s.LastError != nil || len(s.Refused) > 0 {
			w.failf("status of %s: %+v", want, s)
		}
	}
	names := w.model.broker.names()
	for _, n := range status.Names {
		if len(n.Addresses) != 1 {
			w.failf("status of %s: %+v", n.Name, n)
		}
	}
	if len(status.Lookupds) != len(w.configured) || status.Topics+status.Channels != len(names) {
		w.failf("status: %+v", status)
	}
	if got, want := fmt.Sprint(sorted(w.loop.Metadata())), fmt.Sprint(w.model.broker.metadata()); got != want {
		w.failf("Metadata: %s instead of %s", got, want)
	}
}

func (w *simWorld) checkDisk() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := w.loop.PersistMetadata(ctx); err != nil {
		w.failf("PersistMetadata after the faults: %v", err)
	}
	var m Metadata
	err := json.Unmarshal([]byte(w.disk.Files()[nsqdat.Name]), &m)
	if got, want := persistentText(m), persistentText(w.model.broker.metadata()); err != nil || got != want {
		w.failf("on disk is %q (%v) instead of %q", got, err, want)
	}
	if s := w.loop.Status().Metadata; s.Dirty || s.LastError != nil {
		w.failf("status of the metadata: %+v", s)
	}
}

// checkEnd ends the Loop and looks at what it leaves behind.
func (w *simWorld) checkEnd() {
	if err := w.end(); err != nil {
		w.failf("Run: %v", err)
	}
	w.settle()
	for i, s := range w.servers {
		if n := s.Connections(); n > 0 {
			w.failf("lookupd %d has %d connections after the end", i, n)
		}
		if known := registrations(s); len(known) > 0 {
			w.failf("lookupd %d lists %v after the end", i, known)
		}
	}
	for _, i := range w.configured {
		for name := range w.model.broker.names() {
			topic, channel, isChannel := strings.Cut(name, " ")
			if known := w.servers[i].Topics(); !isChannel && strings.HasSuffix(topic, registry.EphemeralSuffix) && slices.Contains(known, topic) {
				w.failf("lookupd %d keeps the ephemeral %s", i, name)
			}
			if known := w.servers[i].Channels(topic); strings.HasSuffix(channel, registry.EphemeralSuffix) && slices.Contains(known, channel) {
				w.failf("lookupd %d keeps the ephemeral %s", i, name)
			}
		}
	}
}

// checkWrites checks that all that was ever written was true when it was,
// written in small pieces, and that no topic went before its channels.
func (w *simWorld) checkWrites() {
	announced := make(map[*simConn]map[string]bool)
	for _, write := range w.wire.writes {
		if announced[write.conn] == nil {
			announced[write.conn] = make(map[string]bool)
		}
		known := announced[write.conn]
		if len(write.lines) > registry.ChunkSize+2 { // a PING, and one entry over
			w.failf("%d commands in one write", len(write.lines))
		}
		for _, line := range write.lines {
			verb, name, _ := strings.Cut(line, " ")
			isTrue := true
			switch verb {
			case "REGISTER":
				known[name] = true
				isTrue = w.model.existed(name, write.at)
			case "UNREGISTER":
				delete(known, name)
				for other := range known {
					if strings.HasPrefix(other, name+" ") {
						w.failf("%s was written to %s before its channel %q was unregistered", line, write.conn.address, other)
					}
				}
				isNews := w.model.wasMissing(name, write.at) && w.model.wasDeleted(name, write.conn.dialed, write.at)
				isTrue = isNews || strings.Contains(name, registry.EphemeralSuffix) &&
					(write.isFarewell() || w.isLeaving(write) || w.model.wasMissing(name, write.at)) // what was deleted while lookupd was away
			}
			if !isTrue {
				w.failf("%s was written to %s %v after the beginning of the connection, and wasn't true", line, write.conn.address, write.at.Sub(write.conn.dialed))
			}
		}
	}
}

// isFarewell tells whether the connection ended soon after, as a probe does that
// has asked everything.
func (w simWrite) isFarewell() bool { return w.conn.closed.Sub(w.at) <= leaveTimeout }

// isLeaving tells whether a write may be a farewell: it begins when the write
// before it has ended, and both may take leaveTimeout. New names are looked up first.
func (w *simWorld) isLeaving(write simWrite) bool {
	longest := 2 * leaveTimeout
	if w.history.setting.resolve > 0 {
		longest += resolve.Timeout
	}
	return slices.ContainsFunc(w.left[write.conn.address], func(left time.Time) bool {
		return !write.at.Before(left) && write.at.Sub(left) <= longest
	})
}

// checkHeartbeats checks that no connection was silent for longer than it may
// be. A lookupd that takes long for each answer is exempt: what has been
// written before a PING must be answered before it.
func (w *simWorld) checkHeartbeats() {
	for _, c := range w.wire.conns {
		if silence := c.longestSilence(w.left[c.address]); silence > w.history.setting.heartbeat+simTimeout && !w.slow[c.address] && !c.isProbe {
			w.failf("no PING to %s for %v", c.address, silence)
		}
	}
}

// simProgress is how far a lookupd has come, and since when.
type simProgress struct {
	connects, commands uint64
	pending, dials     int
	since              time.Time
}

// checkProgress checks that no lookupd is connected and behind, and nothing happens:
// no command, no answer, no probe's attempt to connect. With a long heartbeat
// nothing would get it going for long.
func (w *simWorld) checkProgress() {
	const atMost = 2*simTimeout + leaveTimeout + time.Second // some failing attempt
	for _, s := range w.loop.Status().Lookupds {
		now := simProgress{s.Connects, s.Commands, s.Pending, w.wire.numDials(s.Address), time.Now()}
		before := w.progress[s.Address]
		if now.since = before.since; now != before || s.State != Connected || s.Pending == 0 {
			now.since = time.Now()
		}
		w.progress[s.Address] = now
		if stands := time.Since(now.since); stands > w.history.setting.maxBackoff+atMost {
			w.failf("%s has %d changes to hear of, and nothing happens for %v", s.Address, s.Pending, stands)
		}
	}
}
