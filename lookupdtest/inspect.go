package lookupdtest

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Topics returns the topics that the server knows, sorted. Like nsqlookupd, it keeps
// topics whose producers are gone.
func (s *Server) Topics() []string {
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.Sorted(maps.Keys(db.topics))
}

// Channels returns the channels of a topic that the server knows, sorted.
func (s *Server) Channels(topic string) []string {
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	return slices.Sorted(maps.Keys(db.channels[topic]))
}

// Producers returns the producers of a channel, or of the topic if channel is "", as
// "broadcast_address:tcp_port", sorted. There is one for each connection that registered,
// until it unregisters or ends. Tombstoned and inactive producers are included. A node
// with two connections appears twice.
func (s *Server) Producers(topic, channel string) []string {
	db := s.database()
	db.mu.Lock()
	defer db.mu.Unlock()
	r := db.topics[topic]
	if channel != "" {
		r = db.channels[topic][channel]
	}
	if r == nil {
		return nil
	}
	var found []string
	for _, p := range r.producers {
		found = append(found, net.JoinHostPort(p.peer.info.BroadcastAddress, strconv.Itoa(p.peer.info.TCPPort)))
	}
	slices.Sort(found)
	return found
}

// Connections returns the number of connections to the TCP port.
func (s *Server) Connections() int {
	s.made()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Wait waits until cond returns true. It calls cond at once, and again after each change
// that cond may depend on: a command, an HTTP request, the start or end of a connection,
// an order that was given, has acted or was lifted, Start and Stop. cond is called from
// the goroutine that called Wait, with no lock held. If ctx ends first, the error wraps
// ctx.Err() and says what the server knows.
func (s *Server) Wait(ctx context.Context, cond func() bool) error {
	s.made()
	for {
		changed := s.changed.next()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("lookupdtest: %s: the condition that was waited for did not come true: %w; the server %s",
				s.TCPAddress, ctx.Err(), s.summary())
		}
	}
}

// summary says what there is, for those who expected something else.
func (s *Server) summary() string {
	s.mu.Lock()
	running := s.conns != nil
	s.mu.Unlock()
	if !running {
		return "is stopped"
	}
	var registered []string
	for _, topic := range s.Topics() {
		registered = append(registered, fmt.Sprintf("%s by [%s]", topic, list(s.Producers(topic, ""))))
		for _, channel := range s.Channels(topic) {
			registered = append(registered, fmt.Sprintf("%s %s by [%s]", topic, channel, list(s.Producers(topic, channel))))
		}
	}
	return fmt.Sprintf("has connections: %d, standing orders: %d, registered: %s",
		s.Connections(), len(s.standing()), list(registered))
}

// listed is how much of a list an error shows.
const listed = 10

// list returns items for people to read.
func list(items []string) string {
	if len(items) == 0 {
		return "none"
	}
	if more := len(items) - listed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(items[:listed], ", "), more)
	}
	return strings.Join(items, ", ")
}

// database returns that of the present run, an empty one when the server is stopped.
func (s *Server) database() *database {
	s.made()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.db
}
