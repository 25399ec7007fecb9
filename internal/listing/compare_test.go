package listing

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const lookupd = "lookupd.test:4161"

// orders is a broker with two topics.
var orders = Broker{
	Producer: Producer{Hostname: "host-a", BroadcastAddress: "a.test", TCPPort: 4150, HTTPPort: 4151, Version: "1.3.0"},
	Topics:   map[string][]string{"orders": {"mail", "ship"}, "invoices": nil},
}

// show returns what a lookupd shows when the brokers are connected to it, and
// when it was asked for all topics and the further ones.
func show(brokers ...Broker) View {
	v := View{Lookupd: lookupd, Nodes: []Node{}, Topics: make(map[string]Topic)}
	for i, b := range brokers {
		p := b.Producer
		p.RemoteAddress = fmt.Sprintf("10.0.0.%d:5000", i+1)
		n := Node{p, make(map[string]bool)}
		for topic, channels := range b.Topics {
			t := v.Topics[topic]
			t.Known = true
			t.Channels = append(t.Channels, channels...)
			t.Producers = append(t.Producers, p)
			v.Topics[topic] = t
			n.Topics[topic] = false
		}
		v.Nodes = append(v.Nodes, n)
	}
	return v
}

// with returns the broker after an edit of who it says it is.
func with(b Broker, edit func(*Producer)) Broker {
	edit(&b.Producer)
	return b
}

// tombstone hides the producers of a topic that a consumer is sent to at the address.
func tombstone(v View, topic, address string) {
	t := v.Topics[topic]
	t.Producers = slices.DeleteFunc(t.Producers, func(p Producer) bool { return p.Address() == address })
	v.Topics[topic] = t
	for _, n := range v.Nodes {
		if n.Address() == address {
			n.Topics[topic] = true
		}
	}
}

// unregister takes the first broker off a topic.
func unregister(v View, topic string) {
	t := v.Topics[topic]
	t.Producers = t.Producers[1:]
	v.Topics[topic] = t
	delete(v.Nodes[0].Topics, topic)
}

func TestEachKindOfFindingIsFound(t *testing.T) {
	other := Broker{
		Producer: Producer{Hostname: "host-b", BroadcastAddress: "b.test", TCPPort: 4150, HTTPPort: 4151, Version: "1.2.1"},
		Topics:   map[string][]string{"orders": {"audit"}, "hidden": nil},
	}
	finding := func(kind Kind, topic, channel, detail string) Finding {
		return Finding{kind, lookupd, "a.test:4150", topic, channel, detail}
	}
	for name, tt := range map[string]struct {
		view View
		edit func(View) View
		want []Finding
	}{
		"well":      {view: show(orders)},
		"two, well": {view: show(other, orders)},
		"another broker of the same host": {
			view: show(orders, with(orders, func(p *Producer) { p.TCPPort, p.HTTPPort = 4250, 4251 })),
		},
		"a broker at another host with the same host name": {
			view: show(orders, with(orders, func(p *Producer) { p.BroadcastAddress = "c.test" })),
		},
		"names of the gone": {view: show(orders), edit: func(v View) View {
			v.Topics["gone"] = Topic{Known: true, Channels: []string{"x"}}
			return v
		}},
		"deleted": {
			view: show(orders, other), edit: func(v View) View {
				v.Topics["orders"], v.Topics["invoices"] = Topic{Known: true, Producers: []Producer{v.Nodes[1].Producer}}, Topic{}
				return v
			},
			want: []Finding{
				finding(NotListed, "invoices", "", "the lookupd doesn't know the topic"),
				finding(NotListed, "orders", "", "the lookupd knows the topic, but not of the broker"),
			},
		},
		"deleted, without nodes": {
			view: show(orders), edit: func(v View) View {
				v.Nodes = nil
				v.Topics = map[string]Topic{"invoices": {}}
				return v
			},
			want: []Finding{finding(NotListed, "invoices", "", "the lookupd doesn't know the topic")},
		},
		"not connected": {
			view: show(other), edit: func(v View) View {
				v.Topics["invoices"] = Topic{}
				return v
			},
			want: []Finding{finding(NotListed, "", "", "the lookupd has no connection of the broker")},
		},
		"not connected, unlike another broker of the same host": {
			view: show(with(orders, func(p *Producer) { p.TCPPort, p.HTTPPort = 4250, 4251 })),
			want: []Finding{finding(NotListed, "", "", "the lookupd has no connection of the broker")},
		},
		"tombstoned": {
			view: show(orders, other), edit: func(v View) View {
				tombstone(v, "orders", "a.test:4150")
				return v
			},
			want: []Finding{finding(Tombstoned, "orders", "", "")},
		},
		"another one is tombstoned": {
			view: show(orders, other), edit: func(v View) View {
				tombstone(v, "orders", "b.test:4150")
				unregister(v, "orders")
				return v
			},
			want: []Finding{finding(NotListed, "orders", "", "the lookupd knows the topic, but not of the broker")},
		},
		"half-open": {
			view: show(orders, with(orders, func(p *Producer) { p.Version = "1.2.1" })),
			want: []Finding{finding(ListedTwice, "", "", "connected from 10.0.0.1:5000, 10.0.0.2:5000")},
		},
		"half-open, without nodes": {
			view: show(orders, orders), edit: func(v View) View {
				v.Nodes = nil
				return v
			},
			want: []Finding{finding(ListedTwice, "", "", "connected from 10.0.0.1:5000, 10.0.0.2:5000")},
		},
		"another broadcast address": {
			view: show(with(orders, func(p *Producer) { p.BroadcastAddress = "old.test" })),
			want: []Finding{finding(ListedElsewhere, "", "", "old.test:4150, HTTP port 4151, host name host-a, version 1.3.0, connected from 10.0.0.1:5000")},
		},
		"another TCP port": {
			view: show(with(orders, func(p *Producer) { p.TCPPort = 1 })),
			want: []Finding{finding(ListedElsewhere, "", "", "a.test:1, HTTP port 4151, host name host-a, version 1.3.0, connected from 10.0.0.1:5000")},
		},
		"another HTTP port": {
			view: show(with(orders, func(p *Producer) { p.HTTPPort = 1 })),
			want: []Finding{finding(ListedElsewhere, "", "", "a.test:4150, HTTP port 1, host name host-a, version 1.3.0, connected from 10.0.0.1:5000")},
		},
		"another version": {
			view: show(with(orders, func(p *Producer) { p.Version = "1.2.1" })),
			want: []Finding{finding(OtherVersion, "", "", "1.2.1, not 1.3.0")},
		},
		"somebody else at our address": {
			view: show(orders, with(other, func(p *Producer) { p.BroadcastAddress = "a.test" })),
			want: []Finding{finding(AddressShared, "", "", "a.test:4150, HTTP port 4151, host name host-b, version 1.2.1, connected from 10.0.0.2:5000")},
		},
		"somebody else of the same host": {
			view: show(orders, with(orders, func(p *Producer) { p.HTTPPort = 1 })),
			want: []Finding{finding(AddressShared, "", "", "a.test:4150, HTTP port 1, host name host-a, version 1.3.0, connected from 10.0.0.2:5000")},
		},
		"only somebody else": {
			view: show(with(other, func(p *Producer) { p.BroadcastAddress = "a.test" })),
			want: []Finding{
				finding(AddressShared, "", "", "a.test:4150, HTTP port 4151, host name host-b, version 1.2.1, connected from 10.0.0.1:5000"),
				finding(NotListed, "", "", "the lookupd has no connection of the broker"),
			},
		},
		"channel deleted": {
			view: show(orders), edit: func(v View) View {
				v.Topics["orders"] = Topic{true, []string{"ship"}, v.Topics["orders"].Producers}
				return v
			},
			want: []Finding{finding(ChannelMissing, "orders", "mail", "")},
		},
		"stale": {
			view: show(orders, other), edit: func(v View) View {
				v.Nodes[0].Topics["b"], v.Nodes[0].Topics["a"], v.Nodes[0].Topics["tombstoned"] = false, false, true
				return v
			},
			want: []Finding{finding(Stale, "a", "", ""), finding(Stale, "b", "", "")},
		},
		"stale, without nodes": {
			view: show(orders, other), edit: func(v View) View {
				v.Topics["a"] = Topic{Known: true, Producers: []Producer{v.Nodes[0].Producer}}
				v.Topics["b"] = Topic{Known: true, Producers: []Producer{v.Nodes[1].Producer}}
				v.Nodes = nil
				return v
			},
			want: []Finding{finding(Stale, "a", "", "")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			view := tt.view
			if tt.edit != nil {
				view = tt.edit(view)
			}
			require.Equal(t, tt.want, Compare(orders, view))
		})
	}
}

// Of topics that it wasn't asked about, a lookupd may not say anything.
func TestOnlyTopicsThatWereAskedForAreCompared(t *testing.T) {
	v := show(orders)
	delete(v.Topics, "orders")
	require.Empty(t, Compare(orders, v))
}

// Brokers that differ in host or ports are told apart, whatever else they share.
func TestHealthyBrokersHaveNoFindings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"a", "b", "c"})
		topics := rapid.MapOf(name, rapid.SliceOfDistinct(name, rapid.ID))
		hosts := rapid.SliceOfNDistinct(rapid.IntRange(1, 20), 1, 5, rapid.ID).Draw(t, "hosts")
		var brokers []Broker
		for _, h := range hosts {
			b := Broker{Producer{
				Hostname:         name.Draw(t, "host name"),
				BroadcastAddress: fmt.Sprintf("host%d.test", h%5), // up to four on one host
				TCPPort:          4150 + h,
				HTTPPort:         4250 + h,
				Version:          rapid.SampledFrom([]string{"1.2.1", "1.3.0"}).Draw(t, "version"),
			}, topics.Draw(t, "topics")}
			brokers = append(brokers, b)
		}
		v := show(brokers...)
		for _, b := range brokers {
			require.Empty(t, Compare(b, v))
		}
		require.Empty(t, Differences(map[string][]string{"one": slices.Collect(maps.Keys(v.Topics))}, nil))
	})
}

func TestDifferencesAreNamesThatOnlySomeLookupdsKnow(t *testing.T) {
	names := map[string][]string{
		"l1": {"both", "old", "orders"},
		"l2": {"both", "invoices"},
		"l3": {"old", "both"},
	}
	require.Equal(t, []Finding{
		{Kind: NamesDiffer, Lookupd: "l2", Topic: "old", Detail: "known by l1, l3"},
	}, Differences(names, []Broker{{}, orders}), "those that a broker has are left to Compare")
}

func TestOnlyFindingsOfBothLooksAreConfirmed(t *testing.T) {
	a, b, c := Finding{Kind: Stale, Topic: "a"}, Finding{Kind: Stale, Topic: "b"}, Finding{Kind: Tombstoned, Topic: "a"}
	first, second := a, a
	first.Detail, second.Detail = "connected from x:1", "connected from x:2"
	require.Equal(t, []Finding{second}, Confirm([]Finding{first, b}, []Finding{second, c}))
	require.Empty(t, Confirm(nil, []Finding{a}))
	require.Empty(t, Confirm([]Finding{a}, nil))
}

func TestEachKindHasAdvice(t *testing.T) {
	for _, kind := range []Kind{NotListed, Tombstoned, ListedTwice, ListedElsewhere, OtherVersion, AddressShared,
		ChannelMissing, Stale, NotResolvable, NotReachable, NamesDiffer} {
		require.NotEmpty(t, Finding{Kind: kind}.Advice(), kind)
	}
	require.Contains(t, Finding{Kind: NotListed, Topic: "orders"}.Advice(), "remove the lookupd from the broker's addresses and add it again")
	require.Contains(t, Finding{Kind: NotListed}.Advice(), "check that the lookupd is among the addresses", "there is nothing to reconnect")
	text, err := Finding{Tombstoned, lookupd, "a.test:4150", "orders", "", ""}.MarshalJSON()
	require.NoError(t, err)
	require.JSONEq(t, `{"kind":"tombstoned","lookupd":"lookupd.test:4161","broker":"a.test:4150","topic":"orders",
		"advice":"an administrator hid the topic there: wait until the tombstone ends (45 s by default), or delete the topic at the broker, and create it again when the lookupd has acknowledged that, some seconds later"}`, string(text))
}

// Nothing is found about what came or went while the lookupd was asked.
func TestCompareSteadyLeavesOutWhatChangedMeanwhile(t *testing.T) {
	finding := func(kind Kind, topic, channel, detail string) Finding {
		return Finding{kind, lookupd, "a.test:4150", topic, channel, detail}
	}
	type has = map[string][]string
	for name, tt := range map[string]struct {
		before, after, shown has // shown is what the lookupd lists
		want                 []Finding
	}{
		"nothing changed":      {has{"a": {"x"}}, has{"a": {"x"}}, has{"a": {"x"}}, nil},
		"and a topic is lost":  {has{"a": nil}, has{"a": nil}, has{}, []Finding{finding(NotListed, "a", "", "the lookupd doesn't know the topic")}},
		"and a channel is":     {has{"a": {"x"}}, has{"a": {"x"}}, has{"a": nil}, []Finding{finding(ChannelMissing, "a", "x", "")}},
		"and a topic is stale": {has{}, has{}, has{"a": nil}, []Finding{finding(Stale, "a", "", "")}},
		"topic created":        {has{}, has{"a": nil}, has{}, nil},
		"topic deleted":        {has{"a": nil}, has{}, has{"a": nil}, nil},
		"channel created":      {has{"a": nil}, has{"a": {"x"}}, has{"a": nil}, nil},
		"channel deleted":      {has{"a": {"x", "y"}}, has{"a": {"y"}}, has{"a": nil}, []Finding{finding(ChannelMissing, "a", "y", "")}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, withNodes := range []bool{true, false} {
				v := show(Broker{orders.Producer, tt.shown})
				if !withNodes {
					v.Nodes = nil
				}
				if _, isShown := tt.shown["a"]; !isShown {
					v.Topics["a"] = Topic{} // it was asked about
				}
				require.Equal(t, tt.want, CompareSteady(orders.Producer, tt.before, tt.after, v))
				require.Contains(t, v.Topics, "a", "the view stays as it is")
			}
		})
	}
}
