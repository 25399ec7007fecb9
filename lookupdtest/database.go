package lookupdtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// database is what one run of the server knows. All of it is guarded by mu.
//
// Topics and channels are kept apart because nsqlookupd does so: a channel's
// key can outlive its topic's, and keys outlive their producers.
type database struct {
	mu       sync.Mutex
	peers    registration                        // those who sent IDENTIFY
	topics   map[string]*registration            // by topic
	channels map[string]map[string]*registration // by topic, by channel
}

// registration is one key and those who produce for it.
type registration struct {
	topic, channel string
	producers      []*producer // in no order
}

// producer is one peer under one registration.
type producer struct {
	peer         *peer
	place        int       // in the registration's producers
	tombstonedAt time.Time // zero: never
}

// peer is a connection that sent IDENTIFY. It knows its registrations, so that
// its end costs what it registered and not what the database holds.
type peer struct {
	info       peerInfo // never changed
	lastUpdate time.Time
	registered map[*registration]*producer
}

// peerInfo is the body of IDENTIFY, and a producer in the answer of /lookup.
type peerInfo struct {
	RemoteAddress    string `json:"remote_address"`
	Hostname         string `json:"hostname"`
	BroadcastAddress string `json:"broadcast_address"`
	TCPPort          int    `json:"tcp_port"`
	HTTPPort         int    `json:"http_port"`
	Version          string `json:"version"`
	TopologyZone     string `json:"topology_zone"`
	TopologyRegion   string `json:"topology_region"`
}

const ephemeral = "#ephemeral"

func newDatabase() *database {
	return &database{
		topics:   make(map[string]*registration),
		channels: make(map[string]map[string]*registration),
	}
}

// identify adds a peer. body is its IDENTIFY; a body that is no good gives the
// text of the refusal.
func (db *database) identify(remote string, body []byte) (p *peer, refusal string) {
	p = &peer{registered: make(map[*registration]*producer)}
	if err := json.Unmarshal(body, &p.info); err != nil {
		return nil, "E_BAD_BODY IDENTIFY failed to decode JSON body"
	}
	if p.info.BroadcastAddress == "" || p.info.TCPPort == 0 || p.info.HTTPPort == 0 || p.info.Version == "" {
		return nil, "E_BAD_BODY IDENTIFY missing fields"
	}
	p.info.RemoteAddress = remote
	db.mu.Lock()
	defer db.mu.Unlock()
	p.lastUpdate = time.Now()
	db.peers.add(p)
	return p, ""
}

// ping keeps a peer among the active ones.
func (db *database) ping(p *peer) {
	db.mu.Lock()
	defer db.mu.Unlock()
	p.lastUpdate = time.Now()
}

// register adds p as a producer of the channel, if one is named, and the topic.
func (db *database) register(p *peer, topic, channel string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if channel != "" {
		db.channel(topic, channel).add(p)
	}
	db.topic(topic).add(p)
}

// unregister takes p from the channel or, when none is named, from the topic and
// all its channels. Keys stay, but for that of an ephemeral with no producer left;
// ephemeral channels of an unregistered topic stay too, and so does an ephemeral topic
// itself if keepTopic.
func (db *database) unregister(p *peer, topic, channel string, keepTopic bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if channel != "" {
		if r := db.channels[topic][channel]; r != nil {
			r.remove(p)
			if len(r.producers) == 0 && strings.HasSuffix(channel, ephemeral) {
				db.removeChannel(r)
			}
		}
		return
	}
	for _, r := range db.channels[topic] {
		r.remove(p)
	}
	if r := db.topics[topic]; r != nil {
		r.remove(p)
		if len(r.producers) == 0 && strings.HasSuffix(topic, ephemeral) && !keepTopic {
			db.removeTopic(r)
		}
	}
}

// forget removes a peer whose connection ended from everything. All keys stay,
// those of ephemerals too. It lets others in between.
func (db *database) forget(p *peer) {
	db.mu.Lock()
	defer db.mu.Unlock()
	removed := 0
	for r := range p.registered {
		r.remove(p)
		if removed++; removed%1000 == 0 {
			db.mu.Unlock()
			db.mu.Lock()
		}
	}
}

// create adds keys that need no producer.
func (db *database) create(topic, channel string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if channel != "" {
		db.channel(topic, channel)
	}
	db.topic(topic)
}

// deleteTopic removes a topic, its channels and their producers. "*" is all.
func (db *database) deleteTopic(topic string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, r := range db.findChannels(topic) {
		db.removeChannel(r)
	}
	for _, r := range db.findTopics(topic) {
		db.removeTopic(r)
	}
}

// deleteChannel removes a channel and its producers; false when there is none.
func (db *database) deleteChannel(topic, channel string) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	r := db.channels[topic][channel]
	if r == nil {
		return false
	}
	db.removeChannel(r)
	return true
}

// tombstone hides the topic's producers at node ("broadcast_address:http_port").
func (db *database) tombstone(topic, node string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, p := range db.findProducers(topic) {
		if fmt.Sprintf("%s:%d", p.peer.info.BroadcastAddress, p.peer.info.HTTPPort) == node {
			p.tombstonedAt = time.Now()
		}
	}
}

// The rest is called with mu held.

// topic returns a topic's registration, making it when there is none.
func (db *database) topic(topic string) *registration {
	r := db.topics[topic]
	if r == nil {
		r = &registration{topic: strings.Clone(topic)} // not the whole line that it was cut from
		db.topics[r.topic] = r
	}
	return r
}

// channel returns a channel's registration, making it when there is none.
func (db *database) channel(topic, channel string) *registration {
	r := db.channels[topic][channel]
	if r == nil {
		r = &registration{topic: strings.Clone(topic), channel: strings.Clone(channel)}
		if db.channels[topic] == nil {
			db.channels[r.topic] = make(map[string]*registration)
		}
		db.channels[r.topic][r.channel] = r
	}
	return r
}

func (db *database) removeTopic(r *registration) {
	r.clear()
	delete(db.topics, r.topic)
}

func (db *database) removeChannel(r *registration) {
	r.clear()
	delete(db.channels[r.topic], r.channel)
	if len(db.channels[r.topic]) == 0 {
		delete(db.channels, r.topic)
	}
}

// findTopics returns the registrations of a topic, by name: none, one, or all for "*".
func (db *database) findTopics(topic string) []*registration {
	var found []*registration
	if topic != "*" {
		if r := db.topics[topic]; r != nil {
			found = append(found, r)
		}
		return found
	}
	for _, r := range db.topics {
		found = append(found, r)
	}
	slices.SortFunc(found, func(a, b *registration) int { return strings.Compare(a.topic, b.topic) })
	return found
}

// findChannels returns the registrations of a topic's channels, by name; of all
// topics for "*".
func (db *database) findChannels(topic string) []*registration {
	var found []*registration
	if topic != "*" {
		for _, r := range db.channels[topic] {
			found = append(found, r)
		}
	} else {
		for _, channels := range db.channels {
			for _, r := range channels {
				found = append(found, r)
			}
		}
	}
	slices.SortFunc(found, func(a, b *registration) int { return strings.Compare(a.channel, b.channel) })
	return found
}

// findProducers returns the producers of a topic. For "*" each peer comes once.
func (db *database) findProducers(topic string) []*producer {
	var found []*producer
	seen := make(map[*peer]bool)
	for _, r := range db.findTopics(topic) {
		for _, p := range r.producers {
			if !seen[p.peer] {
				seen[p.peer] = true
				found = append(found, p)
			}
		}
	}
	return found
}

func (r *registration) add(p *peer) {
	if p.registered[r] != nil {
		return // with its tombstone: registering again doesn't lift it
	}
	pr := &producer{peer: p, place: len(r.producers)}
	p.registered[r] = pr
	r.producers = append(r.producers, pr)
}

func (r *registration) remove(p *peer) {
	pr := p.registered[r]
	if pr == nil {
		return
	}
	delete(p.registered, r)
	last := len(r.producers) - 1
	r.producers[pr.place] = r.producers[last]
	r.producers[pr.place].place = pr.place
	r.producers[last] = nil
	r.producers = r.producers[:last]
}

// clear removes all producers.
func (r *registration) clear() {
	for _, pr := range r.producers {
		delete(pr.peer.registered, r)
	}
	r.producers = nil
}

func (p *producer) tombstoned(lifetime time.Duration) bool {
	return !p.tombstonedAt.IsZero() && time.Since(p.tombstonedAt) < lifetime
}

func (p *peer) active(timeout time.Duration) bool {
	return time.Since(p.lastUpdate) <= timeout
}
