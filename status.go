package lookuploop

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop/internal/wire"
)

// State is how far a connection to one nsqlookupd has come.
type State int32

const (
	Disconnected State = iota // no connection; the next attempt is due at LookupdStatus.NextAttempt
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

// MarshalText makes a State readable in JSON.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PeerInfo is what an nsqlookupd says of itself in its answer to IDENTIFY, each
// text cut at 255 bytes.
type PeerInfo struct {
	TCPPort          int    `json:"tcp_port"`
	HTTPPort         int    `json:"http_port"`
	Version          string `json:"version"`
	Hostname         string `json:"hostname"`
	BroadcastAddress string `json:"broadcast_address"`
}

// Status is a snapshot of a Loop; nothing changes it once it was returned.
type Status struct {
	Broker   BrokerInfo
	Topics   int             // how many the broker has
	Channels int             // in all topics together
	Lookupds []LookupdStatus // in the order of the configured addresses
	Names    []NameStatus    // those among the configured addresses that are looked up, in their order
	Metadata MetadataStatus
}

// BrokerInfo is what the nsqlookupds are told of the broker, as Options have it,
// defaults filled in.
type BrokerInfo struct {
	BroadcastAddress  string
	BroadcastTCPPort  int
	BroadcastHTTPPort int
	Hostname          string
	Version           string
	TopologyZone      string
	TopologyRegion    string
	Started           time.Time // when Run was called; zero: it wasn't yet
}

// NameStatus is a snapshot of what the Loop knows of one name, if
// Options.ResolveInterval is set.
type NameStatus struct {
	Name       string    // as it was configured
	Addresses  []string  // the nsqlookupds that it leads to, an IP address and a port each
	Error      error     // why the last look-up failed, wholly or in part; what was known before stays
	LookedUp   time.Time // when the last look-up ended; zero: none has yet
	NextLookup time.Time // when the next one begins; zero: one is going on, or Run isn't
}

// LookupdStatus is a snapshot of what the Loop knows of one nsqlookupd.
type LookupdStatus struct {
	Address       string   // where it is reached: an IP address if Options.ResolveInterval is set
	Names         []string // the configured addresses that led there
	ResolveError  error    // why the last look-up of one of them failed, wholly or in part; what was known before stays
	State         State
	Since         time.Time        // when State was entered
	MissingSince  time.Time        // since when it doesn't know everything that the broker has; zero: it does
	Info          PeerInfo         // of the last answer to IDENTIFY
	Pending       int              // changes it has not acknowledged; while it is not connected, all topics and channels
	Refused       []*ResponseError // topics and channels that it refused
	LastError     error            // why the last connection failed or ended; nil once everything was acknowledged again
	LastHeartbeat time.Time        // when it last answered a PING or IDENTIFY
	RTT           time.Duration    // how long that answer took
	Connects      uint64           // connections that came as far as Connected
	Failures      uint64           // connections and attempts that ended with an error
	Commands      uint64           // commands sent, IDENTIFY and PING included
	NextAttempt   time.Time        // when Disconnected: not before this; else zero
}

// MetadataStatus is a snapshot of how nsqd.dat is doing.
type MetadataStatus struct {
	Path      string    // of nsqd.dat; empty when Options.DataPath is
	Dirty     bool      // something isn't on disk yet
	LastWrite time.Time // when it was last written with success
	LastError error     // of the last write; nil if it succeeded
	Writes    uint64    // that succeeded
	Failures  uint64
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
