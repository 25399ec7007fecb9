package lookuploop

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/lookuploop/lookuploop/internal/wire"
)

// parsePeerInfo reads the answer to IDENTIFY of the lookupd at address; nil is
// that of one that can't describe itself.
func parsePeerInfo(address string, answer []byte) (PeerInfo, error) {
	var info PeerInfo
	if answer == nil {
		return info, nil
	}
	if err := json.Unmarshal(answer, &info); err != nil {
		return PeerInfo{}, fmt.Errorf("lookuploop: %s: %s: answer %s is no peer info: %w", address, wire.Identify, wire.Quote(answer), err)
	}
	for _, s := range []*string{&info.Version, &info.Hostname, &info.BroadcastAddress} {
		*s = clip(*s)
	}
	return info, nil
}

// clip shortens what a hostile lookupd made longer than any host name is.
func clip(s string) string {
	const longest = 255
	if len(s) > longest {
		s = strings.Clone(strings.ToValidUTF8(s[:longest], ""))
	}
	return s
}
