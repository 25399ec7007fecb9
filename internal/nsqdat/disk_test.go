package nsqdat_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
)

func TestDataPathHasOneUserAtATime(t *testing.T) {
	if !nsqdat.Locks {
		t.Skip("no flock on " + runtime.GOOS)
	}
	dir := t.TempDir()
	first, err := nsqdat.Open(nsqdat.OS{}, dir)
	require.NoError(t, err)

	link := filepath.Join(t.TempDir(), "link") // the same directory by another name
	require.NoError(t, os.Symlink(dir, link))
	for _, path := range []string{dir, link} {
		_, err = nsqdat.Open(nsqdat.OS{}, path)
		require.ErrorIs(t, err, nsqdat.ErrLocked)
		require.EqualError(t, err, "lookuploop: data path locked: "+path+": another Loop or nsqd uses it: end that one, or set another DataPath")
	}
	require.NoError(t, write(first, "", bigItems()...), "the first is undisturbed")

	require.NoError(t, first.Close())
	second, err := nsqdat.Open(nsqdat.OS{}, dir)
	require.NoError(t, err)
	require.NoError(t, second.Close())
}

func TestDataPathThatIsNoDirectoryIsAnError(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := nsqdat.Open(nsqdat.OS{}, missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, missing)
	require.NoFileExists(t, missing)

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = nsqdat.Open(nsqdat.OS{}, file)
	require.ErrorContains(t, err, file)
	require.NotErrorIs(t, err, nsqdat.ErrLocked)
}

func TestDirectoryThatCannotBeSyncedIsNoError(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc, whose directories can't be synced")
	}
	proc, err := os.Open("/proc")
	require.NoError(t, err)
	defer proc.Close()
	require.Error(t, proc.Sync(), "else this test shows nothing")
	dir, err := nsqdat.OS{}.Open("/proc")
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, dir.Sync())
}

// TestSyncOfADirectory is about what the system answers to it: some file
// systems can't do it, which is forgiven.
func TestSyncOfADirectory(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no sync of directories")
	}
	path := t.TempDir()
	dir, err := nsqdat.OS{}.Open(path)
	require.NoError(t, err)
	defer dir.Close()
	for _, tt := range []struct{ answer, want error }{
		{nil, nil},
		{syscall.EIO, syscall.EIO},
		{syscall.ENOSPC, syscall.ENOSPC},
		{syscall.EINVAL, nil},
		{syscall.ENOTSUP, nil},
	} {
		var synced []string
		undo := nsqdat.InterceptSync(func(f *os.File) error {
			synced = append(synced, f.Name())
			if tt.answer == nil {
				return nil
			}
			return &fs.PathError{Op: "sync", Path: f.Name(), Err: tt.answer}
		})
		require.ErrorIs(t, dir.Sync(), tt.want)
		require.Equal(t, []string{path}, synced)
		undo()
	}
}
