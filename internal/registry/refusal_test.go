package registry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A name that is deleted while it is being tried again must not be taken for
// one that lookupd has never known: the trial may succeed.
func TestNothingIsReadWhileARefusedNameIsTried(t *testing.T) {
	r := New()
	r.create(key{name: "orders"})
	var c Cursor
	r.Attach(&c)
	chunk, _, err := r.Read(&c, 10, Everything, nil)
	require.NoError(t, err)
	r.Release(&c)
	require.True(t, r.Refuse(&c, chunk[0], true, refusalOf("orders"), time.Time{}, 0))

	r.Attach(&c)
	require.Empty(t, mustRead(t, r, &c, 10))
	trial, again := r.Retry(&c, time.Time{}, nil)
	require.Zero(t, again)
	require.Equal(t, "REGISTER orders\n", lines(trial))

	r.delete(r.topic("orders"))
	require.Empty(t, mustRead(t, r, &c, 10))

	r.Acknowledge(&c, 1, trial[0])
	require.Equal(t, "UNREGISTER orders\n", mustRead(t, r, &c, 10))
}

func TestRetriesOfARefusedNameComeAtDoublingIntervalsUpToAnHour(t *testing.T) {
	r := New()
	r.create(key{name: "orders"})
	cmd := newCommand(false, r.topic("orders"))
	var c Cursor
	refuse := func() bool { return r.Refuse(&c, cmd, true, refusalOf("orders"), time.Time{}, 15*time.Minute) }
	require.True(t, refuse())
	for _, want := range []time.Duration{30 * time.Minute, time.Hour, time.Hour} {
		require.False(t, refuse(), "it is set aside already")
		require.Equal(t, want, c.refused[cmd.subject].delay)
	}
}
