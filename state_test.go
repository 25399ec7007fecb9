package lookuploop

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

var (
	allStates = []State{Disconnected, Connecting, Connected}
	allEvents = []peerEvent{dial, identified, lost}
)

func TestStatesHaveNames(t *testing.T) {
	text, err := json.Marshal(append(allStates, State(7)))
	require.NoError(t, err)
	require.Equal(t, `["disconnected","connecting","connected","unknown"]`, string(text))
	require.Equal(t, State(0), Disconnected, "a zero LookupdStatus is disconnected")
}

func TestTransitionTableIsComplete(t *testing.T) {
	type step struct {
		from  State
		event peerEvent
	}
	leads := make(map[step]State)
	reached := map[State]bool{Disconnected: true}
	for _, row := range transitions {
		require.NotContains(t, leads, step{row.from, row.event}, "one event leads to one State")
		leads[step{row.from, row.event}] = row.to
		require.NotEqual(t, row.from, row.to)
		require.NotEmpty(t, row.when)
		reached[row.to] = true
	}
	require.Len(t, reached, len(allStates))
	for _, from := range allStates {
		for _, event := range allEvents {
			to, ok := leads[step{from, event}]
			if !ok {
				require.Panics(t, func() { from.next(event) })
				continue
			}
			require.Equal(t, to, from.next(event))
		}
		if from != Disconnected {
			require.Equal(t, Disconnected, from.next(lost), "a connection can be lost at any time")
		}
	}
}

// TestStatesChangeAsTheTableSays plays faults over a connection and watches.
func TestStatesChangeAsTheTableSays(t *testing.T) {
	faults := []lookupdtest.Order{
		lookupdtest.Hangup(), lookupdtest.Drop(), lookupdtest.Hang(), lookupdtest.Refuse(),
		lookupdtest.Reject("E_INVALID"), lookupdtest.Blackhole(), lookupdtest.On("REGISTER", lookupdtest.Reject("E_BAD_TOPIC")),
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	inBubble(t, func(t *testing.T) {
		var mu sync.Mutex
		seen := []State{Disconnected}
		s := newScene(t, 1, func(o *Options) {
			o.OnStateChange = func(status LookupdStatus) {
				mu.Lock()
				defer mu.Unlock()
				seen = append(seen, status.State)
			}
		})
		s.notify(TopicCreated("a"), TopicCreated("b"))
		s.run()
		for range 40 {
			lift := s.lookupds[0].Do(faults[random.IntN(len(faults))])
			s.lookupds[0].CloseConnections()
			time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			lift()
			time.Sleep(time.Duration(random.IntN(10)) * time.Second)
		}
		require.NoError(t, s.end())

		taken := make(map[int]bool)
		for i := range seen[1:] {
			row := rowFrom(seen[i], seen[i+1])
			require.GreaterOrEqual(t, row, 0, "from %v to %v", seen[i], seen[i+1])
			taken[row] = true
		}
		require.Len(t, taken, len(transitions), "each row was taken")
		require.Equal(t, Disconnected, seen[len(seen)-1])
	})
}

func rowFrom(from, to State) int {
	for i, row := range transitions {
		if row.from == from && row.to == to {
			return i
		}
	}
	return -1
}

// stateDiagram renders the table for README.md.
func stateDiagram() string {
	title := func(s State) string { return strings.ToUpper(s.String()[:1]) + s.String()[1:] }
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> " + title(Disconnected) + "\n")
	for _, row := range transitions {
		b.WriteString("    " + title(row.from) + " --> " + title(row.to) + ": " + row.when + "\n")
	}
	b.WriteString("```\n")
	return b.String()
}

func TestDiagramOfTheReadmeIsTheTable(t *testing.T) {
	for _, row := range transitions {
		require.NotContains(t, row.when, ":", "mermaid takes a label to the next colon only")
		require.NotContains(t, row.when, ";")
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	parts := strings.Split(string(readme), "<!-- states -->\n")
	require.Len(t, parts, 3, "the diagram stands between two lines <!-- states -->")
	require.Equal(t, stateDiagram(), parts[1])
}
