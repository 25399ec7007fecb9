package statuspage

import (
	"cmp"
	"slices"
	"strings"

	"github.com/lookuploop/lookuploop"
)

const (
	maxSearched = 100_000 // names that a broker may have for similar ones to be searched: at most some 50 ms
	maxSimilar  = 5
	maxEdits    = 3
)

// similar returns those topics that whoever asked for name may have meant, the
// nearest first: a few letters are different, or one name is a part of the other.
func similar(name string, topics []lookuploop.TopicMetadata) []string {
	type candidate struct {
		name  string
		edits int
	}
	found := []candidate{}
	wanted := strings.ToLower(name)
	limit := min(maxEdits, (len(name)+2)/3)
	for _, t := range topics {
		have := strings.ToLower(t.Name)
		n := edits(wanted, have, limit)
		if n > limit && !contain(wanted, have) {
			continue
		}
		found = append(found, candidate{t.Name, n})
	}
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.edits, b.edits), cmp.Compare(a.name, b.name))
	})
	names := []string{}
	for _, c := range found[:min(len(found), maxSimilar)] {
		names = append(names, c.name)
	}
	return names
}

// contain tells whether one is a part of the other that is long enough to mean something.
func contain(a, b string) bool {
	const short = 3
	return len(a) >= short && strings.Contains(b, a) || len(b) >= short && strings.Contains(a, b)
}

// edits is how many bytes must be put in, left out or changed to make b of a, or
// limit+1 if they are more. Names have at most 64 bytes; longer ones are not near any.
func edits(a, b string, limit int) int {
	const longest = 64
	if len(a) > longest || len(b) > longest || max(len(a)-len(b), len(b)-len(a)) > limit {
		return limit + 1
	}
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var rows [2][longest + 1]int
	last, row := &rows[0], &rows[1]
	for j := range len(b) {
		last[j+1] = j + 1
	}
	for i := range len(a) {
		row[0] = i + 1
		least := row[0]
		for j := range len(b) {
			change := 0
			if a[i] != b[j] {
				change = 1
			}
			row[j+1] = min(last[j]+change, last[j+1]+1, row[j]+1)
			least = min(least, row[j+1])
		}
		if least > limit {
			return limit + 1
		}
		last, row = row, last
	}
	return min(last[len(b)], limit+1)
}
