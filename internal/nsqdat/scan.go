package nsqdat

import "strings"

// scan parses text if it is as Writer and nsqd write it, several times as fast
// as encoding/json: a broker with many topics waits for it when it starts. It
// returns false for any other text, which may be right or wrong.
func scan(text string) (m metadata, ok bool) {
	s := scanner{text}
	if !s.skip(`{"topics":[`) {
		return metadata{}, false
	}
	m.Topics = []topic{}
	for s.next(len(m.Topics)) {
		var t topic
		t.Name, t.Paused, ok = s.head()
		if ok && s.skip(`,"channels":`) {
			t.Channels, ok = s.channels()
		}
		if !ok || !s.skip(`}`) {
			return metadata{}, false
		}
		m.Topics = append(m.Topics, t)
	}
	if !s.skip(`],"version":`) {
		return metadata{}, false
	}
	m.Version, ok = s.quoted()
	if !ok || s.rest != "}" {
		return metadata{}, false
	}
	return m, true
}

type scanner struct{ rest string }

// skip skips text, if it comes next.
func (s *scanner) skip(text string) (ok bool) {
	s.rest, ok = strings.CutPrefix(s.rest, text)
	return ok
}

// next skips to the next element of a list, of which n have been read, and
// tells whether there may be one.
func (s *scanner) next(n int) bool {
	return n == 0 && !strings.HasPrefix(s.rest, "]") || n > 0 && s.skip(",")
}

func (s *scanner) channels() (channels []channel, ok bool) {
	if s.skip(`null`) { // nsqd writes that for none
		return nil, true
	}
	if !s.skip(`[`) {
		return nil, false
	}
	channels = []channel{}
	for s.next(len(channels)) {
		var c channel
		c.Name, c.Paused, ok = s.head()
		if !ok || !s.skip(`}`) {
			return nil, false
		}
		channels = append(channels, c)
	}
	return channels, s.skip(`]`)
}

// head reads what topics and channels begin with.
func (s *scanner) head() (name string, paused, ok bool) {
	if !s.skip(`{"name":`) {
		return "", false, false
	}
	name, ok = s.quoted()
	if !ok || !s.skip(`,"paused":`) {
		return "", false, false
	}
	if s.skip("true") {
		return name, true, true
	}
	return name, false, s.skip("false")
}

// quoted reads a string of plain ASCII.
func (s *scanner) quoted() (text string, ok bool) {
	if !s.skip(`"`) {
		return "", false
	}
	for i, c := range []byte(s.rest) {
		switch {
		case c == '"':
			text, s.rest = s.rest[:i], s.rest[i+1:]
			return text, true
		case c < ' ' || c > '~' || c == '\\':
			return "", false
		}
	}
	return "", false
}
