package lookuploop

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestIdentifyTakesAnyPeerInfoAndNothingElse(t *testing.T) {
	for name, tt := range map[string]struct {
		answer lookupdtest.Order
		info   PeerInfo
		want   string // error; empty: none
	}{
		"all": {
			lookupdtest.Reply(`{"tcp_port":1,"http_port":2,"version":"v","hostname":"h","broadcast_address":"b","new":[]}`),
			PeerInfo{TCPPort: 1, HTTPPort: 2, Version: "v", Hostname: "h", BroadcastAddress: "b"}, "",
		},
		"nothing":    {lookupdtest.Reply(`{}`), PeerInfo{}, ""},
		"OK":         {lookupdtest.Reply("OK"), PeerInfo{}, ""}, // of a lookupd that can't describe itself
		"no JSON":    {lookupdtest.Reply("hello"), PeerInfo{}, `answer "hello" is no peer info`},
		"other JSON": {lookupdtest.Reply(`{"tcp_port":"1"}`), PeerInfo{}, `answer "{\"tcp_port\":\"1\"}" is no peer info`},
		"an error":   {lookupdtest.Reject("E_BAD_BODY no port"), PeerInfo{}, "E_BAD_BODY no port"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newScene(t, 1)
				s.lookupds[0].Do(lookupdtest.On("IDENTIFY", tt.answer))
				s.run()
				if tt.want == "" {
					s.registered()
					require.Equal(t, tt.info, s.status(1).Info)
					return
				}
				synctest.Wait()
				require.Equal(t, PeerInfo{}, s.status(1).Info)
				require.ErrorContains(t, s.status(1).LastError, "lookuploop: lookupd1.test:4160: IDENTIFY: "+tt.want)
				require.Zero(t, s.status(1).LastHeartbeat)
			})
		})
	}
}

func FuzzPeerInfo(f *testing.F) {
	f.Fuzz(func(t *testing.T, answer []byte) {
		info, err := parsePeerInfo("lookupd.test:4160", answer)
		if err != nil {
			require.Zero(t, info)
			require.True(t, strings.HasPrefix(err.Error(), "lookuploop: lookupd.test:4160: IDENTIFY: answer "), err)
			require.Less(t, len(err.Error()), 1024, "an error is no place for a whole answer")
		}
		for _, text := range []string{info.Version, info.Hostname, info.BroadcastAddress} {
			require.LessOrEqual(t, len(text), 255)
		}
	})
}
