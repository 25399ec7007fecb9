package listing

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strconv"
)

// Producer is who a broker says it is: to a lookupd, which shows it to
// consumers, or to us.
type Producer struct {
	RemoteAddress    string `json:"remote_address,omitempty"` // of its connection, as the lookupd sees it
	Hostname         string `json:"hostname"`
	BroadcastAddress string `json:"broadcast_address"`
	TCPPort          int    `json:"tcp_port"`
	HTTPPort         int    `json:"http_port"`
	Version          string `json:"version"`
}

// Address returns where consumers are sent.
func (p Producer) Address() string {
	return net.JoinHostPort(p.BroadcastAddress, strconv.Itoa(p.TCPPort))
}

// HTTPAddress returns where nsqadmin looks for the broker's HTTP API.
func (p Producer) HTTPAddress() string {
	return net.JoinHostPort(p.BroadcastAddress, strconv.Itoa(p.HTTPPort))
}

func (p *Producer) clean() {
	for _, s := range []*string{&p.RemoteAddress, &p.Hostname, &p.BroadcastAddress, &p.Version} {
		*s = clean(*s)
	}
}

// Node is one connection of a broker to a lookupd.
type Node struct {
	Producer
	Topics map[string]bool // by topic, whether it is tombstoned there
}

// Topic is what a consumer learns of a topic.
type Topic struct {
	Known     bool
	Channels  []string   // of all brokers, and of those that are gone
	Producers []Producer // without those that are tombstoned or silent
}

// Lookup asks a lookupd who has a topic, as consumers do.
func (c *Client) Lookup(ctx context.Context, lookupd, topic string) (Topic, error) {
	var answer Topic
	err := c.get(ctx, lookupd, "/lookup", url.Values{"topic": {topic}}, c.MaxResponseSize, &answer)
	if fault := new(statusError); errors.As(err, &fault) && fault.message == "TOPIC_NOT_FOUND" {
		return Topic{}, nil
	}
	if err != nil {
		return Topic{}, err
	}
	for i := range answer.Producers {
		answer.Producers[i].clean()
	}
	return Topic{true, cleanAll(answer.Channels), answer.Producers}, nil
}

// Nodes asks a lookupd for all connections of brokers that it has. It is costly:
// nsqlookupd looks at each of its registrations for each broker.
func (c *Client) Nodes(ctx context.Context, lookupd string) ([]Node, error) {
	var answer struct {
		Producers []struct {
			Producer
			Topics     []string
			Tombstones []bool
		}
	}
	if err := c.get(ctx, lookupd, "/nodes", nil, manyMore*c.MaxResponseSize, &answer); err != nil {
		return nil, err
	}
	nodes := []Node{}
	for _, p := range answer.Producers {
		p.clean()
		n := Node{p.Producer, make(map[string]bool, len(p.Topics))}
		for i, topic := range cleanAll(p.Topics) {
			n.Topics[topic] = i < len(p.Tombstones) && p.Tombstones[i]
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// Topics asks a lookupd for the names of all topics it knows.
func (c *Client) Topics(ctx context.Context, lookupd string) ([]string, error) {
	var answer struct{ Topics []string }
	err := c.get(ctx, lookupd, "/topics", nil, manyMore*c.MaxResponseSize, &answer)
	return cleanAll(answer.Topics), err
}

// Channels asks a lookupd which channels a topic has anywhere.
func (c *Client) Channels(ctx context.Context, lookupd, topic string) ([]string, error) {
	var answer struct{ Channels []string }
	err := c.get(ctx, lookupd, "/channels", url.Values{"topic": {topic}}, c.MaxResponseSize, &answer)
	return cleanAll(answer.Channels), err
}

// Version asks a lookupd for its version.
func (c *Client) Version(ctx context.Context, lookupd string) (string, error) {
	var answer struct{ Version string }
	err := c.get(ctx, lookupd, "/info", nil, c.MaxResponseSize, &answer)
	return clean(answer.Version), err
}
