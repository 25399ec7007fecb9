package statuspage

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop"
)

// level is how bad things stand with a lookupd, and the class of its row. It
// stays the same from one attempt to connect to the next.
type level string

const (
	down     level = "down"     // the last connection failed
	busy     level = "busy"     // there is something that it doesn't know
	complete level = "complete" // it knows everything
)

var levels = []level{down, busy, complete} // the worst first

// Level of the lookupd.
func (l lookupdReport) Level() level {
	switch {
	case l.Complete:
		return complete
	case l.LastError != nil:
		return down
	}
	return busy
}

// Words for the lookupd's state, to be followed by how long that has been so.
func (l lookupdReport) Words() string {
	switch {
	case l.Complete:
		return "connected"
	case l.State == lookuploop.Connected:
		return "incomplete"
	}
	return "not connected"
}

// Sorted are the lookupds, those in trouble first.
func (r report) Sorted() []lookupdReport {
	return slices.SortedStableFunc(slices.Values(r.Lookupds), func(a, b lookupdReport) int {
		return cmp.Compare(slices.Index(levels, a.Level()), slices.Index(levels, b.Level()))
	})
}

// Summary says in one sentence what is wrong with the lookupds, if there are
// several and something is. It isn't about a topic.
func (r report) Summary() string {
	if len(r.Lookupds) < 2 || r.Totals.Complete == len(r.Lookupds) || r.Topic != nil {
		return ""
	}
	var unconnected, refusing, behind int
	first := r.Time
	for _, l := range r.Lookupds {
		switch {
		case l.Complete:
		case l.State != lookuploop.Connected:
			unconnected++
		case len(l.Refused) > 0:
			refusing++
		default:
			behind++
		}
		if l.MissingSince != nil && l.MissingSince.Before(first) {
			first = *l.MissingSince
		}
	}
	var parts []string
	add := func(n int, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 1:
			parts = append(parts, number(n)+" "+many)
		}
	}
	add(unconnected, "is not connected", "are not connected")
	add(refusing, "refuses names", "refuse names")
	add(behind, "has changes pending", "have changes pending")
	text := strings.Join(parts, ", ")
	if missing := r.Time.Sub(first); missing >= time.Second {
		text += ", the longest for " + span(missing)
	}
	return text + "."
}

// Name is what tells this broker from others.
func (b brokerReport) Name() string {
	switch {
	case b.BroadcastAddress == "":
		return "lookuploop"
	case b.TCPPort == 0:
		return b.BroadcastAddress
	}
	return net.JoinHostPort(b.BroadcastAddress, strconv.Itoa(b.TCPPort))
}

// Details are what else there is to say of the broker.
func (b brokerReport) Details() []string {
	var details []string
	add := func(what, value string) {
		if value != "" {
			details = append(details, what+" "+value)
		}
	}
	if b.HTTPPort != 0 {
		add("HTTP", strconv.Itoa(b.HTTPPort))
	}
	if b.Hostname != b.BroadcastAddress {
		add("host", b.Hostname)
	}
	add("version", b.Version)
	add("zone", b.TopologyZone)
	add("region", b.TopologyRegion)
	return details
}

// HTTP is where the lookupd answers HTTP, if it told.
func (l lookupdReport) HTTP() string {
	if l.Peer == nil || l.Peer.HTTPPort < 1 || l.Peer.HTTPPort > 65535 {
		return ""
	}
	host := l.Peer.BroadcastAddress
	if host == "" {
		host, _, _ = net.SplitHostPort(l.Address)
	}
	return net.JoinHostPort(host, strconv.Itoa(l.Peer.HTTPPort))
}

var hostName = regexp.MustCompile(`^[0-9A-Za-z_.-]+$`)

// Ask is where the lookupd with that HTTP address says what it lists: of the
// topic, or which brokers it knows. It is empty if no browser should go there.
func (p page) Ask(httpAddress string) string {
	host, _, err := net.SplitHostPort(httpAddress)
	if _, notIP := netip.ParseAddr(host); err != nil || notIP != nil && !hostName.MatchString(host) {
		return ""
	}
	u := url.URL{Scheme: "http", Host: httpAddress, Path: "/nodes"}
	if topic := p.topic(); topic != "" {
		u.Path, u.RawQuery = "/lookup", url.Values{"topic": {topic}}.Encode()
	}
	return u.String()
}

// Complaint is the last error without what the row says anyway.
func (l lookupdReport) Complaint() string {
	return strings.TrimPrefix(*l.LastError, "lookuploop: "+l.Address+": ")
}

// OtherNames are the configured addresses unless there is only Address itself.
func (l lookupdReport) OtherNames() string {
	if names := strings.Join(l.Names, ", "); names != l.Address {
		return names
	}
	return ""
}

// Shown are the refused names for which there is room.
func (l lookupdReport) Shown() []refusal { return l.Refused[:min(len(l.Refused), maxRefused)] }

// Hidden is how many refused names there are besides.
func (l lookupdReport) Hidden() int { return len(l.Refused) - len(l.Shown()) }

// Shown are the channels for which there is room.
func (t topicReport) Shown() []lookuploop.ChannelMetadata {
	return t.Channels[:min(len(t.Channels), maxChannels)]
}

// Hidden is how many channels there are besides.
func (t topicReport) Hidden() int { return len(t.Channels) - len(t.Shown()) }

// Registered is how many lookupds list the topic asked for.
func (r report) Registered() int {
	n := 0
	for _, l := range r.Lookupds {
		if l.TopicState == registered {
			n++
		}
	}
	return n
}
