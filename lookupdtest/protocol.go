package lookupdtest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/nsqio/go-nsq"
)

// What a client may send at most. nsqlookupd has no such limits: it takes lines and
// bodies of any size, and ends when a size is negative.
const (
	maxLine = 4096    // of a command with its newline; also how far the server reads ahead
	maxBody = 1 << 20 // of IDENTIFY
)

// A Command is a command that the server read.
type Command struct {
	RemoteAddr string   // client's end of the connection
	Name       string   // "IDENTIFY", "REGISTER", …, or whatever the client sent
	Params     []string // all of them, including superfluous ones
	Body       []byte   // only of IDENTIFY

	refusal string // what is wrong with it already; empty: nothing
}

// String returns the command line as it was sent, without the body.
func (c Command) String() string {
	return strings.Join(append([]string{c.Name}, c.Params...), " ")
}

// matches says whether the command begins with words that match the patterns.
func (c Command) matches(patterns []string) bool {
	if len(patterns) > 1+len(c.Params) {
		return false
	}
	for i, pattern := range patterns {
		word := c.Name
		if i > 0 {
			word = c.Params[i-1]
		}
		if matched, _ := path.Match(pattern, word); !matched && pattern != "*" { // to path.Match "*" isn't "a/b"
			return false
		}
	}
	return true
}

// parseCommand takes a line apart as nsqlookupd does: white space of any kind at both
// ends doesn't count, one space parts the words, two make an empty word between them.
func parseCommand(line []byte) Command {
	words := strings.Split(string(bytes.TrimSpace(line)), " ")
	return Command{Name: words[0], Params: words[1:]}
}

// readCommand reads the next command, with its body if a body is due: only the
// first IDENTIFY of a connection has one as far as nsqlookupd is concerned.
func readCommand(r *bufio.Reader, identified bool) (Command, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return Command{refusal: "E_INVALID command too long"}, nil
	}
	if err != nil {
		return Command{}, err
	}
	cmd := parseCommand(line)
	if cmd.Name == "IDENTIFY" && !identified {
		cmd.Body, cmd.refusal, err = readBody(r)
	}
	return cmd, err
}

// readBody reads the body of IDENTIFY. A client that ends before its body does gets an
// answer, as it can have closed its sending side only.
func readBody(r *bufio.Reader) (body []byte, refusal string, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, "E_BAD_BODY IDENTIFY failed to read body size", onlyEnded(err)
	}
	n := int32(binary.BigEndian.Uint32(size[:]))
	if n < 0 || n > maxBody {
		return nil, fmt.Sprintf("E_BAD_BODY IDENTIFY body size %d is not valid", n), nil
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, "E_BAD_BODY IDENTIFY failed to read body", onlyEnded(err)
	}
	return body, "", nil
}

// onlyEnded returns the error of a connection that an order ended, which is answered nothing.
func onlyEnded(err error) error {
	if errors.Is(err, errEnded) {
		return err
	}
	return nil
}

// execute carries a command out and returns the body of its answer. fatal: the answer
// is an error, and the connection ends with it.
func (c *conn) execute(cmd Command) (answer string, fatal bool) {
	if cmd.refusal != "" {
		return cmd.refusal, true
	}
	switch cmd.Name {
	case "PING":
		if c.peer != nil {
			c.db.ping(c.peer)
		}
		return "OK", false
	case "IDENTIFY":
		return c.identify(cmd.Body)
	case "REGISTER", "UNREGISTER":
		if c.peer == nil {
			return "E_INVALID client must IDENTIFY", true
		}
		topic, channel, refusal := topicChannel(cmd)
		if refusal != "" {
			return refusal, true
		}
		if cmd.Name == "REGISTER" {
			c.db.register(c.peer, topic, channel)
		} else {
			c.db.unregister(c.peer, topic, channel, c.server.KeepEphemeralTopics)
		}
		return "OK", false
	}
	return "E_INVALID invalid command " + cmd.Name, true
}

func (c *conn) identify(body []byte) (answer string, fatal bool) {
	if c.peer != nil {
		return "E_INVALID cannot IDENTIFY again", true
	}
	p, refusal := c.db.identify(c.remote, body)
	if refusal != "" {
		return refusal, true
	}
	c.peer = p
	return c.server.identity(), false
}

// topicChannel returns the names in the parameters of REGISTER and UNREGISTER.
func topicChannel(cmd Command) (topic, channel, refusal string) {
	if len(cmd.Params) == 0 {
		return "", "", fmt.Sprintf("E_INVALID %s insufficient number of params", cmd.Name)
	}
	topic = cmd.Params[0]
	if len(cmd.Params) > 1 {
		channel = cmd.Params[1]
	}
	if !nsq.IsValidTopicName(topic) {
		return "", "", badTopic(cmd)
	}
	if channel != "" && !nsq.IsValidChannelName(channel) {
		return "", "", badChannel(cmd)
	}
	return topic, channel, ""
}

// badTopic returns the refusal of a command for its topic.
func badTopic(cmd Command) string {
	return fmt.Sprintf("E_BAD_TOPIC %s topic name '%s' is not valid", cmd.Name, cmd.Params[0])
}

// badChannel returns the refusal of a command for its channel.
func badChannel(cmd Command) string {
	return fmt.Sprintf("E_BAD_CHANNEL %s channel name '%s' is not valid", cmd.Name, cmd.Params[1])
}

// identity returns the answer to IDENTIFY.
func (s *Server) identity() string {
	answer, err := json.Marshal(struct {
		BroadcastAddress string `json:"broadcast_address"`
		Hostname         string `json:"hostname"`
		HTTPPort         int    `json:"http_port"`
		TCPPort          int    `json:"tcp_port"`
		Version          string `json:"version"`
	}{s.BroadcastAddress, s.Hostname, portOf(s.HTTPAddress), portOf(s.TCPAddress), s.Version})
	if err != nil {
		panic(err) // three strings and two numbers
	}
	return string(answer)
}

// frame appends a response: its length in four bytes, then its body.
func frame(to []byte, body string) []byte {
	to = binary.BigEndian.AppendUint32(slices.Grow(to, 4+len(body)), uint32(len(body)))
	return append(to, body...)
}
