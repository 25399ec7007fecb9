package main_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
)

// singleClient is what the Loop is measured against: it talks to lookupd as
// nsqd does, one command at a time, each written straight to the connection,
// with a deadline for each Read and Write.
type singleClient struct{ conn net.Conn }

func (c singleClient) Read(p []byte) (int, error) {
	c.conn.SetReadDeadline(time.Now().Add(patience))
	return c.conn.Read(p)
}

func (c singleClient) Write(p []byte) (int, error) {
	c.conn.SetWriteDeadline(time.Now().Add(patience))
	return c.conn.Write(p)
}

// do sends a command and waits for its answer.
func (c singleClient) do(b testing.TB, cmd *nsq.Command) []byte {
	_, err := cmd.WriteTo(c)
	require.NoError(b, err)
	var size int32
	require.NoError(b, binary.Read(c, binary.BigEndian, &size))
	answer := make([]byte, size)
	_, err = io.ReadFull(c, answer)
	require.NoError(b, err)
	return answer
}

// register registers a channel and expects that this works.
func (c singleClient) register(b testing.TB, topic, channel string) {
	if answer := c.do(b, nsq.Register(topic, channel)); string(answer) != "OK" {
		require.Equal(b, "OK", string(answer))
	}
}

// dialSingle connects and identifies.
func dialSingle(b testing.TB, address string) singleClient {
	conn, err := net.Dial("tcp", address)
	require.NoError(b, err)
	c := singleClient{conn}
	_, err = c.Write(nsq.MagicV1)
	require.NoError(b, err)
	cmd, err := nsq.Identify(map[string]any{
		"broadcast_address": "broker.test",
		"hostname":          "broker-host",
		"tcp_port":          4150,
		"http_port":         4151,
		"version":           "0.1.0",
	})
	require.NoError(b, err)
	require.Contains(b, string(c.do(b, cmd)), "broadcast_address")
	return c
}

// rawCommands are the bytes that announce m.
func rawCommands(m lookuploop.Metadata) []byte {
	var encoded bytes.Buffer
	for _, t := range m.Topics {
		for _, c := range t.Channels {
			nsq.Register(t.Name, c.Name).WriteTo(&encoded)
		}
	}
	return encoded.Bytes()
}

// sendRaw is as fast as it gets: bytes that were made before are written at
// once, and n answers are read without a look at them.
func sendRaw(b testing.TB, address string, commands []byte, n int) {
	c := dialSingle(b, address)
	defer c.conn.Close()
	c.conn.SetDeadline(time.Now().Add(patience))
	written := make(chan error, 1)
	go func() {
		_, err := c.conn.Write(commands)
		written <- err
	}()
	_, err := io.CopyN(discard{}, c.conn, int64(n*len("\x00\x00\x00\x02OK")))
	require.NoError(b, err)
	require.NoError(b, <-written)
}

// discard is io.Discard, but for the small buffer that io.Discard reads into.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// brokerMap is the least that a broker could do itself: the channels of each
// topic in a map, and a lock.
type brokerMap struct {
	mu     sync.Mutex
	topics map[string]map[string]bool
}

// newBrokerMap has what m has, and shares no name with it.
func newBrokerMap(m lookuploop.Metadata) *brokerMap {
	names := &brokerMap{topics: make(map[string]map[string]bool)}
	for _, t := range m.Topics {
		topic := strings.Clone(t.Name)
		names.createTopic(topic)
		for _, c := range t.Channels {
			names.createChannel(topic, strings.Clone(c.Name))
		}
	}
	return names
}

func (m *brokerMap) createTopic(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.topics[topic] == nil {
		m.topics[topic] = make(map[string]bool)
	}
}

func (m *brokerMap) createChannel(topic, channel string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if channels := m.topics[topic]; channels != nil {
		channels[channel] = true
	}
}

func (m *brokerMap) deleteTopic(topic string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.topics, topic)
}
