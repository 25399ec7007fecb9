package nsqdat

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
)

// The JSON form of the file.
type (
	metadata struct {
		Topics  []topic `json:"topics"`
		Version string  `json:"version"`
	}
	topic struct {
		Name     string    `json:"name"`
		Paused   bool      `json:"paused"`
		Channels []channel `json:"channels"`
	}
	channel struct {
		Name   string `json:"name"`
		Paused bool   `json:"paused"`
	}
)

// decode parses the content of a file. As in nsqd, null is an empty list and
// unknown fields are ignored; an empty file is corrupt. The error says at which
// byte, counted from 1, parsing ended.
func decode(data []byte) (metadata, error) {
	if m, ok := scan(string(data)); ok {
		return m, nil
	}
	var m metadata
	err := json.Unmarshal(data, &m)
	if err == nil {
		return m, nil
	}
	var offset int64
	if len(data) == 0 {
		err = errors.New("the file is empty")
	} else if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	} else if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		offset = mismatch.Offset
		field := Name
		if mismatch.Field != "" {
			field = strconv.Quote(mismatch.Field)
		}
		err = fmt.Errorf("%s can't be a JSON %s", field, mismatch.Value)
	}
	return metadata{}, fmt.Errorf("byte %d of %d: %w", offset, len(data), err)
}

// encode writes items as one line of JSON, until a write fails. An empty list
// is [], which every nsqd reads.
func encode(dst io.Writer, items iter.Seq[Item], version string) error {
	w := bufio.NewWriter(dst) // keeps the first error for Flush
	w.WriteString(`{"topics":[`)
	topics, channels := 0, 0 // so far, these of the last topic
	for item := range items {
		var err error
		if item.Channel == "" {
			if topics > 0 {
				w.WriteString(`]},`)
			}
			encodeHead(w, item.Topic, item.Paused)
			_, err = w.WriteString(`,"channels":[`)
			topics, channels = topics+1, 0
		} else {
			if channels > 0 {
				w.WriteByte(',')
			}
			encodeHead(w, item.Channel, item.Paused)
			err = w.WriteByte('}')
			channels++
		}
		if err != nil {
			break
		}
	}
	if topics > 0 {
		w.WriteString(`]}`)
	}
	w.WriteString(`],"version":`)
	encodeString(w, version)
	w.WriteByte('}')
	return w.Flush()
}

// encodeHead writes the fields that topics and channels share, and leaves the object open.
func encodeHead(w *bufio.Writer, name string, paused bool) {
	w.WriteString(`{"name":`)
	encodeString(w, name)
	w.WriteString(`,"paused":`)
	w.Write(strconv.AppendBool(w.AvailableBuffer(), paused))
}

func encodeString(w *bufio.Writer, s string) {
	quoted, _ := json.Marshal(s) // can't fail on a string
	w.Write(quoted)
}
