package membroker

import (
	"cmp"
	"maps"
	"slices"
)

// stats is the answer to /stats?format=json: as much of nsqd's as nsqadmin and
// NSQ's command line tools read. backend_depth is what nsqd has on disk: nothing here.
type stats struct {
	Version   string       `json:"version"`
	Health    string       `json:"health"`
	StartTime int64        `json:"start_time"`
	Topics    []topicStats `json:"topics"`
}

type topicStats struct {
	TopicName    string         `json:"topic_name"`
	Channels     []channelStats `json:"channels"`
	Depth        int            `json:"depth"`
	BackendDepth int            `json:"backend_depth"`
	MessageCount uint64         `json:"message_count"`
	MessageBytes uint64         `json:"message_bytes"`
	Paused       bool           `json:"paused"`
	Latency      latency        `json:"e2e_processing_latency"`
}

type channelStats struct {
	ChannelName   string        `json:"channel_name"`
	Depth         int           `json:"depth"`
	BackendDepth  int           `json:"backend_depth"`
	InFlightCount int           `json:"in_flight_count"`
	DeferredCount int           `json:"deferred_count"`
	MessageCount  uint64        `json:"message_count"`
	RequeueCount  uint64        `json:"requeue_count"`
	TimeoutCount  uint64        `json:"timeout_count"`
	ClientCount   int           `json:"client_count"`
	Clients       []clientStats `json:"clients"`
	Paused        bool          `json:"paused"`
	Latency       latency       `json:"e2e_processing_latency"`
}

type clientStats struct {
	ClientID      string `json:"client_id"`
	Hostname      string `json:"hostname"`
	Version       string `json:"version"`
	RemoteAddress string `json:"remote_address"`
	State         int    `json:"state"`
	ReadyCount    int    `json:"ready_count"`
	InFlightCount int    `json:"in_flight_count"`
	MessageCount  uint64 `json:"message_count"`
	FinishCount   uint64 `json:"finish_count"`
	RequeueCount  uint64 `json:"requeue_count"`
	ConnectTime   int64  `json:"connect_ts"`
	UserAgent     string `json:"user_agent"`
}

// The states of a consumer as nsqd counts them.
const (
	stateSubscribed = 3
	stateClosing    = 4
)

// latency is never measured, but nsqadmin crashes without it.
type latency struct {
	Count       int        `json:"count"`
	Percentiles []struct{} `json:"percentiles"`
}

// stats describes the named topic and channel, or all where a name is empty.
func (b *Broker) stats(topicName, channelName string, withClients bool) stats {
	s := stats{Version: Version, Health: "OK", StartTime: b.started.Unix(), Topics: []topicStats{}}
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, name := range slices.Sorted(maps.Keys(b.topics)) {
		if topicName == "" || topicName == name {
			s.Topics = append(s.Topics, b.topics[name].stats(channelName, withClients))
		}
	}
	return s
}

// stats is called with Broker.mu held for reading.
func (t *topic) stats(channelName string, withClients bool) topicStats {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := topicStats{
		TopicName:    t.name,
		Channels:     []channelStats{},
		Depth:        len(t.backlog),
		MessageCount: t.messageCount,
		MessageBytes: t.messageBytes,
		Paused:       t.paused,
	}
	for _, name := range slices.Sorted(maps.Keys(t.channels)) {
		if channelName == "" || channelName == name {
			s.Channels = append(s.Channels, t.channels[name].stats(withClients))
		}
	}
	return s
}

func (c *channel) stats(withClients bool) channelStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := channelStats{
		ChannelName:   c.name,
		Depth:         len(c.ready),
		InFlightCount: len(c.inFlight),
		DeferredCount: len(c.waiting) - len(c.inFlight),
		MessageCount:  c.messageCount,
		RequeueCount:  c.requeueCount,
		TimeoutCount:  c.timeoutCount,
		ClientCount:   len(c.consumers),
		Clients:       []clientStats{},
		Paused:        c.paused,
	}
	if !withClients {
		return s
	}
	for consumer := range c.consumers {
		s.Clients = append(s.Clients, consumer.stats())
	}
	slices.SortFunc(s.Clients, func(x, y clientStats) int { return cmp.Compare(x.RemoteAddress, y.RemoteAddress) })
	return s
}

// stats is called with channel.mu held.
func (s *consumer) stats() clientStats {
	state := stateSubscribed
	if s.closing {
		state = stateClosing
	}
	return clientStats{
		ClientID:      s.client.ClientID,
		Hostname:      s.client.Hostname,
		Version:       "V2",
		RemoteAddress: s.address,
		State:         state,
		ReadyCount:    s.rdy,
		InFlightCount: s.inFlight,
		MessageCount:  s.messageCount,
		FinishCount:   s.finishCount,
		RequeueCount:  s.requeueCount,
		ConnectTime:   s.since.Unix(),
		UserAgent:     s.client.UserAgent,
	}
}
