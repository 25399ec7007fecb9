package lookuploop

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync/atomic"
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

// persistUntilKilled adds one topic after another to those in dir, and prints
// how many there are each time persist has confirmed them.
func persistUntilKilled(dir string) error {
	file, err := openMetadataFile(dir, osFileSystem{})
	if err != nil {
		return err
	}
	m, err := file.load()
	if err != nil {
		return err
	}
	var topics atomic.Uint64
	topics.Store(uint64(len(m.Topics)))
	snapshot := func() (Metadata, uint64) {
		n := topics.Load()
		return manyTopics(int(n)), n
	}
	w := newMetadataWriter(file, snapshot, topics.Load, slog.New(slog.DiscardHandler))
	w.loaded(topics.Load())
	go w.run(context.Background())
	for {
		n := topics.Add(1)
		w.changed()
		if err := w.persist(context.Background()); err != nil {
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
		confirmations := 1 + random.IntN(6)
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

		names, err := osFileSystem{}.listFiles(dir)
		require.NoError(t, err)
		leftovers += len(names) - 1

		file, err := openMetadataFile(dir, osFileSystem{}) // the lock died with the process
		require.NoError(t, err)
		m, err := file.load()
		require.NoError(t, err)
		require.NoError(t, file.close())
		require.GreaterOrEqual(t, len(m.Topics), confirmed)
		require.LessOrEqual(t, len(m.Topics), confirmed+1)
		require.Equal(t, manyTopics(len(m.Topics)), m)

		names, err = osFileSystem{}.listFiles(dir)
		require.NoError(t, err)
		require.Equal(t, []string{metadataName}, names)
	}
	t.Logf("%d rounds, %d confirmed, %d rounds left a temporary file", *killRounds, confirmed, leftovers)
}
