package wire

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestQueueOfCommandsAgreesWithASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue[int]
		var want []int
		pushed := 0
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				require.Equal(t, len(want), q.len())
				if len(want) > 0 {
					require.Equal(t, want[0], q.first().tag)
				}
			},
			"push": func(t *rapid.T) {
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					pushed++
					q.push(command[int]{tag: pushed})
					want = append(want, pushed)
				}
			},
			"pop": func(t *rapid.T) {
				for range rapid.IntRange(0, len(want)).Draw(t, "n") {
					require.Equal(t, want[0], q.first().tag)
					q.pop()
					want = want[1:]
				}
			},
		})
	})
}

func TestQueueOfCommandsKeepsNoMemoryItDoesNotNeed(t *testing.T) {
	var q queue[int]
	for range 10 {
		q.push(command[int]{})
	}
	for range 100_000 { // never empty
		q.push(command[int]{})
		q.pop()
	}
	require.Less(t, cap(q.items), 100)
	for range MaxWindow {
		q.push(command[int]{})
	}
	for q.len() > 0 {
		q.pop()
		q.trim()
	}
	require.Zero(t, cap(q.items))
}
