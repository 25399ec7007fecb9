package lookuploop

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var killRounds = flag.Int("metadata.kills", 200, "how often TestMetadataSurvivesSIGKILL kills the process that persists")

// killedChild is the environment variable that makes the test binary be
// persistUntilKilled, in the data path that it names.
const killedChild = "LOOKUPLOOP_PERSIST_UNTIL_KILLED"

func init() {
	if dir := os.Getenv(killedChild); dir != "" {
		fmt.Fprintln(os.Stderr, persistUntilKilled(dir))
		os.Exit(1)
	}
}

// persistUntilKilled is a broker that adds one topic after another to those in
// dir, as in manyTopics, and prints how many there are each time
// PersistMetadata has confirmed them.
func persistUntilKilled(dir string) error {
	ctx := context.Background()
	opts := validOptions()
	opts.DataPath = dir
	opts.Version = manyTopics(0).Version
	loop, err := New(opts)
	if err != nil {
		return err
	}
	m, err := loop.LoadMetadata()
	if err != nil {
		return err
	}
	go loop.Run(ctx)
	for n := len(m.Topics); ; {
		topic := fmt.Sprint("topic", n)
		n++
		if err := loop.Notify(TopicCreated(topic), ChannelCreated(topic, "channel")); err != nil {
			return err
		}
		if err := loop.PersistMetadata(ctx); err != nil {
			return err
		}
		if _, err := fmt.Println(n); err != nil {
			return err // the test has ended
		}
	}
}

func TestMetadataSurvivesSIGKILL(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for one that hangs
	defer cancel()
	confirmed, leftovers := 0, 0
	for range *killRounds {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env = append(os.Environ(), killedChild+"="+dir)
		cmd.Stderr = os.Stderr
		stdout, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())

		lines := bufio.NewScanner(stdout)
		confirmations := 1 + random.IntN(3)
		delay := time.Duration(random.IntN(2000)) * time.Microsecond
		var kill *time.Timer
		for lines.Scan() {
			_, err := fmt.Sscan(lines.Text(), &confirmed)
			require.NoError(t, err)
			if confirmations--; confirmations == 0 {
				kill = time.AfterFunc(delay, func() { cmd.Process.Kill() })
			}
		}
		require.NotNil(t, kill, "the process ended or hung before it was killed")
		require.Error(t, cmd.Wait())

		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		leftovers += len(files) - 1

		loop := newLoop(t, func(o *Options) { o.DataPath = dir })
		m, err := loop.LoadMetadata() // the lock died with the process
		require.NoError(t, err)
		require.NoError(t, loop.Close())
		require.GreaterOrEqual(t, len(m.Topics), confirmed)
		require.LessOrEqual(t, len(m.Topics), confirmed+1)
		require.Equal(t, manyTopics(len(m.Topics)), m)

		files, err = os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, files, 1)
	}
	if *killRounds >= 100 {
		require.NotZero(t, leftovers, "no kill hit a write")
	}
	t.Logf("%d rounds, %d confirmed, %d rounds left a temporary file", *killRounds, confirmed, leftovers)
}
