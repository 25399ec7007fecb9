package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lookuploop/lookuploop/internal/registry"
)

func TestEventsSayWhatHappened(t *testing.T) {
	for want, e := range map[string]Event{
		`topic created: "orders"`:            TopicCreated("orders"),
		`topic deleted: "orders"`:            TopicDeleted("orders"),
		`topic paused: "orders"`:             TopicPaused("orders"),
		`topic unpaused: "orders"`:           TopicUnpaused("orders"),
		`channel created: "orders" "mail"`:   ChannelCreated("orders", "mail"),
		`channel deleted: "orders" "mail"`:   ChannelDeleted("orders", "mail"),
		`channel paused: "orders" "mail"`:    ChannelPaused("orders", "mail"),
		`channel unpaused: "orders" "mail"`:  ChannelUnpaused("orders", "mail"),
		`channel created: "a\nb" "#e"`:       ChannelCreated("a\nb", "#e"),
		`topic created: "x#ephemeral"`:       TopicCreated("x#ephemeral"),
		`channel deleted: "t" "x#ephemeral"`: ChannelDeleted("t", "x#ephemeral"),
	} {
		require.Equal(t, want, e.String())
		require.Equal(t, want, fmt.Sprint(e))
	}
}

// A name at fault has to be recognizable in the error that is about it.
func TestEventsShowNamesAtFaultAsTheyAre(t *testing.T) {
	for want, e := range map[string]Event{
		`no event`:                    {},
		`topic created: "a "`:         TopicCreated("a "),
		`topic created: ""`:           TopicCreated(""),
		`topic created: "a\""`:        TopicCreated(`a"`),
		`channel created: "a" ""`:     ChannelCreated("a", ""),
		`channel deleted: "a" "x \""`: ChannelDeleted("a", `x "`),
	} {
		require.Equal(t, want, e.String())
	}
}

func TestEventsAreEqualIfTheySayTheSame(t *testing.T) {
	all := []Event{
		{}, TopicCreated("a"), TopicDeleted("a"), TopicPaused("a"), TopicUnpaused("a"), TopicCreated("b"),
		ChannelCreated("a", "b"), ChannelDeleted("a", "b"), ChannelPaused("a", "b"), ChannelUnpaused("a", "b"), ChannelCreated("b", "a"),
	}
	set := make(map[Event]bool)
	for _, e := range all {
		require.False(t, set[e], "%v", e)
		set[e] = true
	}
	require.True(t, set[ChannelCreated("a", "b")])
}

// has are the events that make a broker have what the loop in TestNotify… has.
var has = []Event{
	TopicCreated("orders"), ChannelCreated("orders", "mail"),
	TopicCreated("empty"),
	TopicCreated("gone"), ChannelCreated("gone", "ship"), TopicDeleted("gone"),
}

func TestNotifyAcceptsAllEventsOrNone(t *testing.T) {
	long := strings.Repeat("x", 65)
	for name, tt := range map[string]struct {
		events []Event
		want   error // nil: accepted
	}{
		"none":                                       {[]Event{}, nil},
		"create what exists":                         {[]Event{TopicCreated("orders"), ChannelCreated("orders", "mail")}, nil},
		"delete an unknown topic":                    {[]Event{TopicDeleted("unknown")}, nil},
		"delete an unknown channel":                  {[]Event{ChannelDeleted("orders", "unknown")}, nil},
		"delete a channel of an unknown topic":       {[]Event{ChannelDeleted("unknown", "mail")}, nil},
		"topic and channel at once":                  {[]Event{TopicCreated("new"), ChannelCreated("new", "a")}, nil},
		"channel before its topic":                   {[]Event{ChannelCreated("new", "a"), TopicCreated("new")}, ErrUnknown},
		"channel of an unknown topic":                {[]Event{ChannelCreated("unknown", "a")}, ErrUnknown},
		"channel of a deleted topic":                 {[]Event{ChannelCreated("gone", "ship")}, ErrUnknown},
		"channel of a topic deleted before":          {[]Event{TopicDeleted("orders"), ChannelCreated("orders", "mail")}, ErrUnknown},
		"create, delete, create":                     {[]Event{TopicCreated("new"), TopicDeleted("new"), TopicCreated("new"), ChannelCreated("new", "a")}, nil},
		"create, delete, then a channel":             {[]Event{TopicCreated("new"), TopicDeleted("new"), ChannelCreated("new", "a")}, ErrUnknown},
		"pause a topic":                              {[]Event{TopicPaused("orders"), TopicPaused("orders"), TopicUnpaused("empty")}, nil},
		"pause a channel":                            {[]Event{ChannelPaused("orders", "mail"), ChannelPaused("orders", "mail")}, nil},
		"pause an unknown topic":                     {[]Event{TopicPaused("unknown")}, ErrUnknown},
		"unpause an unknown topic":                   {[]Event{TopicUnpaused("unknown")}, ErrUnknown},
		"pause an unknown channel":                   {[]Event{ChannelPaused("orders", "unknown")}, ErrUnknown},
		"unpause an unknown channel":                 {[]Event{ChannelUnpaused("orders", "unknown")}, ErrUnknown},
		"pause a channel of an unknown topic":        {[]Event{ChannelPaused("unknown", "mail")}, ErrUnknown},
		"pause a topic made before":                  {[]Event{TopicCreated("new"), TopicPaused("new")}, nil},
		"pause a topic deleted before":               {[]Event{TopicDeleted("orders"), TopicPaused("orders")}, ErrUnknown},
		"pause a channel made before":                {[]Event{ChannelCreated("orders", "new"), ChannelPaused("orders", "new")}, nil},
		"pause a channel deleted before":             {[]Event{ChannelDeleted("orders", "mail"), ChannelPaused("orders", "mail")}, ErrUnknown},
		"pause a channel made and deleted before":    {[]Event{ChannelCreated("orders", "new"), ChannelDeleted("orders", "new"), ChannelPaused("orders", "new")}, ErrUnknown},
		"pause a channel deleted and made before":    {[]Event{ChannelDeleted("orders", "mail"), ChannelCreated("orders", "mail"), ChannelPaused("orders", "mail")}, nil},
		"pause a channel deleted with its topic":     {[]Event{TopicDeleted("orders"), TopicCreated("orders"), ChannelPaused("orders", "mail")}, ErrUnknown},
		"pause a channel made before its topic went": {[]Event{ChannelCreated("orders", "new"), TopicDeleted("orders"), TopicCreated("orders"), ChannelPaused("orders", "new")}, ErrUnknown},
		"pause a channel made again with its topic":  {[]Event{TopicDeleted("orders"), TopicCreated("orders"), ChannelCreated("orders", "mail"), ChannelPaused("orders", "mail")}, nil},

		"topic with a newline":      {[]Event{TopicCreated("a\nREGISTER b")}, ErrInvalidName},
		"topic with a space":        {[]Event{TopicCreated("a b")}, ErrInvalidName},
		"topic of 65 characters":    {[]Event{TopicCreated(long)}, ErrInvalidName},
		"topic without a name":      {[]Event{TopicCreated("")}, ErrInvalidName},
		"topic only ephemeral":      {[]Event{TopicCreated("#ephemeral")}, ErrInvalidName},
		"topic ephemeral twice":     {[]Event{TopicCreated("a#ephemeral#ephemeral")}, ErrInvalidName},
		"topic beyond ASCII":        {[]Event{TopicCreated("bücher")}, ErrInvalidName},
		"topic with a null byte":    {[]Event{TopicCreated("a\x00")}, ErrInvalidName},
		"deleted invalid topic":     {[]Event{TopicDeleted("a b")}, ErrInvalidName},
		"paused invalid topic":      {[]Event{TopicPaused("a b")}, ErrInvalidName},
		"channel with a newline":    {[]Event{ChannelCreated("orders", "a\n")}, ErrInvalidName},
		"channel with a space":      {[]Event{ChannelCreated("orders", " a")}, ErrInvalidName},
		"channel of 65 characters":  {[]Event{ChannelCreated("orders", long)}, ErrInvalidName},
		"channel without a name":    {[]Event{ChannelCreated("orders", "")}, ErrInvalidName},
		"channel only ephemeral":    {[]Event{ChannelCreated("orders", "#ephemeral")}, ErrInvalidName},
		"channel of invalid topic":  {[]Event{ChannelCreated("a b", "mail")}, ErrInvalidName},
		"deleted invalid channel":   {[]Event{ChannelDeleted("orders", "a b")}, ErrInvalidName},
		"unknown's invalid channel": {[]Event{ChannelDeleted("unknown", "a b")}, ErrInvalidName},
		"unpaused invalid channel":  {[]Event{ChannelUnpaused("orders", "a b")}, ErrInvalidName},
		"names of 64 characters":    {[]Event{TopicCreated(long[1:]), ChannelCreated(long[1:], long[1:])}, nil},
		"ephemeral names":           {[]Event{TopicCreated("a#ephemeral"), ChannelCreated("a#ephemeral", "._-9Z#ephemeral")}, nil},

		"good before bad": {[]Event{TopicCreated("new"), TopicDeleted("empty"), ChannelPaused("orders", "mail"), TopicCreated("a b")}, ErrInvalidName},
		"bad before good": {[]Event{TopicPaused("unknown"), TopicCreated("new"), TopicDeleted("orders")}, ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			loop := newLoop(t)
			require.NoError(t, loop.Notify(has...))
			before, seq := loop.Metadata(), loop.reg.End()
			err := loop.Notify(tt.events...)
			if tt.want != nil {
				require.ErrorIs(t, err, tt.want)
				require.Len(t, faults(err), 1)
				require.Equal(t, before, loop.Metadata())
				require.Equal(t, seq, loop.reg.End(), "nothing moved")
				return
			}
			require.NoError(t, err)
			truth := newBroker()
			for _, e := range append(slices.Clone(has), tt.events...) {
				require.NoError(t, truth.apply(e))
			}
			truth.requireEqual(t, loop)
		})
	}
}

func TestErrorOfNotifyNamesEachEventAtFault(t *testing.T) {
	loop := newLoop(t)
	err := loop.Notify(TopicCreated("good"), TopicCreated("a\nb"), TopicPaused("x"), ChannelCreated("good", "fine"), ChannelPaused("good", "y"), Event{})
	require.ErrorIs(t, err, ErrInvalidName)
	require.ErrorIs(t, err, ErrUnknown)
	require.Len(t, faults(err), 4)
	for _, text := range []string{
		`lookuploop: invalid name: topic created: "a\nb"`,
		`lookuploop: unknown topic: topic paused: "x"`,
		`lookuploop: unknown channel: channel paused: "good" "y"`,
		"lookuploop: empty Event",
	} {
		require.ErrorContains(t, err, text)
	}
	require.NotContains(t, err.Error(), "fine")
	require.Empty(t, loop.Metadata().Topics)
}

func TestZeroEventIsAnError(t *testing.T) {
	loop := newLoop(t)
	require.ErrorContains(t, loop.Notify(TopicCreated("a"), Event{}), "make it with TopicCreated")
	require.Empty(t, loop.Metadata().Topics)
}

func TestRepeatedEventsChangeNothing(t *testing.T) {
	loop := newLoop(t)
	events := []Event{TopicCreated("a"), ChannelCreated("a", "x"), ChannelPaused("a", "x"), TopicPaused("a"), TopicDeleted("b"), ChannelDeleted("a", "y")}
	require.NoError(t, loop.Notify(events...))
	seq, version := loop.reg.End(), loop.reg.Version()
	require.NoError(t, loop.Notify(events...))
	require.Equal(t, seq, loop.reg.End(), "nothing to announce")
	require.Equal(t, version, loop.reg.Version(), "nothing to write")
}

// That goes for names that a lookupd still has to hear the deletion of, too.
func TestWhatIsMadeAgainIsNotPaused(t *testing.T) {
	for _, lookupdLags := range []bool{false, true} {
		loop := newLoop(t)
		if lookupdLags {
			loop.reg.Attach(loop.reg.NewCursor(0), time.Now())
		}
		require.NoError(t, loop.Notify(TopicCreated("a"), TopicPaused("a"), ChannelCreated("a", "x"), ChannelPaused("a", "x")))
		require.NoError(t, loop.Notify(TopicDeleted("a"), TopicCreated("a"), ChannelCreated("a", "x")))
		require.Equal(t, []TopicMetadata{{Name: "a", Channels: []ChannelMetadata{{Name: "x"}}}}, loop.Metadata().Topics)
	}
}

// A channel whose creation lost the race against the deletion of its topic
// doesn't bring the topic back.
func TestChannelThatLostTheRaceDoesNotBringTheTopicBack(t *testing.T) {
	loop := newLoop(t)
	require.NoError(t, loop.Notify(TopicCreated("a"), TopicDeleted("a")))
	require.ErrorIs(t, loop.Notify(ChannelCreated("a", "x")), ErrUnknown)
	require.Empty(t, loop.Metadata().Topics)
}

func TestNotifyNeedsLoadMetadataWhenThereIsADataPath(t *testing.T) {
	loop := newLoop(t, func(o *Options) { o.DataPath = t.TempDir() })
	require.ErrorContains(t, loop.Notify(TopicCreated("a")), "call LoadMetadata first")
	require.ErrorContains(t, loop.SetMetadata(Metadata{}), "call LoadMetadata first")
	require.ErrorContains(t, loop.PersistMetadata(t.Context()), "call LoadMetadata first")
	require.ErrorContains(t, loop.Run(t.Context()), "call LoadMetadata before Run")

	_, err := loop.LoadMetadata()
	require.NoError(t, err)
	require.NoError(t, loop.Notify(TopicCreated("a")))
	require.ErrorContains(t, loop.Close(), "call LoadMetadata before Run", "nothing ran since")
}

// The end of Run's context closes the Loop, before Run has had time to notice.
func TestNothingChangesOnceTheContextOfRunHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0)
		s.notify(TopicCreated("a"))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- s.loop.Run(ctx) }()
		synctest.Wait()
		s.notify(TopicCreated("b"))

		for range 2 { // at once, and after Run returned
			cancel()
			require.ErrorIs(t, s.loop.Notify(TopicCreated("c")), ErrClosed)
			require.ErrorIs(t, s.loop.Notify(), ErrClosed)
			require.ErrorIs(t, s.loop.SetMetadata(Metadata{}), ErrClosed)
			require.ErrorIs(t, s.loop.SetLookupdTCPAddresses(nil), ErrClosed)
			require.ErrorIs(t, s.loop.PersistMetadata(t.Context()), ErrClosed)
			require.ErrorIs(t, s.loop.WaitRegistered(t.Context(), 0), ErrClosed)
			synctest.Wait()
		}
		require.NoError(t, <-result)
		require.Equal(t, Metadata{Version: defaultVersion, Topics: []TopicMetadata{
			{Name: "a", Channels: []ChannelMetadata{}},
			{Name: "b", Channels: []ChannelMetadata{}},
		}}, s.loop.Metadata())
	})
}

func TestNotifyFromManyGoroutinesBeforeAndDuringRun(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		const goroutines, rounds = 8, 40
		var notifying sync.WaitGroup
		for g := range goroutines {
			notifying.Go(func() {
				for round := range rounds {
					topic := fmt.Sprintf("topic-%d-%d", g, round)
					err := errors.Join(
						s.loop.Notify(TopicCreated(topic), TopicCreated("shared")),
						s.loop.Notify(ChannelCreated(topic, "kept"), ChannelCreated(topic, "gone")),
						s.loop.Notify(ChannelCreated("shared", "mail"), ChannelDeleted(topic, "gone")),
					)
					if round%2 == 1 {
						err = errors.Join(err, s.loop.Notify(TopicDeleted(topic)))
					}
					if err != nil {
						t.Error(err)
					}
					if round == rounds/4 && g == 0 {
						s.run()
					}
				}
			})
		}
		notifying.Wait()
		s.registered()
		require.Equal(t, 1+goroutines*rounds/2, s.loop.Status().Topics)
		require.Equal(t, 1+goroutines*rounds/2, s.loop.Status().Channels)
		for _, lookupd := range s.lookupds {
			producers := []string{"broker.test:4150"}
			require.Equal(t, producers, lookupd.Producers("shared", "mail"))
			for g := range goroutines {
				for round := range rounds {
					topic := fmt.Sprintf("topic-%d-%d", g, round)
					want := producers
					if round%2 == 1 {
						want = nil
					}
					require.ElementsMatch(t, want, lookupd.Producers(topic, ""), topic)
					require.ElementsMatch(t, want, lookupd.Producers(topic, "kept"), topic)
					require.Empty(t, lookupd.Producers(topic, "gone"), topic)
				}
			}
		}
	})
}

func TestLookupdsHearOfAChangeAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 2)
		s.run()
		s.registered()
		time.Sleep(time.Second)
		started := time.Now()
		s.notify(TopicCreated("orders"))
		for _, lookupd := range s.lookupds {
			s.eventually(lookupd, func() bool { return len(lookupd.Producers("orders", "")) == 1 })
		}
		require.NoError(t, s.loop.SetMetadata(Metadata{}))
		for _, lookupd := range s.lookupds {
			s.eventually(lookupd, func() bool { return len(lookupd.Producers("orders", "")) == 0 })
		}
		require.Zero(t, time.Since(started))
	})
}

func TestNotifyWaitsForNoLookupd(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.Partition()
		s.run()
		started := time.Now()
		for i := range 5000 {
			s.notify(TopicCreated(fmt.Sprintf("topic-%d", i)))
		}
		require.Zero(t, time.Since(started))
		require.Equal(t, 5000, s.loop.Status().Topics)
	})
}

func drawEvent(t *rapid.T) Event {
	topic := rapid.SampledFrom([]string{"a", "a", "a", "b", "b", "b", "c#ephemeral"}).Draw(t, "topic")
	channel := rapid.SampledFrom([]string{"x", "x", "x", "y", "y", "y", "z#ephemeral"}).Draw(t, "channel")
	switch rapid.IntRange(0, 40).Draw(t, "fault") {
	case 1:
		return Event{}
	case 2:
		topic = "a b"
	case 3:
		channel = "x\n"
	}
	return rapid.SampledFrom([]Event{
		TopicCreated(topic), TopicCreated(topic), TopicDeleted(topic), TopicPaused(topic), TopicUnpaused(topic),
		ChannelCreated(topic, channel), ChannelCreated(topic, channel), ChannelDeleted(topic, channel),
		ChannelPaused(topic, channel), ChannelPaused(topic, channel), ChannelUnpaused(topic, channel),
	}).Draw(t, "event")
}

// TestNotifyAgreesWithABrokerThatAppliesEventsOneByOne is about batches: the
// broker takes events one after another, and gives up a batch at the first
// that it can't take.
func TestNotifyAgreesWithABrokerThatAppliesEventsOneByOne(t *testing.T) {
	loopOf := func() *Loop { return newLoop(t) }
	rapid.Check(t, func(t *rapid.T) {
		loop, truth := loopOf(), newBroker()
		if rapid.Bool().Draw(t, "a lookupd lags") { // which keeps tombstones alive
			loop.reg.Attach(loop.reg.NewCursor(0), time.Now())
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { truth.requireEqual(t, loop) },
			"notify": func(t *rapid.T) {
				batch := rapid.SliceOfN(rapid.Custom(drawEvent), 0, 6).Draw(t, "batch")
				after := truth.clone()
				var want error
				for _, e := range batch {
					if want = after.apply(e); want != nil {
						break
					}
				}
				err := loop.Notify(batch...)
				switch want {
				case nil:
					require.NoError(t, err)
					truth = after
				case errZeroEvent:
					require.ErrorContains(t, err, "empty Event")
				default:
					require.ErrorIs(t, err, want)
				}
			},
		})
	})
}

// FuzzNotifyNames holds what Notify accepts against go-nsq's rule for names,
// and what is then sent against the one line that it should be.
func FuzzNotifyNames(f *testing.F) {
	f.Fuzz(func(t *testing.T, topic, channel string) {
		loop, err := New(Options{BroadcastAddress: "broker.test", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151})
		require.NoError(t, err)
		err = loop.Notify(TopicCreated(topic), ChannelCreated(topic, channel))
		if !nsq.IsValidTopicName(topic) || !nsq.IsValidChannelName(channel) {
			require.ErrorIs(t, err, ErrInvalidName)
			require.Empty(t, loop.Metadata().Topics)
			return
		}
		require.NoError(t, err)
		c := loop.reg.NewCursor(0)
		loop.reg.Attach(c, time.Now())
		chunk, _ := loop.reg.Read(c, registry.ChunkSize, nil)
		require.Len(t, chunk, 1)
		require.Equal(t, []string{"REGISTER", topic, channel}, []string{chunk[0].Verb(), chunk[0].Topic(), chunk[0].Channel()})
	})
}

// TestLongNames is about names as long as NSQ allows.
func TestLongNames(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.run()
		name := strings.Repeat("n", 64)
		ephemeral := strings.Repeat("e", 64-len(registry.EphemeralSuffix)) + registry.EphemeralSuffix
		s.notify(TopicCreated(name), ChannelCreated(name, name), ChannelCreated(name, ephemeral))
		s.notify(TopicCreated(ephemeral), ChannelCreated(ephemeral, name))
		s.registered()
		require.Equal(t, namesIn(s.loop.Metadata()), announced(s.lookupds[0]))
		for _, tooLong := range []string{"n" + name, "e" + ephemeral} {
			require.ErrorIs(t, s.loop.Notify(TopicCreated(tooLong)), ErrInvalidName)
			require.ErrorIs(t, s.loop.Notify(ChannelCreated(name, tooLong)), ErrInvalidName)
			require.ErrorIs(t, s.loop.SetMetadata(Metadata{Topics: []TopicMetadata{{Name: tooLong}}}), ErrInvalidName)
			_, err := s.loop.TopicChannels(t.Context(), tooLong)
			require.ErrorIs(t, err, ErrInvalidName)
		}
		require.Equal(t, namesIn(s.loop.Metadata()), announced(s.lookupds[0]))
	})
}
