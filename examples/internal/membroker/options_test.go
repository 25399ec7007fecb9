package membroker

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefaults(t *testing.T) {
	got, err := Options{}.withDefaults()
	require.NoError(t, err)
	require.Equal(t, Options{
		TCPAddress:       "127.0.0.1:4150",
		HTTPAddress:      "127.0.0.1:4151",
		BroadcastAddress: "127.0.0.1",
		MemQueueSize:     10_000,
		MaxConnections:   10_000,
		Logger:           slog.Default(),
	}, got)
}

func TestBroadcastAddressIsOneThatClientsReach(t *testing.T) {
	hostname, err := os.Hostname()
	require.NoError(t, err)
	for address, want := range map[string]string{
		"192.0.2.1:4150": "192.0.2.1", "[2001:db8::1]:4150": "2001:db8::1", "broker.example:4150": "broker.example",
		":4150": hostname, "0.0.0.0:4150": hostname, "[::]:4150": hostname,
	} {
		got, err := Options{TCPAddress: address}.withDefaults()
		require.NoError(t, err)
		require.Equal(t, want, got.BroadcastAddress, address)
	}
}

func TestFaultyOptions(t *testing.T) {
	_, err := New(Options{TCPAddress: "nowhere", MemQueueSize: -1, MaxConnections: -1})
	require.ErrorContains(t, err, "tcp address")
	require.ErrorContains(t, err, "mem queue size -1")
	require.ErrorContains(t, err, "max connections -1")
}

func TestNewClosesWhatItOpened(t *testing.T) {
	b := start(t, Options{})
	require.NoError(t, b.stop())
	_, err := New(Options{TCPAddress: b.TCPAddress(), HTTPAddress: b.HTTPAddress(), LookupdTCPAddresses: []string{"nowhere"}})
	require.ErrorContains(t, err, "nowhere")
	again, err := New(Options{TCPAddress: b.TCPAddress(), HTTPAddress: b.HTTPAddress()})
	require.NoError(t, err, "the ports are free")

	_, err = New(Options{TCPAddress: "127.0.0.1:0", HTTPAddress: b.HTTPAddress()})
	require.ErrorContains(t, err, "membroker: listen tcp")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, again.Run(ended), "Run with an ended context just closes")
}
