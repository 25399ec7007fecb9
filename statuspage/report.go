package statuspage

import (
	"slices"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop"
)

// maxText bounds in characters what is shown of one text of an nsqlookupd.
const maxText = 1024

// report is a snapshot as it is shown. Its JSON is promised in the package's
// documentation; the page is made of it too.
type report struct {
	Time     time.Time       `json:"time"`
	Broker   brokerReport    `json:"broker"`
	Totals   totals          `json:"totals"`
	Topic    *topicReport    `json:"topic,omitempty"`
	Lookupds []lookupdReport `json:"lookupds"`
	Names    []nameReport    `json:"names,omitempty"`
	Metadata *metadataReport `json:"metadata"`

	Verification *regularVerification `json:"verification"`
}

type brokerReport struct {
	BroadcastAddress string     `json:"broadcast_address"`
	TCPPort          int        `json:"tcp_port"`
	HTTPPort         int        `json:"http_port"`
	Hostname         string     `json:"hostname"`
	Version          string     `json:"version"`
	TopologyZone     string     `json:"topology_zone"`
	TopologyRegion   string     `json:"topology_region"`
	Started          *time.Time `json:"started"`
}

type totals struct {
	Topics    int `json:"topics"`
	Channels  int `json:"channels"`
	Lookupds  int `json:"lookupds"`
	Connected int `json:"connected"`
	Complete  int `json:"complete"`
}

type topicReport struct {
	Name     string                       `json:"name"`
	Known    bool                         `json:"known"`
	Paused   bool                         `json:"paused"`
	Channels []lookuploop.ChannelMetadata `json:"channels"`
	Similar  []string                     `json:"similar"` // the nearest first

	Verification *verification `json:"verification,omitempty"`
}

type lookupdReport struct {
	Address       string           `json:"address"`
	Names         []string         `json:"names"`
	State         lookuploop.State `json:"state"`
	Since         time.Time        `json:"since"`
	Complete      bool             `json:"complete"`
	MissingSince  *time.Time       `json:"missing_since"`
	TopicState    topicState       `json:"topic_state,omitempty"`
	Pending       int              `json:"pending"`
	Refused       []refusal        `json:"refused"`
	LastError     *string          `json:"last_error"`
	ResolveError  *string          `json:"resolve_error"`
	NextAttempt   *time.Time       `json:"next_attempt"`
	LastHeartbeat *time.Time       `json:"last_heartbeat"`
	RoundTrip     *float64         `json:"round_trip_seconds"`
	Connects      uint64           `json:"connects"`
	Failures      uint64           `json:"failures"`
	Commands      uint64           `json:"commands"`
	Peer          *peer            `json:"peer"`
}

// topicState tells whether one lookupd lists the topic asked for.
type topicState string

const (
	registered   topicState = "registered"
	pending      topicState = "pending"
	refused      topicState = "refused"
	notConnected topicState = "not connected"
)

type refusal struct {
	Topic   string `json:"topic"`
	Channel string `json:"channel"`
	Command string `json:"command"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

type peer = lookuploop.PeerInfo

type nameReport struct {
	Name       string     `json:"name"`
	Addresses  []string   `json:"addresses"`
	Error      *string    `json:"error"`
	LookedUp   *time.Time `json:"looked_up"`
	NextLookup *time.Time `json:"next_lookup"`
}

type metadataReport struct {
	Path      string     `json:"path"`
	Dirty     bool       `json:"dirty"`
	LastWrite *time.Time `json:"last_write"`
	LastError *string    `json:"last_error"`
	Writes    uint64     `json:"writes"`
	Failures  uint64     `json:"failures"`
}

// verification is what lookupds themselves said.
type verification struct {
	Ended *time.Time               `json:"ended"`
	Error *string                  `json:"error"`
	Found *lookuploop.Verification `json:"found"`
}

// regularVerification is the last of those that a VerifyInterval brings about.
type regularVerification struct {
	verification
	Announced uint64 `json:"announced"`
}

func newVerification(ended time.Time, err error, found lookuploop.Verification) verification {
	v := verification{Ended: optionalTime(ended), Error: optionalError(err)}
	if found.Lookupds != nil {
		v.Found = &found
	}
	return v
}

// newReport makes a report of what the Loop says. topic is the one asked for, or nil.
func newReport(now time.Time, status lookuploop.Status, topic *topicReport) report {
	r := report{
		Time:     now.UTC(),
		Broker:   newBrokerReport(status.Broker),
		Totals:   totals{Topics: status.Topics, Channels: status.Channels, Lookupds: len(status.Lookupds)},
		Topic:    topic,
		Lookupds: make([]lookupdReport, 0, len(status.Lookupds)),
	}
	for _, s := range status.Lookupds {
		l := newLookupdReport(s)
		if s.State == lookuploop.Connected {
			r.Totals.Connected++
		}
		if l.Complete {
			r.Totals.Complete++
		}
		if topic != nil {
			l.narrow(topic)
		}
		r.Lookupds = append(r.Lookupds, l)
	}
	for _, s := range status.Names {
		r.Names = append(r.Names, nameReport{
			Name:       s.Name,
			Addresses:  append([]string{}, s.Addresses...),
			Error:      optionalError(s.Error),
			LookedUp:   optionalTime(s.LookedUp),
			NextLookup: optionalTime(s.NextLookup),
		})
	}
	if v := status.Verification; v.Interval > 0 {
		r.Verification = &regularVerification{newVerification(v.Ended, v.Error, v.Found), v.Announced}
	}
	if m := status.Metadata; m.Path != "" {
		r.Metadata = &metadataReport{
			Path:      m.Path,
			Dirty:     m.Dirty,
			LastWrite: optionalTime(m.LastWrite),
			LastError: optionalError(m.LastError),
			Writes:    m.Writes,
			Failures:  m.Failures,
		}
	}
	return r
}

func newBrokerReport(b lookuploop.BrokerInfo) brokerReport {
	return brokerReport{
		BroadcastAddress: b.BroadcastAddress,
		TCPPort:          b.BroadcastTCPPort,
		HTTPPort:         b.BroadcastHTTPPort,
		Hostname:         b.Hostname,
		Version:          b.Version,
		TopologyZone:     b.TopologyZone,
		TopologyRegion:   b.TopologyRegion,
		Started:          optionalTime(b.Started),
	}
}

func newLookupdReport(s lookuploop.LookupdStatus) lookupdReport {
	l := lookupdReport{
		Address:       s.Address,
		Names:         append([]string{}, s.Names...),
		State:         s.State,
		Since:         s.Since.UTC(),
		Complete:      s.State == lookuploop.Connected && s.Pending == 0 && len(s.Refused) == 0,
		MissingSince:  optionalTime(s.MissingSince),
		Pending:       s.Pending,
		Refused:       make([]refusal, 0, len(s.Refused)),
		LastError:     optionalError(s.LastError),
		ResolveError:  optionalError(s.ResolveError),
		NextAttempt:   optionalTime(s.NextAttempt),
		LastHeartbeat: optionalTime(s.LastHeartbeat),
		Connects:      s.Connects,
		Failures:      s.Failures,
		Commands:      s.Commands,
	}
	if l.LastHeartbeat != nil {
		l.RoundTrip = new(s.RTT.Seconds())
	}
	for _, e := range s.Refused {
		l.Refused = append(l.Refused, refusal{e.Topic, e.Channel, e.Command, cut(e.Code), cut(e.Message)})
	}
	if info := s.Info; info != (peer{}) {
		info.Version, info.Hostname, info.BroadcastAddress = cut(info.Version), cut(info.Hostname), cut(info.BroadcastAddress)
		l.Peer = &info
	}
	return l
}

// narrow leaves of the refused names those of the topic, and tells whether the
// lookupd lists it.
func (l *lookupdReport) narrow(topic *topicReport) {
	l.Refused = slices.DeleteFunc(l.Refused, func(r refusal) bool { return r.Topic != topic.Name })
	switch {
	case !topic.Known:
	case slices.ContainsFunc(l.Refused, func(r refusal) bool { return r.Channel == "" }):
		l.TopicState = refused
	case l.State != lookuploop.Connected:
		l.TopicState = notConnected
	case l.Pending > 0:
		l.TopicState = pending
	default:
		l.TopicState = registered
	}
}

// newTopicReport is about a topic of that name; m is what the broker knows of it.
func newTopicReport(name string, known bool, m lookuploop.TopicMetadata) *topicReport {
	t := &topicReport{Name: name, Known: known, Paused: m.Paused, Channels: append([]lookuploop.ChannelMetadata{}, m.Channels...), Similar: []string{}}
	slices.SortFunc(t.Channels, func(a, b lookuploop.ChannelMetadata) int { return strings.Compare(a.Name, b.Name) })
	return t
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}

func optionalError(err error) *string {
	if err == nil {
		return nil
	}
	return new(cut(err.Error()))
}

// cut returns at most maxText characters of s.
func cut(s string) string {
	n := 0
	for i := range s {
		if n++; n > maxText {
			return s[:i] + "…"
		}
	}
	return s
}
