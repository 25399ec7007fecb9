package lookuploop

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/wire"
)

// A name that is deleted while it is being tried again must not be taken for
// one that lookupd has never known: the trial may succeed.
func TestNothingIsReadWhileARefusedNameIsTried(t *testing.T) {
	r := newRegistry()
	r.create(key{name: "orders"})
	var c cursor
	var b batch
	r.attach(&c)
	require.NoError(t, r.read(&c, 10, everything, &b))
	refuse(r, &c, b.commands[0])

	r.attach(&c)
	b.reset()
	require.NoError(t, r.read(&c, 10, everything, &b))
	require.Empty(t, b.commands)
	require.Zero(t, r.retry(&c, &b))
	require.Equal(t, "REGISTER orders\n", b.text())
	trial := b.commands[0]

	r.delete(r.topic("orders"))
	b.reset()
	require.NoError(t, r.read(&c, 10, everything, &b))
	require.Empty(t, b.commands)

	r.acknowledge(&c, 1, trial)
	require.NoError(t, r.read(&c, 10, everything, &b))
	require.Equal(t, "UNREGISTER orders\n", b.text())
}

// refuse plays a lookupd that refuses cmd, and is asked again at once.
func refuse(r *registry, c *cursor, cmd command) bool {
	r.release(c)
	return r.refuse(c, refusalOf(cmd, "E_BAD_TOPIC no"), 0)
}

func TestRetriesOfARefusedNameComeAtDoublingIntervalsUpToAnHour(t *testing.T) {
	r := newRegistry()
	r.create(key{name: "orders"})
	cmd := commandFor(register, r.topic("orders"))
	refusal := refusalOf(cmd, "E_BAD_TOPIC no")
	var c cursor
	require.True(t, r.refuse(&c, refusal, 15*time.Minute))
	for _, want := range []time.Duration{30 * time.Minute, time.Hour, time.Hour} {
		require.False(t, r.refuse(&c, refusal, 15*time.Minute), "it is set aside already")
		require.Equal(t, want, c.refused[cmd.topic].delay)
	}
}

// refusalOf is what the error answer to cmd becomes.
func refusalOf(cmd command, text string) *refusedError {
	err := asPublic(&wire.AnswerError[command]{Address: "lookupd", Verb: wire.Register, Tag: cmd, Text: text})
	return err.(*refusedError)
}
