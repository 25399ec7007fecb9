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
		require.NotContains(t, []string{"darwin", "linux"}, runtime.GOOS)
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

// TestTheLockedDirectoryIsUsedWhateverMoves is about a relative path after a
// chdir, and about a directory that is renamed. Whoever has its old path by then
// may be somebody else, who has locked another directory.
func TestTheLockedDirectoryIsUsedWhateverMoves(t *testing.T) {
	for name, move := range map[string]func(t *testing.T, parent string) (now string){
		"working directory": func(t *testing.T, parent string) string {
			t.Chdir(t.TempDir())
			require.NoError(t, os.Mkdir("data", 0o700))
			return filepath.Join(parent, "data")
		},
		"directory": func(t *testing.T, parent string) string {
			require.NoError(t, os.Rename("data", "moved"))
			require.NoError(t, os.Mkdir("data", 0o700))
			return filepath.Join(parent, "moved")
		},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("what is open can't be renamed")
			}
			parent := t.TempDir()
			t.Chdir(parent)
			require.NoError(t, os.Mkdir("data", 0o700))
			f, err := nsqdat.Open(nsqdat.OS{}, "data")
			require.NoError(t, err)
			defer f.Close()
			now := move(t, parent)

			require.NoError(t, write(f, "new", bigItems()...))
			require.Empty(t, namesIn(t, "data"))
			require.Equal(t, []string{nsqdat.Name}, namesIn(t, now))
			version, _ := load(t, f)
			require.Equal(t, "new", version)

			rival, err := nsqdat.Open(nsqdat.OS{}, "data")
			require.NoError(t, err, "what has the old path is not locked")
			require.NoError(t, rival.Close())
			if nsqdat.Locks {
				_, err = nsqdat.Open(nsqdat.OS{}, now)
				require.ErrorIs(t, err, nsqdat.ErrLocked)
			}
		})
	}
}

// TestSymlinkBecomesAFile: as with nsqd, the file that it leads to is read, and
// what is written replaces the link.
func TestSymlinkBecomesAFile(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere.dat")
	old := fileOf(t, "old", bigItems()...)
	require.NoError(t, os.WriteFile(elsewhere, []byte(old), 0o600))
	require.NoError(t, os.Symlink(elsewhere, filepath.Join(dir, nsqdat.Name)))
	f, err := nsqdat.Open(nsqdat.OS{}, dir)
	require.NoError(t, err)
	defer f.Close()
	version, _ := load(t, f)
	require.Equal(t, "old", version)

	require.NoError(t, write(f, "new"))
	info, err := os.Lstat(f.Path())
	require.NoError(t, err)
	require.True(t, info.Mode().IsRegular())
	after, err := os.ReadFile(elsewhere)
	require.NoError(t, err)
	require.Equal(t, old, string(after))
}

func TestDataPathThatIsNoDirectoryIsAnErrorThatSaysWhatToDo(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := nsqdat.Open(nsqdat.OS{}, missing)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "lookuploop: data path "+missing+": ")
	require.ErrorContains(t, err, "(create the directory, or set another DataPath)")
	require.NoFileExists(t, missing)

	file := filepath.Join(t.TempDir(), nsqdat.Name)
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = nsqdat.Open(nsqdat.OS{}, file)
	require.ErrorContains(t, err, "lookuploop: data path "+file+": ")
	require.ErrorContains(t, err, "(set DataPath to a directory, the one of nsqd.dat)")
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
			synced = append(synced, filepath.Clean(f.Name()))
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
