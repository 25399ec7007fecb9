package lookuploop

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/registry"
	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestStatusBeforeRun(t *testing.T) {
	loop := newLoop(t, addresses("b:4160", "a:4160"))
	require.NoError(t, loop.Notify(TopicCreated("orders"), ChannelCreated("orders", "mail"), TopicCreated("live#ephemeral")))
	status := loop.Status()
	require.Equal(t, 2, status.Topics)
	require.Equal(t, 1, status.Channels)
	require.Zero(t, status.Metadata)
	require.Len(t, status.Lookupds, 2)
	for i, address := range []string{"b:4160", "a:4160"} {
		l := status.Lookupds[i]
		require.WithinDuration(t, time.Now(), l.Since, patience)
		require.WithinDuration(t, time.Now(), l.MissingSince, patience)
		require.Equal(t, LookupdStatus{Address: address, Names: []string{address}, Pending: 3, Since: l.Since, MissingSince: l.MissingSince}, l)
	}
}

func TestStatusSaysWhoTheBrokerIs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0, func(o *Options) {
			o.BroadcastAddress, o.TopologyZone, o.TopologyRegion, o.Version = "", "z1", "r1", "1.2.3"
		})
		broker := BrokerInfo{"broker-host", 4150, 4151, "broker-host", "1.2.3", "z1", "r1", time.Time{}}
		require.Equal(t, broker, s.loop.Status().Broker)
		time.Sleep(time.Hour)
		s.run()
		synctest.Wait()
		broker.Started = time.Now()
		time.Sleep(time.Hour)
		require.Equal(t, broker, s.loop.Status().Broker)
		require.NoError(t, s.end())
		require.Equal(t, broker, s.loop.Status().Broker)
	})
}

func TestMissingSinceIsWhenALookupdCeasedToKnowEverything(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		made := time.Now()
		missing := func() time.Time { return s.status(1).MissingSince }
		later := func() time.Time {
			synctest.Wait()
			time.Sleep(time.Hour)
			return time.Now()
		}
		later()
		require.Equal(t, made, missing(), "it never knew anything")
		s.run()
		s.registered()
		require.Zero(t, missing())

		s.network.SetLatency(100 * time.Millisecond)
		changed := later()
		s.notify(TopicCreated("orders"))
		require.Equal(t, changed, missing())
		time.Sleep(150 * time.Millisecond)
		s.notify(TopicCreated("more"))
		require.Equal(t, changed, missing())
		s.registered()
		require.Zero(t, missing())
		later()
		require.Zero(t, missing())

		lost := later()
		lift := s.lookupds[0].Do(lookupdtest.Refuse())
		s.lookupds[0].CloseConnections()
		later()
		require.WithinRange(t, missing(), lost, lost.Add(time.Second))
		lift()
		s.registered()
		require.Zero(t, missing())

		refused := later()
		lift = s.lookupds[0].Do(lookupdtest.On("REGISTER bad", lookupdtest.BadTopic()))
		s.notify(TopicCreated("bad"))
		later()
		require.Equal(t, refused, missing(), "a refused name is missing there")
		s.notify(TopicDeleted("bad"))
		later()
		require.Zero(t, missing())
		lift()
		s.notify(TopicCreated("short"), TopicDeleted("short"))
		synctest.Wait()
		require.Zero(t, missing(), "it was gone before anybody was told")
		at := later()
		s.notify(TopicCreated("long"))
		require.Equal(t, at, missing())
	})
}

// The story of one connection, as Status tells it.
func TestStatusTellsHowALookupdIsDoing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(10 * time.Millisecond)
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"))
		status := func() LookupdStatus {
			synctest.Wait()
			return s.loop.Status().Lookupds[0]
		}
		s.run()
		began := time.Now()
		require.Equal(t, Connecting, status().State)
		time.Sleep(40 * time.Millisecond) // dialed and identified
		connected := status()
		require.Equal(t, Connected, connected.State)
		require.Equal(t, began.Add(40*time.Millisecond), connected.Since)
		require.Equal(t, connected.Since, connected.LastHeartbeat)
		require.Equal(t, 20*time.Millisecond, connected.RTT)
		require.Equal(t, PeerInfo{4160, 4161, "1.3.0", "lookupd1.test", "lookupd1.test"}, connected.Info)
		require.Equal(t, 2, connected.Pending)
		require.EqualValues(t, 1, connected.Connects)
		require.EqualValues(t, 2, connected.Commands, "IDENTIFY, and REGISTER orders mail for both")
		time.Sleep(20 * time.Millisecond)
		require.Zero(t, status().Pending)

		time.Sleep(15 * time.Second)
		require.EqualValues(t, 3, status().Commands)
		require.Equal(t, began.Add(15*time.Second+20*time.Millisecond), status().LastHeartbeat)

		lift := s.lookupds[0].Do(lookupdtest.Refuse())
		s.lookupds[0].CloseConnections()
		time.Sleep(time.Hour)
		lost := status()
		require.NotEqual(t, Connected, lost.State)
		require.ErrorContains(t, lost.LastError, "lookuploop: lookupd1.test:4160: dial: ")
		require.Equal(t, 2, lost.Pending, "it has to be told everything again")
		require.Equal(t, connected.Info, lost.Info, "what it said of itself last stays")
		require.Greater(t, lost.Failures, uint64(100))
		require.EqualValues(t, 1, lost.Connects)
		for status().State != Disconnected {
			time.Sleep(time.Millisecond)
		}
		require.False(t, status().NextAttempt.Before(status().Since))
		require.WithinDuration(t, status().Since, status().NextAttempt, 15*time.Second)

		lift()
		s.registered()
		healed := status()
		require.Nil(t, healed.LastError)
		require.Zero(t, healed.Pending)
		require.Zero(t, healed.NextAttempt)
		require.EqualValues(t, 2, healed.Connects)

		require.NoError(t, s.end())
		ended := status()
		require.Equal(t, Disconnected, ended.State)
		require.Equal(t, time.Now(), ended.Since)
		require.Equal(t, healed.Connects, ended.Connects)
		require.Equal(t, ended.Failures, healed.Failures, "the end is no failure")
		require.Nil(t, ended.LastError)
		require.Equal(t, 1, s.loop.Status().Topics)
	})
}

func TestStatusIsASnapshot(t *testing.T) {
	loop := newLoop(t, addresses("a:4160"))
	before := loop.Status()
	require.NoError(t, loop.Notify(TopicCreated("orders")))
	require.NoError(t, loop.SetLookupdTCPAddresses([]string{"b:4160"}))
	require.Zero(t, before.Topics)
	require.Equal(t, "a:4160", before.Lookupds[0].Address)

	before.Lookupds[0].Address = "changed"
	require.Equal(t, "b:4160", loop.Status().Lookupds[0].Address)
}

func TestStatusTellsHowTheFileIsDoing(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0, func(o *Options) { o.DataPath = dir })
		require.Zero(t, s.loop.Status().Metadata, "nothing was opened")
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		path := filepath.Join(dir, "nsqd.dat")
		require.Equal(t, MetadataStatus{Path: path, Dirty: true}, s.loop.Status().Metadata, "there is no file")
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.Equal(t, MetadataStatus{Path: path, Writes: 1, LastWrite: time.Now()}, s.loop.Status().Metadata)
		s.notify(TopicCreated("orders"))
		require.True(t, s.loop.Status().Metadata.Dirty)
		s.run()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.Equal(t, MetadataStatus{Path: path, Writes: 2, LastWrite: time.Now()}, s.loop.Status().Metadata)
		s.notify(TopicCreated("live#ephemeral"))
		require.False(t, s.loop.Status().Metadata.Dirty, "what is ephemeral doesn't belong there")
	})
}

func TestPeerInfoHasTheFieldsOfNsqlookupd(t *testing.T) {
	text := `{"tcp_port":4160,"http_port":4161,"version":"1.3.0","hostname":"h","broadcast_address":"b"}`
	var info PeerInfo
	require.NoError(t, json.Unmarshal([]byte(text), &info))
	again, err := json.Marshal(info)
	require.NoError(t, err)
	require.Equal(t, text, string(again))
	require.Equal(t, PeerInfo{TCPPort: 4160, HTTPPort: 4161, Version: "1.3.0", Hostname: "h", BroadcastAddress: "b"}, info)
}

var (
	allStates = []State{Disconnected, Connecting, Connected}
	allEvents = []peerEvent{dial, identified, lost}
)

func TestStatesHaveNames(t *testing.T) {
	text, err := json.Marshal(append(allStates, State(7)))
	require.NoError(t, err)
	require.Equal(t, `["disconnected","connecting","connected","unknown"]`, string(text))
	require.Equal(t, State(0), Disconnected, "a zero LookupdStatus is disconnected")
}

func TestTransitionTableIsComplete(t *testing.T) {
	type step struct {
		from  State
		event peerEvent
	}
	leads := make(map[step]State)
	reached := map[State]bool{Disconnected: true}
	for _, row := range transitions {
		require.NotContains(t, leads, step{row.from, row.event}, "one event leads to one State")
		leads[step{row.from, row.event}] = row.to
		require.NotEqual(t, row.from, row.to)
		require.NotEmpty(t, row.when)
		reached[row.to] = true
	}
	require.Len(t, reached, len(allStates))
	for _, from := range allStates {
		for _, event := range allEvents {
			to, ok := leads[step{from, event}]
			if !ok {
				require.Panics(t, func() { from.next(event) })
				continue
			}
			require.Equal(t, to, from.next(event))
		}
		if from != Disconnected {
			require.Equal(t, Disconnected, from.next(lost), "a connection can be lost at any time")
		}
	}
}

// TestStatesChangeAsTheTableSays plays faults over a connection and watches.
func TestStatesChangeAsTheTableSays(t *testing.T) {
	faults := []lookupdtest.Order{
		lookupdtest.Hangup(), lookupdtest.Drop(), lookupdtest.Hang(), lookupdtest.Refuse(),
		lookupdtest.Reject("E_INVALID"), lookupdtest.Blackhole(), lookupdtest.On("REGISTER", lookupdtest.Reject("E_BAD_TOPIC")),
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	inBubble(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := []State{Disconnected}
		s := newScene(t, 1, func(o *Options) {
			o.OnStateChange = func(status LookupdStatus) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, status.State)
			}
		})
		s.notify(TopicCreated("a"), TopicCreated("b"))
		s.run()
		for range 40 {
			lift := s.lookupds[0].Do(faults[random.IntN(len(faults))])
			s.lookupds[0].CloseConnections()
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			lift()
			time.Sleep(time.Duration(random.IntN(10)) * time.Second)
		}
		require.NoError(t, s.end())

		taken := make(map[int]bool)
		for i := range seen[1:] {
			row := rowFrom(seen[i], seen[i+1])
			require.GreaterOrEqual(t, row, 0, "from %v to %v", seen[i], seen[i+1])
			taken[row] = true
		}
		require.Len(t, taken, len(transitions), "each row was taken")
		require.Equal(t, Disconnected, seen[len(seen)-1])
	})
}

func rowFrom(from, to State) int {
	for i, row := range transitions {
		if row.from == from && row.to == to {
			return i
		}
	}
	return -1
}

// stateDiagram renders the table for README.md.
func stateDiagram() string {
	title := func(s State) string { return strings.ToUpper(s.String()[:1]) + s.String()[1:] }
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> " + title(Disconnected) + "\n")
	for _, row := range transitions {
		b.WriteString("    " + title(row.from) + " --> " + title(row.to) + ": " + row.when + "\n")
	}
	b.WriteString("```\n")
	return b.String()
}

func TestDiagramOfTheReadmeIsTheTable(t *testing.T) {
	for _, row := range transitions {
		require.NotContains(t, row.when, ":", "mermaid takes a label to the next colon only")
		require.NotContains(t, row.when, ";")
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	parts := strings.Split(string(readme), "<!-- states -->\n")
	require.Len(t, parts, 3, "the diagram stands between two lines <!-- states -->")
	require.Equal(t, stateDiagram(), parts[1])
}

func TestResponseErrorSaysWhoWhatAndWhy(t *testing.T) {
	for _, tt := range []struct {
		err  ResponseError
		want string
	}{
		{
			ResponseError{Address: "a:4160", Command: "IDENTIFY", Code: "E_BAD_BODY", Message: "IDENTIFY missing fields"},
			"lookuploop: a:4160: IDENTIFY: E_BAD_BODY IDENTIFY missing fields",
		},
		{
			ResponseError{Address: "a:4160", Command: "REGISTER", Topic: "orders", Code: "E_BAD_TOPIC", Message: "no"},
			"lookuploop: a:4160: REGISTER orders: E_BAD_TOPIC no",
		},
		{
			ResponseError{Address: "[::1]:4160", Command: "UNREGISTER", Topic: "orders", Channel: "mail", Code: "E_INVALID"},
			"lookuploop: [::1]:4160: UNREGISTER orders mail: E_INVALID",
		},
	} {
		require.EqualError(t, &tt.err, tt.want)
	}
}

// With nothing in doubt there is no second connection that could fail.
func TestStatusForgetsWhyTheProbeFailed(t *testing.T) {
	for name, isAway := range map[string]bool{"while it waits": false, "while lookupd is away": true} {
		inBubble(t, func(t *testing.T) {
			s := newScene(t, 1)
			badTopic(s.lookupds[0], "bad")
			s.notify(TopicCreated("bad"), TopicCreated("good"))
			s.run()
			s.settled()
			lift := s.lookupds[0].Do(lookupdtest.On("IDENTIFY", lookupdtest.Reply("NO")))
			time.Sleep(time.Minute)
			require.ErrorContains(t, s.status(1).LastError, "second connection")
			if isAway {
				s.lookupds[0].CloseConnections()
			}
			s.notify(TopicDeleted("bad"))
			synctest.Wait()
			lift()
			s.registered()
			synctest.Wait()
			require.NoError(t, s.status(1).LastError, name)
		})
	}
}

func TestErrorAnswerIsTakenApart(t *testing.T) {
	loop := newLoop(t)
	require.NoError(t, loop.Notify(TopicCreated("orders"), ChannelCreated("orders", "mail")))
	c := loop.reg.NewCursor(0)
	loop.reg.Attach(c, time.Now())
	commands, _ := loop.reg.Read(c, 2, nil)
	about := commands[0]
	for answer, want := range map[string]ResponseError{
		"E_BAD_TOPIC REGISTER topic name 'a b' is not valid": {Code: "E_BAD_TOPIC", Message: "REGISTER topic name 'a b' is not valid"},
		"E_INVALID":  {Code: "E_INVALID"},
		"E_INVALID ": {Code: "E_INVALID"},
		"E_":         {Code: "E_"},
	} {
		want.Address, want.Command, want.Topic, want.Channel = "a:4160", "REGISTER", "orders", "mail"
		err := fromNetwork(&wire.AnswerError[registry.Command]{Address: "a:4160", Verb: wire.Register, Tag: about, Text: answer})
		var found *ResponseError
		require.ErrorAs(t, err, &found)
		require.Equal(t, &want, found)
		var refused *refusedError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, about, refused.cmd)
	}
}

func TestRefusalIsFoundAsAResponseErrorAlone(t *testing.T) {
	answer := &ResponseError{Address: "a:4160", Code: "E_BAD_TOPIC"}
	err := fmt.Errorf("outer: %w", &refusedError{ResponseError: answer})
	var found *ResponseError
	require.True(t, errors.As(err, &found))
	require.Same(t, answer, found)
}

func TestSentinelsAreToldApart(t *testing.T) {
	sentinels := []error{ErrClosed, ErrInvalidName, ErrUnknown, ErrNotRegistered, ErrDataPathLocked, ErrCorruptMetadata, ErrNotConnected, ErrResponseTooLarge}
	for i, err := range sentinels {
		require.True(t, strings.HasPrefix(err.Error(), "lookuploop: "), err)
		for _, other := range sentinels[i+1:] {
			require.NotErrorIs(t, err, other)
		}
	}
}

func TestConnectionsErrorsAreKnownAsOurs(t *testing.T) {
	inner := fmt.Errorf("lookuploop: a:4160: PING: %w: 5 bytes", wire.ErrTooLarge)
	err := fromNetwork(inner)
	require.ErrorIs(t, err, ErrResponseTooLarge)
	require.EqualError(t, err, inner.Error())
	require.NotErrorIs(t, fromNetwork(io.EOF), ErrResponseTooLarge)
}

// Errors of internal packages are found by the names that they have here.
func TestInternalErrorsBecomePublic(t *testing.T) {
	for internal, want := range map[error]error{
		nsqdat.ErrLocked:  ErrDataPathLocked,
		nsqdat.ErrCorrupt: ErrCorruptMetadata,
		nsqdat.ErrClosed:  ErrClosed,
	} {
		require.EqualError(t, internal, want.Error())
		err := public(fmt.Errorf("%w: and %w", internal, io.ErrUnexpectedEOF))
		require.EqualError(t, err, want.Error()+": and unexpected EOF")
		require.ErrorIs(t, err, want)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "what it wraps is found still")
	}
	require.NoError(t, public(nil))
	require.Same(t, io.EOF, public(io.EOF))
}
