package listing

import (
	"context"
	"errors"
	"net/url"
)

// Broker is what a broker says of itself.
type Broker struct {
	Producer
	Topics map[string][]string // its channels, by topic
}

// Broker asks a broker for what it has, by the HTTP API of nsqd.
func (c *Client) Broker(ctx context.Context, address string) (Broker, error) {
	var b Broker
	if err := c.get(ctx, address, "/info", nil, c.MaxResponseSize, &b.Producer); err != nil {
		return Broker{}, err
	}
	if b.BroadcastAddress == "" {
		return Broker{}, errors.New("its /info has no broadcast_address, so it isn't a broker")
	}
	b.clean()
	// /info has the ports that nsqd listens at. Since 1.2.1 it can announce others.
	c.option(ctx, address, "broadcast_tcp_port", &b.TCPPort)
	c.option(ctx, address, "broadcast_http_port", &b.HTTPPort)

	var stats struct {
		Topics []struct {
			Name     string `json:"topic_name"`
			Channels []struct {
				Name string `json:"channel_name"`
			}
		}
	}
	query := url.Values{"format": {"json"}, "include_clients": {"false"}, "include_mem": {"false"}}
	if err := c.get(ctx, address, "/stats", query, manyMore*c.MaxResponseSize, &stats); err != nil {
		return Broker{}, err
	}
	b.Topics = make(map[string][]string, len(stats.Topics))
	for _, t := range stats.Topics {
		channels := make([]string, 0, len(t.Channels))
		for _, channel := range t.Channels {
			channels = append(channels, clean(channel.Name))
		}
		b.Topics[clean(t.Name)] = channels
	}
	return b, nil
}

// option asks nsqd for the value of a flag. Where there is no such flag, the
// value stays.
func (c *Client) option(ctx context.Context, address, name string, value *int) {
	var answer int
	if err := c.get(ctx, address, "/config/"+name, nil, c.MaxResponseSize, &answer); err == nil && answer > 0 {
		*value = answer
	}
}
