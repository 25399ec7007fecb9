package lookuploop

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop/internal/listing"
	"github.com/lookuploop/lookuploop/internal/wire"
)

// State is the state of the connection to one nsqlookupd.
type State int32

const (
	Disconnected State = iota // no connection; LookupdStatus.NextAttempt is the time of the next attempt
	Connecting                // dialing, or waiting for the answer to IDENTIFY
	Connected                 // identified: changes are being sent
)

func (s State) String() string {
	switch s {
	case Disconnected:
		return "disconnected"
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	}
	return "unknown"
}

// MarshalText returns the text of String, for JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PeerInfo describes an nsqlookupd. It comes from the answer to IDENTIFY. Strings
// are truncated to 255 bytes.
type PeerInfo struct {
	TCPPort          int    `json:"tcp_port"`
	HTTPPort         int    `json:"http_port"`
	Version          string `json:"version"`
	Hostname         string `json:"hostname"`
	BroadcastAddress string `json:"broadcast_address"`
}

// Status is a snapshot of a [Loop].
type Status struct {
	Broker   BrokerInfo
	Topics   int             // number of topics
	Channels int             // number of channels of all topics
	Lookupds []LookupdStatus // in the order of the configured addresses
	Names    []NameStatus    // the configured addresses that are looked up, in their order
	Metadata MetadataStatus

	Verification VerificationStatus // of VerifyInterval
}

// BrokerInfo is what the nsqlookupds are told about the broker: the values of
// [Options], including defaults.
type BrokerInfo struct {
	BroadcastAddress  string
	BroadcastTCPPort  int
	BroadcastHTTPPort int
	Hostname          string
	Version           string
	TopologyZone      string
	TopologyRegion    string
	Started           time.Time // when Run was called; zero if it wasn't
}

// NameStatus is a snapshot of one name that is looked up. There are names only if
// ResolveInterval of [Options] is set.
type NameStatus struct {
	Name       string    // as configured
	Addresses  []string  // of the nsqlookupds, each an IP address with a port
	Error      error     // of the last look-up, if it failed or partly failed; known addresses stay
	LookedUp   time.Time // end of the last look-up; zero before the first
	NextLookup time.Time // start of the next look-up; zero during one, or if Run isn't running
}

// LookupdStatus is a snapshot of the state of one nsqlookupd.
type LookupdStatus struct {
	Address       string   // host:port; an IP address if Options.ResolveInterval is set
	Names         []string // the configured addresses that lead to it
	ResolveError  error    // of the last look-up of one of Names, if it failed or partly failed; known addresses stay
	State         State
	Since         time.Time        // when State was entered
	MissingSince  time.Time        // since when it doesn't know everything that the broker has; zero if it does
	Info          PeerInfo         // from the last answer to IDENTIFY
	Pending       int              // changes it has not acknowledged; while it is not connected, all topics and channels
	Refused       []*ResponseError // the refused topics and channels
	LastError     error            // why the last connection failed or ended; nil once everything was acknowledged again
	LastHeartbeat time.Time        // time of its last answer to PING or IDENTIFY
	RTT           time.Duration    // round-trip time of that answer
	Connects      uint64           // number of times that it entered Connected
	Failures      uint64           // number of connections and attempts that ended with an error
	Commands      uint64           // number of commands sent, including IDENTIFY and PING
	NextAttempt   time.Time        // earliest time of the next attempt if Disconnected; otherwise zero
}

// MetadataStatus is a snapshot of the state of nsqd.dat.
type MetadataStatus struct {
	Path      string    // path of nsqd.dat; empty without Options.DataPath
	Dirty     bool      // whether there are changes that aren't on disk yet
	LastWrite time.Time // time of the last successful write
	LastError error     // error of the last write; nil if it succeeded
	Writes    uint64    // number of successful writes
	Failures  uint64    // number of failed writes
}

// identity is the body of IDENTIFY, as in NSQ's TCP protocol spec.
func (o *Options) identity() map[string]any {
	body := map[string]any{
		"version":           o.Version,
		"hostname":          o.Hostname,
		"broadcast_address": o.BroadcastAddress,
		"tcp_port":          o.BroadcastTCPPort,
		"http_port":         o.BroadcastHTTPPort,
	}
	if o.TopologyZone != "" {
		body["topology_zone"] = o.TopologyZone
	}
	if o.TopologyRegion != "" {
		body["topology_region"] = o.TopologyRegion
	}
	return body
}

// broker is what identity says, for Status.
func (o *Options) broker() BrokerInfo {
	return BrokerInfo{
		BroadcastAddress:  o.BroadcastAddress,
		BroadcastTCPPort:  o.BroadcastTCPPort,
		BroadcastHTTPPort: o.BroadcastHTTPPort,
		Hostname:          o.Hostname,
		Version:           o.Version,
		TopologyZone:      o.TopologyZone,
		TopologyRegion:    o.TopologyRegion,
	}
}

// VerificationStatus describes the verifications of VerifyInterval.
type VerificationStatus struct {
	Interval  time.Duration // Options.VerifyInterval; with 0 there is nothing else
	Ended     time.Time     // when the last verification ended; zero before the first
	Error     error         // why no nsqlookupd could be asked; nil if one was
	Found     Verification  // its result; if there was no nsqlookupd to ask, that of the one before
	Announced uint64        // topics announced again, counted for each nsqlookupd
}

// FindingKind is the kind of a [Finding].
type FindingKind string

// The kinds of a [Finding]. README.md describes their causes.
const (
	NotListed       = FindingKind(listing.NotListed)       // the nsqlookupd doesn't list the broker, for the topic or at all
	Tombstoned      = FindingKind(listing.Tombstoned)      // an administrator tombstoned the topic there
	ListedTwice     = FindingKind(listing.ListedTwice)     // an old connection is still listed
	ListedElsewhere = FindingKind(listing.ListedElsewhere) // the broker is listed at another address or port
	OtherVersion    = FindingKind(listing.OtherVersion)    // the broker is listed with another version
	AddressShared   = FindingKind(listing.AddressShared)   // another broker announces the same broadcast address and port
	ChannelMissing  = FindingKind(listing.ChannelMissing)  // the nsqlookupd doesn't list the channel
	Stale           = FindingKind(listing.Stale)           // the nsqlookupd lists the broker for a topic that the broker doesn't have
	NotResolvable   = FindingKind(listing.NotResolvable)   // the broadcast address can't be resolved from here
	NotReachable    = FindingKind(listing.NotReachable)    // the broadcast address and port can't be reached from here
)

// Finding is one difference between what consumers find and what the broker has.
// Its strings may come from the network. They have no control characters and are
// truncated.
type Finding struct {
	Kind    FindingKind `json:"kind"`
	Lookupd string      `json:"lookupd,omitempty"` // as LookupdStatus.Address; empty if it is about the broadcast address
	Topic   string      `json:"topic,omitempty"`   // empty if it is about all topics
	Channel string      `json:"channel,omitempty"`
	Detail  string      `json:"detail,omitempty"` // what was seen
	Advice  string      `json:"advice"`           // what it means, and what to do
}

// String returns the finding in one line.
func (f Finding) String() string {
	var parts []string
	for _, s := range []string{f.Lookupd, strings.TrimSuffix(f.Topic+"/"+f.Channel, "/"), string(f.Kind), f.Detail, f.Advice} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Verification is the result of [Loop.Verify].
type Verification struct {
	Topics   int                   `json:"topics"`   // number of topics that were checked
	Sampled  bool                  `json:"sampled"`  // whether the topics are a random sample
	Lookupds []LookupdVerification `json:"lookupds"` // in the order of Status
	Findings []Finding             `json:"findings"`
}

// failure joins the errors of the lookupds if none could be asked.
func (v Verification) failure() error {
	var errs []error
	for _, l := range v.Lookupds {
		if l.Err == nil {
			return nil
		}
		errs = append(errs, l.Err)
	}
	return errors.Join(errs...)
}

// LookupdVerification says whether one nsqlookupd could be asked.
type LookupdVerification struct {
	Address     string // as LookupdStatus.Address
	HTTPAddress string // where the requests went
	Pending     int    // changes that it hasn't acknowledged; if there are any, its topics weren't compared
	Err         error  // why it couldn't be asked; nil if it was
}

// MarshalJSON encodes Err as a string.
func (v LookupdVerification) MarshalJSON() ([]byte, error) {
	text := ""
	if v.Err != nil {
		text = v.Err.Error()
	}
	return json.Marshal(struct {
		Address     string `json:"address"`
		HTTPAddress string `json:"http_address,omitempty"`
		Pending     int    `json:"pending"`
		Err         string `json:"error,omitempty"`
	}{v.Address, v.HTTPAddress, v.Pending, text})
}

// parsePeerInfo reads the answer to IDENTIFY of the lookupd at address; nil is
// that of one that can't describe itself.
func parsePeerInfo(address string, answer []byte) (PeerInfo, error) {
	var info PeerInfo
	if answer == nil {
		return info, nil
	}
	if err := json.Unmarshal(answer, &info); err != nil { // its text may be as long as the answer: it isn't kept
		return PeerInfo{}, fmt.Errorf("lookuploop: %s: %s: answer %s is no peer info: %s", address, wire.Identify, wire.Quote(answer), printable(err.Error()))
	}
	for _, s := range []*string{&info.Version, &info.Hostname, &info.BroadcastAddress} {
		*s = clip(*s)
	}
	return info, nil
}

// clip shortens what a hostile lookupd made longer than any host name is.
func clip(s string) string {
	const longest = 255
	if len(s) > longest {
		s = strings.Clone(strings.ToValidUTF8(s[:longest], ""))
	}
	return s
}
