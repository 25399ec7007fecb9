package lookuploop_test

import (
	"testing"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/stretchr/testify/require"
)

// To drain is to leave discovery and serve on; coming back restores all.
func TestDrainLeavesDiscoveryUntilAddressesAreSetAgain(t *testing.T) {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	require.NoError(t, loop.Notify(
		lookuploop.TopicCreated("orders"),
		lookuploop.ChannelCreated("orders", "mail"),
		lookuploop.ChannelCreated("orders", "tail#ephemeral"),
	))
	require.NoError(t, loop.WaitRegistered(t.Context(), 0))

	require.NoError(t, loop.SetLookupdTCPAddresses(nil))
	require.NoError(t, lookupd.Wait(t.Context(), func() bool { return lookupd.Connections() == 0 }))
	require.Empty(t, lookupd.Producers("orders", ""), "gone with the connection")
	require.Equal(t, []string{"mail"}, lookupd.Channels("orders"), "what is ephemeral was unregistered, name and all")
	require.Empty(t, loop.Status().Lookupds)
	require.NoError(t, loop.Notify(lookuploop.TopicCreated("meanwhile")), "the broker serves on")

	require.NoError(t, loop.SetLookupdTCPAddresses([]string{lookupd.TCPAddress}))
	require.NoError(t, loop.WaitRegistered(t.Context(), 0))
	for topic, channel := range map[string]string{"orders": "tail#ephemeral", "meanwhile": ""} {
		require.Equal(t, []string{"broker.example.com:4150"}, lookupd.Producers(topic, channel))
	}
	require.NoError(t, stop())
}
