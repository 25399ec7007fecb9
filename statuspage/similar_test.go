package statuspage

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lookuploop/lookuploop"
)

func topicsNamed(names ...string) []lookuploop.TopicMetadata {
	var topics []lookuploop.TopicMetadata
	for _, name := range names {
		topics = append(topics, lookuploop.TopicMetadata{Name: name})
	}
	return topics
}

func TestSimilar(t *testing.T) {
	topics := topicsNamed("orders", "orders.v2", "Returns", "users", "a", "b", "mail-1", "mail-2", "mail-3", "mail-4", "mail-5", "mail-6")
	for name, want := range map[string][]string{
		"order":                       {"orders", "orders.v2"},
		"ordres":                      {"orders"},
		"ORDERS":                      {"orders", "orders.v2"},
		"returns":                     {"Returns"},
		"orders-eu":                   {"orders", "orders.v2"},
		"mail":                        {"mail-1", "mail-2", "mail-3", "mail-4", "mail-5"},
		"zzz":                         {},
		"":                            {},
		strings.Repeat("orders", 100): {"orders"},
	} {
		require.Equal(t, want, similar(name, topics), name)
	}
}

// TestEdits compares with the definition.
func TestEdits(t *testing.T) {
	var slow func(a, b string) int
	slow = func(a, b string) int {
		if a == "" || b == "" {
			return len(a) + len(b)
		}
		change := 1
		if a[0] == b[0] {
			change = 0
		}
		return min(slow(a[1:], b[1:])+change, slow(a[1:], b)+1, slow(a, b[1:])+1)
	}
	names := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 6, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b, limit := names.Draw(t, "a"), names.Draw(t, "b"), rapid.IntRange(0, 3).Draw(t, "limit")
		require.Equal(t, min(slow(a, b), limit+1), edits(a, b, limit))
	})
}

// TestManyTopicsAreNotSearched: nothing is copied then.
func TestManyTopicsAreNotSearched(t *testing.T) {
	for topics, want := range map[int][]string{maxSearched: {"orders"}, maxSearched + 1: {}} {
		loop := fakeLoop{
			status:   lookuploop.Status{Topics: 1, Channels: topics - 1},
			metadata: lookuploop.Metadata{Topics: topicsNamed("orders")},
		}
		var answer struct{ Topic struct{ Similar []string } }
		require.NoError(t, json.Unmarshal(get(t, loop, "*/*", "/?topic=order").Body.Bytes(), &answer))
		require.Equal(t, want, answer.Topic.Similar, topics)
	}
}

func BenchmarkSimilar(b *testing.B) {
	var topics []lookuploop.TopicMetadata
	for i := range maxSearched {
		topics = append(topics, lookuploop.TopicMetadata{Name: fmt.Sprintf("department-%d-orders", i)})
	}
	for b.Loop() {
		similar("department-77777-order", topics)
	}
}
