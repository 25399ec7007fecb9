package listing

import (
	"encoding/json"
	"slices"
)

// Kind is what is wrong.
type Kind string

const (
	NotListed       Kind = "not listed"
	Tombstoned      Kind = "tombstoned"
	ListedTwice     Kind = "listed twice"
	ListedElsewhere Kind = "listed elsewhere"
	OtherVersion    Kind = "other version"
	AddressShared   Kind = "address shared"
	ChannelMissing  Kind = "channel missing"
	Stale           Kind = "stale"
	NotResolvable   Kind = "not resolvable"
	NotReachable    Kind = "not reachable"
	NamesDiffer     Kind = "names differ"
)

var advice = map[Kind]string{
	NotListed:       "consumers that ask this lookupd don't find the broker, perhaps because the topic was deleted there: " + announceAgain,
	Tombstoned:      "an administrator hid the topic there: wait until the tombstone ends (45 s by default), or delete the topic at the broker, and create it again when the lookupd has acknowledged that, some seconds later",
	ListedTwice:     "an old connection of the broker is still listed: it goes once the lookupd's TCP notices, and is hidden after 300 s; if it stays, two brokers have the same address and host name",
	ListedElsewhere: "consumers or nsqadmin are sent to another address than the broker's: correct its broadcast address and ports, and restart it",
	OtherVersion:    "the lookupd lists a connection that another version of the broker made, and no newer one: see the broker's log for why it isn't connected; the old connection goes once the lookupd's TCP notices, and is hidden after 300 s",
	AddressShared:   "another broker announces the same address, or this one did under another host name: give each broker an address and port of its own",
	ChannelMissing:  "brokers where the topic is created don't create the channel: " + announceAgain,
	Stale:           "consumers are sent to the broker for a topic that it doesn't have: " + connectAgain,
	NotResolvable:   "consumers like this machine can't resolve the broadcast address: set one that they can resolve, or correct DNS",
	NotReachable:    "consumers like this machine can't dial the broadcast address: set the address and port at which they reach the broker, or open the firewall",
	NamesDiffer:     "no broker that was asked has the topic and only some lookupds know it, so nsqadmin and topic patterns find it or not: delete it with nsqadmin if nobody needs it",
}

// What lets a broker announce what it has on a new connection. With a VerifyInterval
// or a ResyncInterval it says again what it has, but not what it doesn't have.
const (
	connectAgain  = "remove the lookupd from the broker's addresses and add it again, or restart the broker"
	announceAgain = connectAgain + "; a broker with lookuploop's VerifyInterval announces it again by itself"
)

// notConnected is the advice about a broker that isn't listed at all.
const notConnected = "consumers that ask this lookupd don't find the broker: check that the lookupd is among the addresses that the broker registers with, and see the broker's log for why it isn't connected"

// Finding is one thing that is wrong.
type Finding struct {
	Kind    Kind
	Lookupd string // where it was seen; empty when it concerns the broker alone
	Broker  string // the broadcast address and TCP port; empty when it concerns a lookupd alone
	Topic   string // empty when it concerns all topics
	Channel string
	Detail  string // what was seen instead
}

// Advice says what it means and what to do.
func (f Finding) Advice() string {
	if f.Kind == NotListed && f.Topic == "" {
		return notConnected
	}
	return advice[f.Kind]
}

// MarshalJSON adds the advice.
func (f Finding) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Kind    Kind   `json:"kind"`
		Lookupd string `json:"lookupd,omitempty"`
		Broker  string `json:"broker,omitempty"`
		Topic   string `json:"topic,omitempty"`
		Channel string `json:"channel,omitempty"`
		Detail  string `json:"detail,omitempty"`
		Advice  string `json:"advice"`
	}{f.Kind, f.Lookupd, f.Broker, f.Topic, f.Channel, f.Detail, f.Advice()})
}

// Confirm returns the findings of a second look that the first one had too: the
// others were changes under way, which are over or have only begun. What was seen
// may differ in its details, such as the port of a connection.
func Confirm(first, second []Finding) []Finding {
	seen := make(map[Finding]bool, len(first))
	for _, f := range first {
		f.Detail = ""
		seen[f] = true
	}
	return slices.DeleteFunc(slices.Clone(second), func(f Finding) bool {
		f.Detail = ""
		return !seen[f]
	})
}
