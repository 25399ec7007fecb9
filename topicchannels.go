package lookuploop

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nsqio/go-nsq"

	"github.com/lookuploop/lookuploop/internal/listing"
	"github.com/lookuploop/lookuploop/internal/registry"
)

// newHTTPClient makes the default client: nsqlookupds are asked directly, and
// what they answer is not followed elsewhere. Their headers may be as long as the
// answer itself, but don't have to be shorter than usual.
func newHTTPClient(timeout time.Duration, maxResponseSize int) *http.Client {
	return &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext, // a request that ends doesn't end the dial
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: int64(max(maxResponseSize, 4096)),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// TopicChannels returns the channels that a topic has at any broker, so that this
// broker can create them before the topic's first message, as nsqd does. It waits for
// the network: don't hold the lock that guards Notify, and check afterwards that the
// topic still exists. It asks every nsqlookupd whose HTTP address is known, unless it
// hangs, and returns the union of the answers, sorted, without ephemeral channels. If
// some nsqlookupds fail, it returns the answers of the others and the joined errors.
// If there is none to ask, the error is [ErrNotConnected]. Once Run's context has
// ended it is [ErrClosed].
//
// The requests go to the broadcast address and HTTP port that an nsqlookupd gave when
// it identified itself, or to the host of its TCP address if it gave none. They are
// bounded by ctx and by HTTPClient of [Options].
func (l *Loop) TopicChannels(ctx context.Context, topic string) ([]string, error) {
	if !nsq.IsValidTopicName(topic) {
		return nil, fmt.Errorf("%w: topic %q: %s", ErrInvalidName, topic, registry.NameRule)
	}
	if l.hasEnded() {
		return nil, ErrClosed
	}
	type answer struct {
		channels []string
		err      error
	}
	var asked []chan answer
	for _, p := range l.lookupPeers() {
		if s := p.state.Load(); s.mayAnswer() {
			result := make(chan answer, 1)
			go func() {
				channels, err := l.askChannels(ctx, p.address, s.info, topic)
				result <- answer{channels, err}
			}()
			asked = append(asked, result)
		}
	}
	if len(asked) == 0 {
		return nil, fmt.Errorf("%w: no channels of topic %s", ErrNotConnected, topic)
	}
	union := make(map[string]bool)
	var errs []error
	for _, result := range asked {
		a := <-result
		errs = append(errs, a.err)
		for _, name := range a.channels {
			if nsq.IsValidChannelName(name) && !strings.HasSuffix(name, registry.EphemeralSuffix) {
				union[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(union)), errors.Join(errs...)
}

// mayAnswer tells whether it is known where lookupd can be asked by HTTP, and
// that it doesn't hang. There may be no connection: nsqd asks then, too.
func (s *peerState) mayAnswer() bool {
	return s.state == Connected || s.info.HTTPPort != 0 && !s.isHanging
}

// askChannels asks one lookupd.
func (l *Loop) askChannels(ctx context.Context, address string, info PeerInfo, topic string) ([]string, error) {
	httpAddress, err := httpAddress(address, info)
	if err != nil {
		return nil, fmt.Errorf("lookuploop: %s: channels of topic %s: %w", address, topic, err)
	}
	client := l.listingClient()
	channels, err := client.Channels(ctx, httpAddress, topic)
	if err != nil {
		return nil, fromNetwork(fmt.Errorf("lookuploop: %s: channels of topic %s: %w", address, topic, aboutHost(info, err)))
	}
	return channels, nil
}

// aboutHost says where the host comes from if a request failed because of its name.
func aboutHost(info PeerInfo, err error) error {
	if _, isDNS := errors.AsType[*net.DNSError](err); isDNS && info.BroadcastAddress != "" {
		return fmt.Errorf("%w (the lookupd announced this host for HTTP: correct its -broadcast-address, or DNS)", err)
	}
	return err
}

// listingClient asks lookupds by HTTP.
func (l *Loop) listingClient() listing.Client {
	return listing.Client{HTTP: l.opts.HTTPClient, MaxResponseSize: l.opts.MaxResponseSize}
}

// httpAddress returns where the lookupd at address answers HTTP.
func httpAddress(address string, info PeerInfo) (string, error) {
	host := info.BroadcastAddress
	if host == "" {
		host, _, _ = net.SplitHostPort(address)
	}
	if info.HTTPPort < 1 || info.HTTPPort > 65535 {
		return "", fmt.Errorf("it gave no usable HTTP port (%d) when it identified itself", info.HTTPPort)
	}
	return net.JoinHostPort(host, strconv.Itoa(info.HTTPPort)), nil
}
