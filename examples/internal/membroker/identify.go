package membroker

import (
	"encoding/json"
	"time"
)

// clientInfo is what a client says about itself in IDENTIFY, and what was agreed.
type clientInfo struct {
	ClientID  string
	Hostname  string
	UserAgent string

	heartbeat  time.Duration // 0: none
	msgTimeout time.Duration
	negotiate  bool // the client wants to hear what was agreed
}

// parseIdentify reads the body of IDENTIFY. Zero values mean the default.
func parseIdentify(body []byte) (clientInfo, error) {
	var said struct {
		ClientID           string `json:"client_id"`
		Hostname           string `json:"hostname"`
		UserAgent          string `json:"user_agent"`
		FeatureNegotiation bool   `json:"feature_negotiation"`
		HeartbeatInterval  int64  `json:"heartbeat_interval"` // ms; -1: none
		MsgTimeout         int64  `json:"msg_timeout"`        // ms
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return clientInfo{}, fatalf("E_BAD_BODY", "IDENTIFY failed to decode JSON body: %v", err)
	}
	info := clientInfo{
		ClientID:  said.ClientID,
		Hostname:  said.Hostname,
		UserAgent: said.UserAgent,
		negotiate: said.FeatureNegotiation,
	}
	var err error
	if said.HeartbeatInterval != -1 {
		info.heartbeat, err = interval("heartbeat interval", said.HeartbeatInterval, defaultHeartbeat, maxHeartbeat)
		if err != nil {
			return clientInfo{}, err
		}
	}
	info.msgTimeout, err = interval("msg timeout", said.MsgTimeout, defaultMsgTimeout, maxMsgTimeout)
	return info, err
}

func interval(name string, ms int64, byDefault, longest time.Duration) (time.Duration, error) {
	if ms == 0 {
		return byDefault, nil
	}
	if ms < minInterval.Milliseconds() || ms > longest.Milliseconds() {
		return 0, fatalf("E_BAD_BODY", "IDENTIFY %s (%d) is not within %d and %d ms", name, ms, minInterval.Milliseconds(), longest.Milliseconds())
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// answer is what IDENTIFY is answered with: the agreed settings, if the client
// negotiates. TLS, compression, sampling and authorization are declined.
func (i clientInfo) answer() []byte {
	if !i.negotiate {
		return okBytes
	}
	answer, _ := json.Marshal(struct { // can't fail: numbers, flags and a constant
		MaxRdyCount         int    `json:"max_rdy_count"`
		Version             string `json:"version"`
		MaxMsgTimeout       int64  `json:"max_msg_timeout"`
		MsgTimeout          int64  `json:"msg_timeout"`
		TLSv1               bool   `json:"tls_v1"`
		Deflate             bool   `json:"deflate"`
		DeflateLevel        int    `json:"deflate_level"`
		MaxDeflateLevel     int    `json:"max_deflate_level"`
		Snappy              bool   `json:"snappy"`
		SampleRate          int    `json:"sample_rate"`
		AuthRequired        bool   `json:"auth_required"`
		OutputBufferSize    int    `json:"output_buffer_size"`
		OutputBufferTimeout int    `json:"output_buffer_timeout"` // 0: nothing waits in the buffer
	}{
		MaxRdyCount:      maxRdyCount,
		Version:          Version,
		MaxMsgTimeout:    maxMsgTimeout.Milliseconds(),
		MsgTimeout:       i.msgTimeout.Milliseconds(),
		OutputBufferSize: outputBuffer,
	})
	return answer
}
