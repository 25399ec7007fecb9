package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

const readBufferSize = 4096

var answerOK = []byte("OK")

func isError(answer []byte) bool { return bytes.HasPrefix(answer, []byte("E_")) }

// readResponse reads one frame: a length of 4 bytes, big endian, and as many
// bytes. What it returns is valid until the next read.
func readResponse(r *bufio.Reader, limit int) ([]byte, error) {
	header, err := r.Peek(4)
	if err != nil {
		if len(header) > 0 && err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(header))
	switch {
	case size < 0:
		return nil, fmt.Errorf("%w: %d", errNegativeLength, size)
	case int(size) > limit && stranger(header) != "":
		return nil, fmt.Errorf("%w: %s", errStranger, stranger(header))
	case int(size) > limit:
		return nil, fmt.Errorf("%w: %d bytes, MaxResponseSize is %d", ErrTooLarge, size, limit)
	}
	r.Discard(4)
	if int(size) <= r.Size() {
		body, err := r.Peek(int(size))
		r.Discard(len(body))
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return body, err
	}
	body := make([]byte, size)
	_, err = io.ReadFull(r, body)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return body, err
}

// hasResponse tells whether a whole response has arrived already, so that
// reading it doesn't wait.
func hasResponse(r *bufio.Reader) bool {
	if r.Buffered() < 4 {
		return false
	}
	header, _ := r.Peek(4)
	return int64(r.Buffered()) >= 4+int64(binary.BigEndian.Uint32(header))
}
