package lookuploop

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestStatusBeforeRun(t *testing.T) {
	loop := newLoop(t, addresses("b:4160", "a:4160"))
	require.NoError(t, loop.Notify(TopicCreated("orders"), ChannelCreated("orders", "mail"), TopicCreated("live#ephemeral")))
	status := loop.Status()
	require.Equal(t, 2, status.Topics)
	require.Equal(t, 1, status.Channels)
	require.Zero(t, status.Metadata)
	require.Len(t, status.Lookupds, 2)
	for i, address := range []string{"b:4160", "a:4160"} {
		l := status.Lookupds[i]
		require.WithinDuration(t, time.Now(), l.Since, patience)
		require.Equal(t, LookupdStatus{Address: address, Names: []string{address}, Pending: 3, Since: l.Since}, l)
	}
}

// The story of one connection, as Status tells it.
func TestStatusTellsHowALookupdIsDoing(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 1)
		s.network.SetLatency(10 * time.Millisecond)
		s.notify(TopicCreated("orders"), ChannelCreated("orders", "mail"))
		status := func() LookupdStatus {
			synctest.Wait()
			return s.loop.Status().Lookupds[0]
		}
		s.run()
		began := time.Now()
		require.Equal(t, Connecting, status().State)
		time.Sleep(40 * time.Millisecond) // dialed and identified
		connected := status()
		require.Equal(t, Connected, connected.State)
		require.Equal(t, began.Add(40*time.Millisecond), connected.Since)
		require.Equal(t, connected.Since, connected.LastHeartbeat)
		require.Equal(t, 20*time.Millisecond, connected.RTT)
		require.Equal(t, PeerInfo{4160, 4161, "1.3.0", "lookupd1.test", "lookupd1.test"}, connected.Info)
		require.Equal(t, 2, connected.Pending)
		require.EqualValues(t, 1, connected.Connects)
		require.EqualValues(t, 2, connected.Commands, "IDENTIFY, and REGISTER orders mail for both")
		time.Sleep(20 * time.Millisecond)
		require.Zero(t, status().Pending)

		time.Sleep(15 * time.Second)
		require.EqualValues(t, 3, status().Commands)
		require.Equal(t, began.Add(15*time.Second+20*time.Millisecond), status().LastHeartbeat)

		lift := s.lookupds[0].Do(lookupdtest.Refuse())
		s.lookupds[0].CloseConnections()
		time.Sleep(time.Hour)
		lost := status()
		require.NotEqual(t, Connected, lost.State)
		require.ErrorContains(t, lost.LastError, "lookuploop: lookupd1.test:4160: dial: ")
		require.Equal(t, 2, lost.Pending, "it has to be told everything again")
		require.Equal(t, connected.Info, lost.Info, "what it said of itself last stays")
		require.Greater(t, lost.Failures, uint64(100))
		require.EqualValues(t, 1, lost.Connects)
		for status().State != Disconnected {
			time.Sleep(time.Millisecond)
		}
		require.False(t, status().NextAttempt.Before(status().Since))
		require.WithinDuration(t, status().Since, status().NextAttempt, 15*time.Second)

		lift()
		s.registered()
		healed := status()
		require.Nil(t, healed.LastError)
		require.Zero(t, healed.Pending)
		require.Zero(t, healed.NextAttempt)
		require.EqualValues(t, 2, healed.Connects)

		require.NoError(t, s.end())
		ended := status()
		require.Equal(t, Disconnected, ended.State)
		require.Equal(t, time.Now(), ended.Since)
		require.Equal(t, healed.Connects, ended.Connects)
		require.Equal(t, ended.Failures, healed.Failures, "the end is no failure")
		require.Nil(t, ended.LastError)
		require.Equal(t, 1, s.loop.Status().Topics)
	})
}

func TestStatusIsASnapshot(t *testing.T) {
	loop := newLoop(t, addresses("a:4160"))
	before := loop.Status()
	require.NoError(t, loop.Notify(TopicCreated("orders")))
	require.NoError(t, loop.SetLookupdTCPAddresses([]string{"b:4160"}))
	require.Zero(t, before.Topics)
	require.Equal(t, "a:4160", before.Lookupds[0].Address)

	before.Lookupds[0].Address = "changed"
	require.Equal(t, "b:4160", loop.Status().Lookupds[0].Address)
}

func TestStatusTellsHowTheFileIsDoing(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T) {
		s := newScene(t, 0, func(o *Options) { o.DataPath = dir })
		require.Zero(t, s.loop.Status().Metadata, "nothing was opened")
		_, err := s.loop.LoadMetadata()
		require.NoError(t, err)
		path := filepath.Join(dir, "nsqd.dat")
		require.Equal(t, MetadataStatus{Path: path}, s.loop.Status().Metadata)
		s.notify(TopicCreated("orders"))
		require.Equal(t, MetadataStatus{Path: path, Dirty: true}, s.loop.Status().Metadata)
		s.run()
		require.NoError(t, s.loop.PersistMetadata(t.Context()))
		require.Equal(t, MetadataStatus{Path: path, Writes: 1, LastWrite: time.Now()}, s.loop.Status().Metadata)
		s.notify(TopicCreated("live#ephemeral"))
		require.False(t, s.loop.Status().Metadata.Dirty, "what is ephemeral doesn't belong there")
	})
}

func TestPeerInfoHasTheFieldsOfNsqlookupd(t *testing.T) {
	text := `{"tcp_port":4160,"http_port":4161,"version":"1.3.0","hostname":"h","broadcast_address":"b"}`
	var info PeerInfo
	require.NoError(t, json.Unmarshal([]byte(text), &info))
	again, err := json.Marshal(info)
	require.NoError(t, err)
	require.Equal(t, text, string(again))
	require.Equal(t, PeerInfo{TCPPort: 4160, HTTPPort: 4161, Version: "1.3.0", Hostname: "h", BroadcastAddress: "b"}, info)
}
