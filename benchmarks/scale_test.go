package main_test

import (
	"flag"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/internal/wire"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

var (
	scaleLookupds      = flag.Int("scale.lookupds", 10, "how many lookupds TestScale has")
	scaleRegistrations = flag.Int("scale.registrations", 2000, "how many topics TestScale has")
)

// TestScale lets lookupds that are 50 ms away learn everything. Time is
// virtual and the lookupds take none of it, so it counts round trips: two to
// connect, and those in which the window of commands in flight grows.
func TestScale(t *testing.T) {
	start, before := time.Now(), liveMemory()
	inBubble(t, func(t *testing.T) {
		const roundTrip = 50 * time.Millisecond
		network := lookupdtest.NewNetwork()
		network.SetLatency(roundTrip / 2)
		network.SetBuffer(1 << 20)
		var lookupds []*lookupdtest.Server
		loop := newLoop(t, func(o *lookuploop.Options) {
			o.Dial = network.Dial
			for i := range *scaleLookupds {
				lookupd := network.NewServer(fmt.Sprintf("lookupd%d.test:4160", i+1))
				t.Cleanup(lookupd.Close)
				if i > 0 { // the first keeps what it is told, the others would take much memory
					lookupd.Do(lookupdtest.On("REGISTER", lookupdtest.Reply("OK")))
				}
				lookupds = append(lookupds, lookupd)
				o.LookupdTCPAddresses = append(o.LookupdTCPAddresses, lookupd.TCPAddress)
			}
		})
		m := someMetadata(*scaleRegistrations)
		for i := range m.Topics {
			m.Topics[i].Channels = nil
		}
		require.NoError(t, loop.SetMetadata(m))
		began := time.Now()
		defer run(t, loop)()
		registered(t, loop, 0)
		took := time.Since(began)

		require.Len(t, lookupds[0].Topics(), *scaleRegistrations)
		trips := 2 + windows(*scaleRegistrations)
		require.LessOrEqual(t, took, time.Duration(trips+1)*roundTrip)
		t.Attr("lookupds", fmt.Sprint(*scaleLookupds))
		t.Attr("registrations", fmt.Sprint(*scaleRegistrations))
		t.Attr("virtual", took.String())
		t.Attr("round-trips", fmt.Sprintf("%.1f", float64(took)/float64(roundTrip)))
		t.Attr("memory", fmt.Sprint(liveMemory()-before))
		runtime.KeepAlive(m)
	})
	t.Attr("real", time.Since(start).String())
}

// windows is in how many round trips n commands are sent, as the window grows
// by each answer.
func windows(n int) (trips int) {
	for window := wire.FirstWindow; n > 0; window = min(2*window, wire.MaxWindow) {
		n -= window
		trips++
	}
	return trips
}
