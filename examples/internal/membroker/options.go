package membroker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"
)

// Version is what the broker calls itself in IDENTIFY, /info and /stats.
const Version = "1.3.0+membroker.0.1.0"

// The limits that clients meet. They are nsqd's defaults, except where the
// comment says that nsqd has no such limit.
const (
	maxLine       = 4 << 10  // a command line with its newline (nsqd: 16 KiB)
	maxIdentify   = 16 << 10 // the body of IDENTIFY (nsqd: as for MPUB)
	maxMsgSize    = 1 << 20  // one message
	maxBodySize   = 5 << 20  // the body of MPUB, all its messages together
	maxLookedUp   = 1000     // channels that a new topic takes from the lookupds (nsqd: all)
	maxRdyCount   = 2500     // what a consumer may ask for with RDY
	maxReqTimeout = time.Hour

	defaultMsgTimeout = time.Minute      // in flight for so long without an answer: requeued
	maxMsgTimeout     = 15 * time.Minute // however often the consumer sends TOUCH

	defaultHeartbeat = 30 * time.Second // a client that says nothing for two of them is dropped
	maxHeartbeat     = time.Minute
	minInterval      = time.Second // shortest heartbeat and message timeout that a client may ask for

	handshakeTimeout = 5 * time.Second // from connecting to the protocol's magic (nsqd: for ever)
	lingerTimeout    = time.Second     // how long a refused client may take to read why
	lookupTimeout    = time.Second     // how long a new topic waits for its channels from the lookupds
	leaveTimeout     = time.Second / 2 // how long Run's end waits for the lookupds to forget the broker
	drainTimeout     = time.Second     // how long Run's end waits for consumers to finish
	scanInterval     = 50 * time.Millisecond
)

// Options says where a Broker listens and what it may hold. The zero value of
// a field means its default.
type Options struct {
	TCPAddress       string // producers and consumers; default 127.0.0.1:4150, port 0 picks one
	HTTPAddress      string // the HTTP API; default 127.0.0.1:4151, port 0 picks one
	BroadcastAddress string // how clients reach this machine; default: TCPAddress' host, or the host name if that is a wildcard

	LookupdTCPAddresses []string // nsqlookupds to register with; may be empty
	DataPath            string   // directory of nsqd.dat, which holds names, never messages; "" keeps nothing

	// VerifyInterval is the time between two looks at what the lookupds show of the
	// broker, as of lookuploop.Options. Default: 0, which means never.
	VerifyInterval time.Duration

	// MemQueueSize is how many messages a channel may hold, in flight and
	// deferred ones included, and how many a topic keeps that has no channel
	// or is paused. A publish that any channel has no room for is refused
	// as a whole (E_PUB_FAILED; HTTP 503): nothing that was accepted is dropped
	// to make room. Default 10,000.
	MemQueueSize int

	// MaxConnections bounds the connections of both listeners together;
	// further ones are closed at once. NSQ clients leave some of them to HTTP
	// (half, but at most 32), so that the broker can be looked at and its clients
	// ended when they have taken all of theirs. Default 10,000.
	MaxConnections int

	Logger *slog.Logger // default slog.Default()
}

// withDefaults returns o with its zero fields filled in, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	var faults []error
	if o.TCPAddress == "" {
		o.TCPAddress = "127.0.0.1:4150"
	}
	if o.HTTPAddress == "" {
		o.HTTPAddress = "127.0.0.1:4151"
	}
	if o.BroadcastAddress == "" {
		host, err := broadcastHost(o.TCPAddress)
		if err != nil {
			faults = append(faults, err)
		}
		o.BroadcastAddress = host
	}
	switch {
	case o.MemQueueSize < 0:
		faults = append(faults, fmt.Errorf("membroker: mem queue size %d: messages live nowhere else, give at least 1", o.MemQueueSize))
	case o.MemQueueSize == 0:
		o.MemQueueSize = 10_000
	}
	switch {
	case o.MaxConnections < 0:
		faults = append(faults, fmt.Errorf("membroker: max connections %d: give at least 1", o.MaxConnections))
	case o.MaxConnections == 0:
		o.MaxConnections = 10_000
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o, errors.Join(faults...)
}

// keptForHTTP is how many connections NSQ clients can't take.
func (o Options) keptForHTTP() int { return min(o.MaxConnections/2, 32) }

// broadcastHost is the host of a listening address if others can connect to
// it, otherwise the name of this machine.
func broadcastHost(address string) (string, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("membroker: tcp address: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return host, nil
	}
	return os.Hostname()
}
