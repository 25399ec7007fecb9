package lookuploop

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// canLock tells whether lockDirectory locks on this system.
func canLock() bool {
	switch runtime.GOOS {
	case "darwin", "dragonfly", "freebsd", "linux", "netbsd", "openbsd":
		return true
	}
	return false
}

func TestDataPathHasOneUserAtATime(t *testing.T) {
	if !canLock() {
		t.Skip("no flock on " + runtime.GOOS)
	}
	dir := t.TempDir()
	first, err := openMetadataFile(dir, osFileSystem{})
	require.NoError(t, err)

	link := filepath.Join(t.TempDir(), "link") // the same directory by another name
	require.NoError(t, os.Symlink(dir, link))
	for _, path := range []string{dir, link} {
		_, err = openMetadataFile(path, osFileSystem{})
		require.ErrorIs(t, err, ErrDataPathLocked)
		require.EqualError(t, err, "lookuploop: data path locked: "+path+": another Loop or nsqd uses it: end that one, or set another DataPath")
	}
	require.NoError(t, first.write(manyTopics(1)), "the first is undisturbed")

	require.NoError(t, first.close())
	second, err := openMetadataFile(dir, osFileSystem{})
	require.NoError(t, err)
	require.NoError(t, second.close())
}

func TestDataPathThatIsNoDirectoryIsAnError(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := openMetadataFile(missing, osFileSystem{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, missing)
	require.NoFileExists(t, missing)

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = openMetadataFile(file, osFileSystem{})
	require.ErrorContains(t, err, file)
	require.NotErrorIs(t, err, ErrDataPathLocked)
}

func TestDirectoryThatCannotBeSyncedIsNoError(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc, whose directories can't be synced")
	}
	proc, err := os.Open("/proc")
	require.NoError(t, err)
	defer proc.Close()
	require.Error(t, proc.Sync(), "else this test shows nothing")
	require.NoError(t, osFileSystem{}.syncDir("/proc"))

	require.ErrorIs(t, osFileSystem{}.syncDir(filepath.Join(t.TempDir(), "missing")), fs.ErrNotExist)
}

// TestSyncOfADirectory is about what the system answers to it: some file
// systems can't do it, which is forgiven.
func TestSyncOfADirectory(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no sync of directories")
	}
	defer func(before func(*os.File) error) { syncFile = before }(syncFile)
	dir := t.TempDir()
	for _, tt := range []struct{ answer, want error }{
		{nil, nil},
		{syscall.EIO, syscall.EIO},
		{syscall.ENOSPC, syscall.ENOSPC},
		{syscall.EINVAL, nil},
		{syscall.ENOTSUP, nil},
	} {
		var synced []string
		syncFile = func(f *os.File) error {
			synced = append(synced, f.Name())
			if tt.answer == nil {
				return nil
			}
			return &fs.PathError{Op: "sync", Path: f.Name(), Err: tt.answer}
		}
		require.ErrorIs(t, osFileSystem{}.syncDir(dir), tt.want)
		require.Equal(t, []string{dir}, synced)
	}
}
