//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package nsqdat_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
)

// TestWhatIsNotAFileIsRefusedAtOnce: whoever opens a named pipe waits for another
// process, and whoever reads a device may read for ever.
func TestWhatIsNotAFileIsRefusedAtOnce(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	for name, put := range map[string]func(path string) error{
		"pipe":           func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link to a pipe": func(path string) error { return os.Symlink(pipe, path) },
		"endless device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"directory":      func(path string) error { return os.Mkdir(path, 0o700) },
		"link to one":    func(path string) error { return os.Symlink(os.TempDir(), path) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, put(filepath.Join(dir, nsqdat.Name)))
			f, err := nsqdat.Open(nsqdat.OS{}, dir)
			require.NoError(t, err)
			defer f.Close()
			_, err = f.Load()
			require.ErrorContains(t, err, "lookuploop: read metadata from "+f.Path()+": ")
			require.ErrorContains(t, err, "not a regular file (move it away)")
			require.NotErrorIs(t, err, nsqdat.ErrCorrupt)
		})
	}

	_, err := nsqdat.Open(nsqdat.OS{}, pipe)
	require.ErrorContains(t, err, "(set DataPath to a directory, the one of nsqd.dat)")
}
