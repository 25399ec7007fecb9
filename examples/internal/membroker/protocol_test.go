package membroker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/nsqio/go-nsq"
	"github.com/stretchr/testify/require"
)

const anID = "0123456789abcdef"

// parse reads one command from the bytes of a client.
func parse(r io.Reader, maxBatch int) (command, error) {
	buffered := bufio.NewReaderSize(r, maxLine)
	line, err := readLine(buffered)
	if err != nil {
		return command{}, err
	}
	return parseCommand(line, buffered, maxBatch)
}

func batchOf(count string, bodies ...string) string {
	for _, body := range bodies {
		count += sized(body)
	}
	return sized(count)
}

func TestParseCommand(t *testing.T) {
	id := nsq.MessageID([]byte(anID))
	long := strings.Repeat("x", 100_000)
	for input, want := range map[string]command{
		"NOP\n":                         {verb: "NOP"},
		"CLS\r\n":                       {verb: "CLS"},
		"IDENTIFY\n" + sized("{}"):      {verb: "IDENTIFY", bodies: [][]byte{[]byte("{}")}},
		"PUB t\n" + sized("hello"):      {verb: "PUB", topic: "t", bodies: [][]byte{[]byte("hello")}},
		"PUB t\n" + sized(long):         {verb: "PUB", topic: "t", bodies: [][]byte{[]byte(long)}},
		"DPUB t 1500\n" + sized("a"):    {verb: "DPUB", topic: "t", delay: 1500 * time.Millisecond, bodies: [][]byte{[]byte("a")}},
		"SUB t#ephemeral c#ephemeral\n": {verb: "SUB", topic: "t#ephemeral", channel: "c#ephemeral"},
		"RDY\n":                         {verb: "RDY", count: 1},
		"RDY 2500\n":                    {verb: "RDY", count: 2500},
		"FIN " + anID + "\n":            {verb: "FIN", id: id},
		"TOUCH " + anID + " ignored\n":  {verb: "TOUCH", id: id},
		"REQ " + anID + " 90\n":         {verb: "REQ", id: id, delay: 90 * time.Millisecond},
		"REQ " + anID + " 99999999\n":   {verb: "REQ", id: id, delay: time.Hour},
		"MPUB t\n" + batchOf("\x00\x00\x00\x02", "a", "bc"): {verb: "MPUB", topic: "t", bodies: [][]byte{[]byte("a"), []byte("bc")}},
	} {
		got, err := parse(strings.NewReader(input), 10)
		require.NoError(t, err, "%.40q", input)
		require.Equal(t, want, got, "%.40q", input)

		// However the bytes arrive, the command is the same; whatever is missing is an error.
		got, err = parse(iotest.OneByteReader(strings.NewReader(input)), 10)
		require.NoError(t, err, "%.40q", input)
		require.Equal(t, want, got, "%.40q", input)
		_, err = parse(strings.NewReader(input[:len(input)-1]), 10)
		require.Error(t, err, "%.40q", input)
	}
}

func TestParseCommandRefuses(t *testing.T) {
	name65 := strings.Repeat("x", 65)
	size := func(n int) string { return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) }
	for input, code := range map[string]string{
		"\n":                                "E_INVALID",
		"pub t\n":                           "E_INVALID",
		"GET / HTTP/1.1\r\n":                "E_INVALID",
		strings.Repeat("x", maxLine) + "\n": "E_INVALID",

		"PUB\n":                              "E_INVALID",
		"PUB \n":                             "E_BAD_TOPIC",
		"PUB a/b\n":                          "E_BAD_TOPIC",
		"PUB " + name65 + "\n":               "E_BAD_TOPIC",
		"PUB t\n" + size(0):                  "E_BAD_MESSAGE",
		"PUB t\n" + size(-1):                 "E_BAD_MESSAGE",
		"PUB t\n" + size(maxMsgSize+1):       "E_BAD_MESSAGE",
		"PUB t\n" + size(maxMsgSize) + "abc": "E_BAD_MESSAGE",
		"PUB t\nab":                          "E_BAD_MESSAGE",

		"DPUB t\n":                         "E_INVALID",
		"DPUB t soon\n" + sized("a"):       "E_INVALID",
		"DPUB t -1\n" + sized("a"):         "E_INVALID",
		"DPUB t 3600001\n" + sized("a"):    "E_INVALID",
		"DPUB #ephemeral 1\n" + sized("a"): "E_BAD_TOPIC",

		"MPUB t#\n":                                      "E_BAD_TOPIC",
		"MPUB t\n" + size(maxBodySize+1):                 "E_BAD_BODY",
		"MPUB t\n" + size(0):                             "E_BAD_BODY",
		"MPUB t\n" + batchOf(""):                         "E_BAD_BODY",
		"MPUB t\n" + batchOf(size(0)):                    "E_BAD_BODY",
		"MPUB t\n" + batchOf(size(-1)):                   "E_BAD_BODY",
		"MPUB t\n" + batchOf(size(11)):                   "E_BAD_BODY", // more than the queue holds
		"MPUB t\n" + batchOf(size(2), "a"):               "E_BAD_MESSAGE",
		"MPUB t\n" + batchOf(size(1), ""):                "E_BAD_MESSAGE",
		"MPUB t\n" + batchOf(size(1)+size(maxMsgSize+1)): "E_BAD_MESSAGE",
		"MPUB t\n" + batchOf(size(1)+size(9)) + "beyond": "E_BAD_MESSAGE", // its size points beyond the body
		"MPUB t\n" + batchOf(size(1), "a", "b"):          "E_BAD_BODY",

		"SUB t\n":                          "E_INVALID",
		"SUB t! c\n":                       "E_BAD_TOPIC",
		"SUB t c!\n":                       "E_BAD_CHANNEL",
		"SUB t " + name65 + "\n":           "E_BAD_CHANNEL",
		"RDY 2501\n":                       "E_INVALID",
		"RDY -1\n":                         "E_INVALID",
		"RDY 99999999999999999999\n":       "E_INVALID",
		"FIN\n":                            "E_INVALID",
		"FIN " + anID[1:] + "\n":           "E_INVALID",
		"TOUCH " + anID + "0\n":            "E_INVALID",
		"REQ " + anID + "\n":               "E_INVALID",
		"REQ " + anID + " x\n":             "E_INVALID",
		"IDENTIFY\n" + size(maxIdentify+1): "E_BAD_BODY",
		"IDENTIFY\n" + size(0):             "E_BAD_BODY",
	} {
		_, err := parse(strings.NewReader(input), 10)
		var refusal *protocolError
		require.ErrorAs(t, err, &refusal, "%.40q", input)
		require.Equal(t, code, refusal.code, "%.40q: %v", input, err)
		require.True(t, refusal.fatal, "%.40q", input)
		require.Less(t, len(err.Error()), 400, "an error repeats only the beginning of what was sent")
	}
}

func TestBodiesMayBeAsLongAsTheCommentsSay(t *testing.T) {
	for command, most := range map[string]int{"IDENTIFY\n": 16 << 10, "PUB t\n": 1 << 20, "DPUB t 1\n": 1 << 20} {
		_, err := parse(strings.NewReader(command+sized(strings.Repeat("x", most))), 10)
		require.NoError(t, err, command)
		_, err = parse(strings.NewReader(command+sized(strings.Repeat("x", most+1))), 10)
		require.ErrorContains(t, err, "E_BAD_", command)
	}
}

func TestReadExactlyTakesNoMoreMemoryThanWasSent(t *testing.T) {
	const clients = 100
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range clients {
		_, err := readExactly(strings.NewReader("ten bytes."), maxMsgSize)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(clients*(64<<10)))
}

func TestParseIdentify(t *testing.T) {
	info, err := parseIdentify([]byte(`{"client_id":"id","hostname":"h","user_agent":"u","feature_negotiation":true,"heartbeat_interval":-1,"msg_timeout":2000,"tls_v1":true}`))
	require.NoError(t, err)
	require.Equal(t, clientInfo{ClientID: "id", Hostname: "h", UserAgent: "u", msgTimeout: 2 * time.Second, negotiate: true}, info)

	info, err = parseIdentify([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, clientInfo{heartbeat: defaultHeartbeat, msgTimeout: defaultMsgTimeout}, info)
	require.Equal(t, "OK", string(info.answer()))

	for _, body := range []string{
		`x`, `[]`, `{"heartbeat_interval":-2}`, `{"heartbeat_interval":999}`, `{"heartbeat_interval":60001}`,
		`{"heartbeat_interval":9223372036854775807}`, `{"msg_timeout":999}`, `{"msg_timeout":900001}`, `{"msg_timeout":-1}`, `{"msg_timeout":"1s"}`,
	} {
		_, err := parseIdentify([]byte(body))
		require.ErrorContains(t, err, "E_BAD_BODY IDENTIFY", body)
	}
}

// FuzzParseCommand sends anything. What is accepted obeys all limits, and means
// the same when it is written again.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{
		"NOP\n", "RDY 5\n", "SUB t c\n", "FIN " + anID + "\n", "REQ " + anID + " 10\n", "PUB t\n" + sized("body"),
		"DPUB t 10\n" + sized("body"), "MPUB t\n" + batchOf("\x00\x00\x00\x02", "a", "bc"), "IDENTIFY\n" + sized("{}"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		c, err := parse(bytes.NewReader(input), 10)
		if err != nil {
			var refusal *protocolError
			if !errors.As(err, &refusal) {
				require.ErrorIs(t, err, io.EOF, "only a line that does not end is no protocol error")
			}
			return
		}
		total := 0
		for _, body := range c.bodies {
			require.NotEmpty(t, body)
			require.LessOrEqual(t, len(body), maxMsgSize)
			total += len(body)
		}
		require.LessOrEqual(t, total, len(input))
		require.LessOrEqual(t, len(c.bodies), 10)
		require.True(t, c.delay >= 0 && c.delay <= maxReqTimeout)
		require.True(t, c.count >= 0 && c.count <= maxRdyCount)
		require.True(t, c.topic == "" || nsq.IsValidTopicName(c.topic))
		require.True(t, c.channel == "" || nsq.IsValidChannelName(c.channel))

		again, err := parse(strings.NewReader(written(c)), 10)
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

// written is the command as a client would send it.
func written(c command) string {
	ms := c.delay.Milliseconds()
	switch c.verb {
	case "IDENTIFY":
		return "IDENTIFY\n" + sized(string(c.bodies[0]))
	case "PUB":
		return "PUB " + c.topic + "\n" + sized(string(c.bodies[0]))
	case "DPUB":
		return fmt.Sprintf("DPUB %s %d\n%s", c.topic, ms, sized(string(c.bodies[0])))
	case "MPUB":
		texts := []string{}
		for _, body := range c.bodies {
			texts = append(texts, string(body))
		}
		return "MPUB " + c.topic + "\n" + batchOf(string([]byte{0, 0, 0, byte(len(texts))}), texts...)
	case "SUB":
		return "SUB " + c.topic + " " + c.channel + "\n"
	case "RDY":
		return fmt.Sprintf("RDY %d\n", c.count)
	case "REQ":
		return fmt.Sprintf("REQ %s %d\n", c.id[:], ms)
	case "FIN", "TOUCH":
		return fmt.Sprintf("%s %s\n", c.verb, c.id[:])
	}
	return c.verb + "\n"
}
