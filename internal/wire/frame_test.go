package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// frame is a response as it comes over the network.
func frame(body string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(body)))) + body
}

func TestResponsesAreReadWholeAndBounded(t *testing.T) {
	const limit = 10_000
	long := strings.Repeat("x", limit)
	for name, tt := range map[string]struct {
		stream string
		want   []string // bodies before the error
		err    error
	}{
		"nothing":              {"", nil, io.EOF},
		"one":                  {frame("OK"), []string{"OK"}, io.EOF},
		"several":              {frame("OK") + frame("E_INVALID") + frame("OK"), []string{"OK", "E_INVALID", "OK"}, io.EOF},
		"empty body":           {frame("") + frame("OK"), []string{"", "OK"}, io.EOF},
		"as long as may be":    {frame(long) + frame("OK"), []string{long, "OK"}, io.EOF},
		"one byte too long":    {frame("OK") + frame(long+"x"), []string{"OK"}, ErrTooLarge},
		"the largest length":   {"\x7f\xff\xff\xff", nil, ErrTooLarge},
		"length -1":            {"\xff\xff\xff\xff", nil, errNegativeLength},
		"the least length":     {"\x80\x00\x00\x00" + long, nil, errNegativeLength},
		"cut amid the length":  {frame("OK") + "\x00\x00\x00", []string{"OK"}, io.ErrUnexpectedEOF},
		"cut after the length": {"\x00\x00\x00\x02", nil, io.ErrUnexpectedEOF},
		"cut amid the body":    {frame("OK")[:5], nil, io.ErrUnexpectedEOF},
		"cut amid a long body": {frame(long)[:9000], nil, io.ErrUnexpectedEOF},
		"no NSQ at all":        {"HTTP/1.1 400 Bad Request\r\n\r\n", nil, errStranger},
	} {
		for how, source := range map[string]func(io.Reader) io.Reader{
			"at once":         func(r io.Reader) io.Reader { return r },
			"in single bytes": iotest.OneByteReader,
			"end with data":   iotest.DataErrReader,
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				r := bufio.NewReaderSize(source(strings.NewReader(tt.stream)), readBufferSize)
				for _, want := range tt.want {
					body, err := readResponse(r, limit)
					require.NoError(t, err)
					require.Equal(t, want, string(body))
				}
				_, err := readResponse(r, limit)
				require.ErrorIs(t, err, tt.err)
			})
		}
	}
}

func TestStrangersAreNamed(t *testing.T) {
	for stream, want := range map[string]string{
		"HTTP/1.1 400 Bad Request\r\n\r\n": "an HTTP server answered: name nsqlookupd's TCP port (4160), not its HTTP port (4161)",
		"\x15\x03\x01\x00\x02\x02\x46":     "a TLS server answered: let Options.Dial do TLS, as tls.Dialer does",
		"SSH-2.0-OpenSSH_9.6\r\n":          `another service answered, its answer begins with "SSH-": name nsqlookupd's TCP port (4160)`,
		"-ERR unknown command\r\n":         `another service answered, its answer begins with "-ERR": name nsqlookupd's TCP port (4160)`,
	} {
		_, err := readResponse(bufio.NewReader(strings.NewReader(stream)), 1<<20)
		require.EqualError(t, err, "this is no nsqlookupd: "+want)
	}
	body, err := readResponse(bufio.NewReader(strings.NewReader("\x00\x00\x00\x04HTTP")), 1<<20)
	require.NoError(t, err)
	require.Equal(t, "HTTP", string(body))
}

// A length that a server only claims must not cost memory.
func TestTooLongAResponseIsNotReadIntoMemory(t *testing.T) {
	stream := []byte("\x7f\xff\xff\xff" + strings.Repeat("x", 100))
	r := bufio.NewReader(bytes.NewReader(stream))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readResponse(r, 1<<20)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorContains(t, err, "2147483647 bytes, MaxResponseSize is 1048576")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func FuzzReadResponse(f *testing.F) {
	f.Fuzz(func(t *testing.T, stream []byte, limit uint16, single bool) {
		source := &countingReader{r: bytes.NewReader(stream)}
		if single {
			source.r = iotest.OneByteReader(source.r)
		}
		r := bufio.NewReaderSize(source, 64)
		for {
			read, has := source.n, hasResponse(r)
			body, err := readResponse(r, int(limit))
			if has {
				require.Equal(t, read, source.n, "it was there, so reading it must not wait")
			}
			want, rest, wantErr := cutFrame(stream, int(limit))
			if wantErr != nil {
				require.ErrorIs(t, err, wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, string(want), string(body))
			stream = rest
		}
	})
}

// cutFrame is what readResponse should do, for those who have the whole stream.
func cutFrame(stream []byte, limit int) (body, rest []byte, err error) {
	switch {
	case len(stream) == 0:
		return nil, nil, io.EOF
	case len(stream) < 4:
		return nil, nil, io.ErrUnexpectedEOF
	}
	size := int(int32(binary.BigEndian.Uint32(stream)))
	switch {
	case size < 0:
		return nil, nil, errNegativeLength
	case size > limit && stranger(stream[:4]) != "":
		return nil, nil, errStranger
	case size > limit:
		return nil, nil, ErrTooLarge
	case size > len(stream)-4:
		return nil, nil, io.ErrUnexpectedEOF
	}
	return stream[4 : 4+size], stream[4+size:], nil
}

type countingReader struct {
	r io.Reader
	n int // calls of Read
}

func (c *countingReader) Read(p []byte) (int, error) {
	c.n++
	return c.r.Read(p)
}
