package lookupdtest

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"

	"github.com/nsqio/go-nsq"
)

// endpoint is what answers one path of the HTTP API. The body is marshalled as JSON;
// nil is an empty one.
type endpoint struct {
	method string
	answer func(s *Server, query url.Values) (body any, fault *httpFault)
}

// httpFault is an answer that isn't 200.
type httpFault struct {
	status int
	text   string
}

var endpoints = map[string]endpoint{
	"/ping":            {"GET", nil}, // "OK", in plain text
	"/info":            {"GET", (*Server).info},
	"/topics":          {"GET", (*Server).topics},
	"/channels":        {"GET", (*Server).channels},
	"/lookup":          {"GET", (*Server).lookup},
	"/nodes":           {"GET", (*Server).nodes},
	"/debug":           {"GET", (*Server).debug},
	"/topic/create":    {"POST", (*Server).createTopic},
	"/topic/delete":    {"POST", (*Server).deleteTopic},
	"/topic/tombstone": {"POST", (*Server).tombstoneTopic},
	"/channel/create":  {"POST", (*Server).createChannel},
	"/channel/delete":  {"POST", (*Server).deleteChannel},
}

// newHTTPServer returns the HTTP side of a run, which knows its connections.
func (s *Server) newHTTPServer(r *run) *http.Server {
	var handler http.Handler = http.HandlerFunc(s.serveHTTP)
	if s.WrapHTTP != nil {
		handler = s.WrapHTTP(handler)
	}
	return &http.Server{
		Handler:  handler,
		ErrorLog: log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew: // called by the goroutine of Serve, before it starts the connection's
				r.goroutines.Add(1)
			case http.StateClosed, http.StateHijacked:
				r.goroutines.Done()
			}
		},
	}
}

// serveHTTP is the HTTP API.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	e, ok := endpoints[r.URL.Path]
	switch {
	case !ok:
		respond(w, nil, &httpFault{http.StatusNotFound, "NOT_FOUND"})
	case r.Method == http.MethodOptions:
		w.Header().Set("Allow", allow(e.method))
	case r.Method != e.method:
		w.Header().Set("Allow", allow(e.method))
		respond(w, nil, &httpFault{http.StatusMethodNotAllowed, "METHOD_NOT_ALLOWED"})
	case e.answer == nil:
		io.WriteString(w, "OK")
	default:
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			respond(w, nil, &httpFault{http.StatusBadRequest, "INVALID_REQUEST"})
			return
		}
		body, fault := e.answer(s, query)
		s.changed.fire()
		respond(w, body, fault)
	}
}

// allow is the header of that name, in alphabetical order.
func allow(method string) string {
	if method < http.MethodOptions {
		return method + ", " + http.MethodOptions
	}
	return http.MethodOptions + ", " + method
}

func respond(w http.ResponseWriter, body any, fault *httpFault) {
	status := http.StatusOK
	if fault != nil {
		status = fault.status
		body = map[string]string{"message": fault.text}
	}
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			panic(err) // strings, numbers and booleans
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
	}
	w.Header().Set("X-NSQ-Content-Type", "nsq; version=1.0")
	w.WriteHeader(status)
	w.Write(data)
}

// topicArg returns the parameter topic, whatever it is.
func topicArg(query url.Values) (topic string, fault *httpFault) {
	if !query.Has("topic") {
		return "", &httpFault{http.StatusBadRequest, "MISSING_ARG_TOPIC"}
	}
	return query.Get("topic"), nil
}

// topicChannelArgs returns the parameters topic and channel, which must be valid names.
func topicChannelArgs(query url.Values) (topic, channel string, fault *httpFault) {
	topic, fault = topicArg(query)
	switch channel = query.Get("channel"); {
	case fault != nil:
	case !nsq.IsValidTopicName(topic):
		fault = &httpFault{http.StatusBadRequest, "INVALID_ARG_TOPIC"}
	case !query.Has("channel"):
		fault = &httpFault{http.StatusBadRequest, "MISSING_ARG_CHANNEL"}
	case !nsq.IsValidChannelName(channel):
		fault = &httpFault{http.StatusBadRequest, "INVALID_ARG_CHANNEL"}
	}
	return topic, channel, fault
}

func (s *Server) info(url.Values) (any, *httpFault) {
	return map[string]string{"version": s.Version}, nil
}

func (s *Server) topics(url.Values) (any, *httpFault) {
	topics := s.Topics()
	if topics == nil {
		topics = []string{} // [], not null
	}
	return map[string][]string{"topics": topics}, nil
}

func (s *Server) channels(query url.Values) (any, *httpFault) {
	topic, fault := topicArg(query)
	if fault != nil {
		return nil, fault
	}
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	return map[string][]string{"channels": channelNames(db.findChannels(topic))}, nil
}

func (s *Server) lookup(query url.Values) (any, *httpFault) {
	topic, fault := topicArg(query)
	if fault != nil {
		return nil, fault
	}
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	if len(db.findTopics(topic)) == 0 {
		return nil, &httpFault{http.StatusNotFound, "TOPIC_NOT_FOUND"}
	}
	producers := []peerInfo{}
	for _, p := range db.findProducers(topic) {
		if p.peer.active(s.InactiveProducerTimeout) && !p.tombstoned(s.TombstoneLifetime) {
			producers = append(producers, p.peer.info)
		}
	}
	return map[string]any{"channels": channelNames(db.findChannels(topic)), "producers": producers}, nil
}

// node is a peer in the answer of /nodes; Tombstones go with Topics.
type node struct {
	peerInfo
	Tombstones []bool   `json:"tombstones"`
	Topics     []string `json:"topics"`
}

func (s *Server) nodes(url.Values) (any, *httpFault) {
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	nodes := []node{}
	for _, client := range db.peers.producers {
		p := client.peer
		if !p.active(s.InactiveProducerTimeout) {
			continue
		}
		n := node{peerInfo: p.info, Tombstones: []bool{}, Topics: []string{}}
		for r := range p.registered {
			if r.topic != "" && r.channel == "" {
				n.Topics = append(n.Topics, r.topic)
			}
		}
		slices.Sort(n.Topics)
		for _, topic := range n.Topics {
			n.Tombstones = append(n.Tombstones, p.registered[db.topics[topic]].tombstoned(s.TombstoneLifetime))
		}
		nodes = append(nodes, n)
	}
	return map[string][]node{"producers": nodes}, nil
}

func (s *Server) debug(url.Values) (any, *httpFault) {
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	data := make(map[string][]map[string]any)
	add := func(key string, r *registration) {
		for _, p := range r.producers {
			data[key] = append(data[key], map[string]any{
				"id":                p.peer.info.RemoteAddress,
				"hostname":          p.peer.info.Hostname,
				"broadcast_address": p.peer.info.BroadcastAddress,
				"tcp_port":          p.peer.info.TCPPort,
				"http_port":         p.peer.info.HTTPPort,
				"version":           p.peer.info.Version,
				"topology_zone":     p.peer.info.TopologyZone,
				"topology_region":   p.peer.info.TopologyRegion,
				"last_update":       p.peer.lastUpdate.UnixNano(),
				"tombstoned":        !p.tombstonedAt.IsZero(),
				"tombstoned_at":     p.tombstonedAt.UnixNano(),
			})
		}
	}
	add("client::", &db.peers)
	for topic, r := range db.topics {
		add("topic:"+topic+":", r)
	}
	for topic, channels := range db.channels {
		for channel, r := range channels {
			add("channel:"+topic+":"+channel, r)
		}
	}
	return data, nil
}

func (s *Server) createTopic(query url.Values) (any, *httpFault) {
	topic, fault := topicArg(query)
	if fault != nil {
		return nil, fault
	}
	if !nsq.IsValidTopicName(topic) {
		return nil, &httpFault{http.StatusBadRequest, "INVALID_ARG_TOPIC"}
	}
	s.database().create(topic, "")
	return nil, nil
}

func (s *Server) deleteTopic(query url.Values) (any, *httpFault) {
	topic, fault := topicArg(query)
	if fault != nil {
		return nil, fault
	}
	s.database().deleteTopic(topic)
	return nil, nil
}

func (s *Server) tombstoneTopic(query url.Values) (any, *httpFault) {
	topic, fault := topicArg(query)
	if fault != nil {
		return nil, fault
	}
	if !query.Has("node") {
		return nil, &httpFault{http.StatusBadRequest, "MISSING_ARG_NODE"}
	}
	s.database().tombstone(topic, query.Get("node"))
	return nil, nil
}

func (s *Server) createChannel(query url.Values) (any, *httpFault) {
	topic, channel, fault := topicChannelArgs(query)
	if fault != nil {
		return nil, fault
	}
	s.database().create(topic, channel)
	return nil, nil
}

func (s *Server) deleteChannel(query url.Values) (any, *httpFault) {
	topic, channel, fault := topicChannelArgs(query)
	if fault != nil {
		return nil, fault
	}
	if !s.database().deleteChannel(topic, channel) {
		return nil, &httpFault{http.StatusNotFound, "CHANNEL_NOT_FOUND"}
	}
	return nil, nil
}

func channelNames(registrations []*registration) []string {
	names := make([]string, len(registrations))
	for i, r := range registrations {
		names[i] = r.channel
	}
	return names
}
