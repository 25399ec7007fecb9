package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// version is the version of this library.
const version = "0.1.0"

// defaultVersion is the version of a broker that doesn't set its own. It begins with
// the version of a current nsqd, so that nsqadmin marks neither the broker nor an
// nsqd beside it as out of date.
const defaultVersion = "1.3.0+lookuploop." + version

// Options configure a [Loop]. They are named after nsqd's flags where nsqd has such
// a flag. The zero value of a field means its default. [New] reports all invalid
// fields at once. A duration is from 1 ms to one year.
type Options struct {
	// LookupdTCPAddresses are the nsqlookupds with which to register, each as
	// host:port. As for net.Dial, an empty host is this machine, and the port may
	// be a service name. Duplicates are ignored, also in different spellings. With
	// a ResolveInterval, SRV names such as _lookupd._tcp.example.com are allowed.
	// May be empty.
	LookupdTCPAddresses []string

	// BroadcastAddress is the host at which consumers reach the broker: an IP
	// address (IPv6 without brackets), or a host name of letters, digits, hyphens,
	// underscores and dots. It can't be 0.0.0.0 or ::. Default: Hostname.
	BroadcastAddress string

	// Hostname is the name that nsqadmin shows. Default: os.Hostname().
	Hostname string

	// BroadcastTCPPort is the TCP port at which consumers reach the broker, 1 to
	// 65535. Required if there is a lookupd address.
	BroadcastTCPPort int

	// BroadcastHTTPPort is the HTTP port at which nsqadmin reaches the broker, 1 to
	// 65535. nsqlookupd refuses 0: a broker without HTTP uses its TCP port. Required
	// if there is a lookupd address.
	BroadcastHTTPPort int

	// Version is the version of the broker, without spaces. nsqadmin compares the
	// semantic versions of all producers and marks those below the highest as out
	// of date; one that it can't parse counts as 0.0.0. So use the version of nsqd,
	// and append the broker's own version after a plus, which isn't compared, as
	// in 1.3.0+broker.2.7. Default: 1.3.0+lookuploop.0.1.0, for nsqd and this library.
	Version string

	// TopologyZone and TopologyRegion are sent to nsqlookupd if they aren't empty.
	TopologyZone, TopologyRegion string

	// DataPath is the directory of nsqd.dat. It must exist. Empty means that nothing
	// is stored; in nsqd it means the working directory. After LoadMetadata has
	// locked the directory, the Loop keeps using it even if it is renamed or the
	// process changes its working directory. If nsqd.dat is a symbolic link, it is
	// read and then replaced by a file, as in nsqd.
	DataPath string

	// HeartbeatInterval is the time between two PINGs to an nsqlookupd, at most
	// 100 s. nsqlookupd hides a producer after 300 s without one. Some other
	// implementations close a connection after 15 s without a command: set 5 s for
	// those. Default: 15 s.
	HeartbeatInterval time.Duration

	// DialTimeout bounds one call of Dial. Default: 1 s.
	DialTimeout time.Duration

	// ResponseTimeout bounds the wait for one answer. It begins when the command
	// is sent or the previous answer arrives, and ends with the last byte of the
	// answer. A lookupd that exceeds it is disconnected. Default: 1 s.
	ResponseTimeout time.Duration

	// MinBackoff and MaxBackoff bound the pause before the next attempt to connect.
	// The pause is random, between 0 and a limit that starts at MinBackoff and
	// doubles up to MaxBackoff. After a connection that worked, the limit is at most
	// 1 s, and less if the nsqlookupd had been up to date for some time. A change at the broker ends the pause, at most once
	// a second. After a refused IDENTIFY the pause is at least half of MaxBackoff.
	// MaxBackoff is also the first pause before refused names are tried again.
	// Default: 100 ms and 5 s. If only one is set and they contradict each other, the
	// other one is the same.
	MinBackoff, MaxBackoff time.Duration

	// ResyncInterval is the time after which everything is announced again on a
	// healthy connection. This restores topics that an administrator deleted at an
	// nsqlookupd while the broker has them. It can also restore a topic that is
	// just being deleted everywhere. Default: 0, which means never.
	ResyncInterval time.Duration

	// VerifyInterval is the time between two verifications. Each does what Verify
	// without topics does, and checks topics with earlier findings again. Findings
	// are in Status and logged once. A topic or channel that a connected nsqlookupd
	// lost is announced to it again, which can restore one that is just being
	// deleted. The first verification follows after a random part of the interval.
	// Verify documents the cost; use minutes. Default: 0, which means never.
	VerifyInterval time.Duration

	// ResolveInterval is the time between two look-ups of a host name in
	// LookupdTCPAddresses. Each IP address is an nsqlookupd, at most 64 for each
	// name. An address that several names share counts once. Dial is called with
	// the IP address; see ConfiguredAddress.
	//
	// If a look-up fails, the known addresses stay. It is retried after a random
	// pause: below 100 ms at first, and at most 1.5 s while look-ups return nothing
	// at all. While one of its addresses isn't connected, a name is looked up every
	// 1 to 1.5 s, because the nsqlookupd may have moved.
	//
	// If a look-up doesn't return a known address, the address is dropped. If it is
	// connected, that takes three such look-ups in a row, because some DNS servers
	// return only a part of the addresses.
	//
	// Default: 0, which means that Dial looks names up, and takes one address.
	ResolveInterval time.Duration

	// ResolveNetwork selects the IP addresses of a name: all ("ip"), IPv4 ("ip4") or
	// IPv6 ("ip6"). An nsqlookupd that is reached at both would list the broker
	// twice. It is for ResolveInterval only. Default: "ip".
	ResolveNetwork string

	// Resolver looks up the names for ResolveInterval. Each call has a context that
	// ends after 5 s, or when Run's context ends, and must return then. Until it
	// returns, the known addresses of the name stay. Default: net.DefaultResolver.
	Resolver Resolver

	// MaxResponseSize bounds one answer of an nsqlookupd, over TCP or HTTP, in
	// bytes, from 1 KiB to 1 GiB. The answer to /nodes, which verifications may
	// request, may be 16 times as long. Default: 1 MiB.
	MaxResponseSize int

	// Dial opens the TCP connection to an nsqlookupd, for example with TLS. HTTP
	// requests don't use it, see HTTPClient. Dial must return when its context ends. What it returns with an error is neither used
	// nor closed. It must not fix the local port, because
	// nsqlookupd tells producers apart by it. The connection must support
	// deadlines. Its Close is called once and should not block. Of a *tls.Conn only
	// the underlying connection is closed, because closing TLS may block for 5 s.
	// Default: net.Dialer's DialContext.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// HTTPClient is used by TopicChannels and verifications. They send http:// requests
	// to the host and port that the nsqlookupd announced. For https, use a Transport that
	// changes Scheme and Host of the request's URL. A request must end when its context
	// does: the call and Run wait for it. Default: a client that gives
	// up after ResponseTimeout, follows no redirects and uses no proxy.
	HTTPClient *http.Client

	// Logger receives a line when an nsqlookupd fails, when the reason changes, every
	// 10 minutes while it fails, and when it is back; when writes of nsqd.dat or
	// look-ups of a name begin to fail; and what VerifyInterval finds. README.md lists
	// the messages. Level Debug has each command. Logger is called with no lock held,
	// and may call what OnStateChange may. While it blocks, that nsqlookupd, nsqd.dat,
	// the look-ups of that name or the verification wait, and Run doesn't return.
	// Default: slog.Default(). slog.DiscardHandler discards everything.
	Logger *slog.Logger

	// OnStateChange is called after each state change of a connection, from the
	// goroutine of that nsqlookupd, with no lock held. While it runs, nothing is sent
	// to that nsqlookupd, and Run doesn't return. If it panics, the program ends. It
	// may call all methods except WaitRegistered, Drain, Run and Close.
	// Default: none.
	OnStateChange func(LookupdStatus)
}

const (
	defaultHeartbeatInterval = 15 * time.Second
	defaultDialTimeout       = time.Second
	defaultResponseTimeout   = time.Second
	defaultMinBackoff        = 100 * time.Millisecond
	defaultMaxBackoff        = 5 * time.Second
	defaultMaxResponseSize   = 1 << 20
)

// Values outside of these bounds are mistakes.
const (
	minDuration          = time.Millisecond
	maxDuration          = 365 * 24 * time.Hour
	maxHeartbeatInterval = 100 * time.Second // a third of the time after which nsqlookupd hides a producer
	minMaxResponseSize   = 1 << 10
	maxMaxResponseSize   = 1 << 30
)

// withDefaults returns a copy that shares nothing with o, its defaults filled
// in, or all that is wrong with it.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("lookuploop: "+format, args...))
	}

	addresses, err := o.parseAddresses(o.LookupdTCPAddresses)
	if err != nil {
		errs = append(errs, err)
	}
	o.LookupdTCPAddresses = make([]string, 0, len(addresses))
	for _, a := range addresses {
		o.LookupdTCPAddresses = append(o.LookupdTCPAddresses, a.Text)
	}

	if o.Hostname == "" {
		name, err := os.Hostname()
		if err != nil {
			fault("no host name, set Hostname: %w", err)
		}
		o.Hostname = name
	}
	if o.Version == "" {
		o.Version = defaultVersion
	}
	for _, s := range []struct{ name, value string }{
		{"Hostname", o.Hostname},
		{"BroadcastAddress", o.BroadcastAddress},
		{"Version", o.Version},
		{"TopologyZone", o.TopologyZone},
		{"TopologyRegion", o.TopologyRegion},
	} {
		if strings.ContainsFunc(s.value, isSpaceOrControl) {
			fault("%s %q: remove the space or control character", s.name, s.value)
		}
	}
	if o.BroadcastAddress == "" {
		o.BroadcastAddress = o.Hostname
	}
	if mistake := broadcastMistake(o.BroadcastAddress); mistake != "" {
		fault("broadcast address %q: %s", o.BroadcastAddress, mistake)
	}
	if strings.ContainsRune(o.DataPath, 0) {
		fault("DataPath %q: remove the null byte", o.DataPath)
	}

	if len(o.LookupdTCPAddresses) == 0 {
		errs = append(errs, o.portFaults(0)...)
	}
	// One bound that is given moves the default of the other if it must.
	minBackoff, maxBackoff := defaultMinBackoff, max(defaultMaxBackoff, o.MinBackoff)
	if o.MaxBackoff > 0 {
		minBackoff = min(minBackoff, o.MaxBackoff)
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"HeartbeatInterval", &o.HeartbeatInterval, defaultHeartbeatInterval},
		{"DialTimeout", &o.DialTimeout, defaultDialTimeout},
		{"ResponseTimeout", &o.ResponseTimeout, defaultResponseTimeout},
		{"MinBackoff", &o.MinBackoff, minBackoff},
		{"MaxBackoff", &o.MaxBackoff, maxBackoff},
		{"ResyncInterval", &o.ResyncInterval, 0},
		{"VerifyInterval", &o.VerifyInterval, 0},
		{"ResolveInterval", &o.ResolveInterval, 0},
	} {
		switch {
		case *d.value < 0:
			fault("%s %v: it can't be negative", d.name, *d.value)
		case *d.value == 0:
			*d.value = d.standard
		case *d.value < minDuration:
			fault("%s %v: set it to at least 1 ms (a number without a unit means nanoseconds: write %d * time.Second, for example)", d.name, *d.value, *d.value)
		case *d.value > maxDuration:
			fault("%s %v: set it to at most a year", d.name, *d.value)
		}
	}
	if o.HeartbeatInterval > maxHeartbeatInterval && o.HeartbeatInterval <= maxDuration {
		fault("HeartbeatInterval %v: set it to at most 100 s, as nsqlookupd hides a producer after 300 s without a PING", o.HeartbeatInterval)
	}
	if o.MinBackoff > o.MaxBackoff && o.MaxBackoff > 0 {
		fault("MinBackoff %v is above MaxBackoff %v", o.MinBackoff, o.MaxBackoff)
	}

	switch {
	case o.MaxResponseSize < 0:
		fault("MaxResponseSize %d: it can't be negative", o.MaxResponseSize)
	case o.MaxResponseSize == 0:
		o.MaxResponseSize = defaultMaxResponseSize
	case o.MaxResponseSize < minMaxResponseSize || o.MaxResponseSize > maxMaxResponseSize:
		fault("MaxResponseSize %d: set it to at least 1 KiB and at most 1 GiB", o.MaxResponseSize)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	switch o.ResolveNetwork {
	case "":
		o.ResolveNetwork = "ip"
	case "ip", "ip4", "ip6":
	default:
		fault("ResolveNetwork %q: set it to ip, ip4 or ip6", o.ResolveNetwork)
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.HTTPClient == nil {
		o.HTTPClient = newHTTPClient(o.ResponseTimeout, o.MaxResponseSize)
	}
	return o, errors.Join(errs...)
}

// portFaults says what is wrong with the ports, which are to be least at the
// least: 1, or 0 where they may be left out.
func (o *Options) portFaults(least int) (errs []error) {
	for _, p := range []struct {
		name, hint string
		value      int
	}{
		{"BroadcastTCPPort", "the port where consumers reach the broker", o.BroadcastTCPPort},
		{"BroadcastHTTPPort", "nsqlookupd refuses 0; without HTTP name the TCP port", o.BroadcastHTTPPort},
	} {
		if p.value < least || p.value > 65535 {
			errs = append(errs, fmt.Errorf("lookuploop: %s %d: set it to 1..65535 (%s)", p.name, p.value, p.hint))
		}
	}
	return errs
}
