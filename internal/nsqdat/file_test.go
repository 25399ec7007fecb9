package nsqdat_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

// bigItems take several writes to encode.
func bigItems() (items []nsqdat.Item) {
	for i := range 100 {
		items = append(items, nsqdat.Item{Topic: fmt.Sprintf("%060d", i)})
	}
	return items
}

// write writes items with a version that tells one write from another.
func write(f *nsqdat.File, version string, items ...nsqdat.Item) error {
	return f.Write(slices.Values(items), version)
}

// load returns what is in the file.
func load(t testing.TB, f *nsqdat.File) (version string, items []nsqdat.Item) {
	c, err := f.Load()
	require.NoError(t, err)
	require.Zero(t, c.LeftOut)
	return c.Version, slices.Collect(c.Items())
}

// fileOf returns the content of a file.
func fileOf(t testing.TB, version string, items ...nsqdat.Item) string {
	disk := nsqdattest.NewDisk(nil)
	f, err := nsqdat.Open(disk, "data")
	require.NoError(t, err)
	require.NoError(t, write(f, version, items...))
	return disk.Files()[nsqdat.Name]
}

// stepsOfWrite are those of a write that succeeds, in their order.
var stepsOfWrite = []string{"create", "write", "write", "write", "sync", "close", "stat", "rename", "sync directory"}

// writeWithFaults opens the file on a disk that holds files, and writes a new
// one while the k-th step from then on meets faults[k].
func writeWithFaults(t testing.TB, files map[string]string, faults map[int]nsqdattest.Fault) (*nsqdattest.Disk, *nsqdat.File, error) {
	disk := nsqdattest.NewDisk(files)
	f, err := nsqdat.Open(disk, "data")
	require.NoError(t, err)
	k := -1
	disk.Order(func(string) nsqdattest.Fault { k++; return faults[k] })
	disk.Steps()
	err = write(f, "new", bigItems()...)
	disk.Order(nil)
	return disk, f, err
}

// requireAfterCrash starts again from everything that a crash now can leave, and
// wants the version that it loads among those allowed; "" is no file.
func requireAfterCrash(t testing.TB, disk *nsqdattest.Disk, allowed ...string) {
	t.Helper()
	for _, rest := range disk.AfterCrash() {
		f, err := nsqdat.Open(rest, "data")
		require.NoError(t, err)
		version, items := load(t, f)
		require.Contains(t, allowed, version)
		if version != "" {
			require.Equal(t, bigItems(), items)
		}
		requireNoTempFile(t, rest)
	}
}

func requireNoTempFile(t testing.TB, disk *nsqdattest.Disk) {
	t.Helper()
	for name := range disk.Files() {
		require.Equal(t, nsqdat.Name, name)
	}
}

// forEachStart runs test on a disk without and on one with an old file.
func forEachStart(t *testing.T, test func(t *testing.T, files map[string]string, old string)) {
	t.Run("no file before", func(t *testing.T) { test(t, nil, "") })
	t.Run("old file before", func(t *testing.T) {
		test(t, map[string]string{nsqdat.Name: fileOf(t, "old", bigItems()...)}, "old")
	})
}

func TestMetadataIsDurableOnceWriteReturns(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, _ string) {
		disk, f, err := writeWithFaults(t, files, nil)
		require.NoError(t, err)
		require.Equal(t, stepsOfWrite, disk.Steps())
		requireNoTempFile(t, disk)
		requireAfterCrash(t, disk, "new")

		version, items := load(t, f)
		require.Equal(t, "new", version)
		require.Equal(t, bigItems(), items)
	})
}

func TestMetadataIsOldOrNewAfterACrashAtAnyStep(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		for k := range stepsOfWrite {
			disk, _, err := writeWithFaults(t, files, map[int]nsqdattest.Fault{k: {Crash: true}})
			require.ErrorIs(t, err, nsqdattest.ErrMachineStopped)
			requireAfterCrash(t, disk, old, "new")
		}
	})
}

// forEachError runs test with an error at each step of a write, one that
// prevents the step and one in spite of which it took effect.
func forEachError(test func(k int, f nsqdattest.Fault)) {
	for k := range stepsOfWrite {
		test(k, nsqdattest.Fault{Err: syscall.EIO})
		test(k, nsqdattest.Fault{Err: syscall.EIO, Done: true})
		test(k, nsqdattest.Fault{Err: syscall.ENOSPC})
	}
}

func TestMetadataIsOldOrNewAfterAnErrorAtAnyStep(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		forEachError(func(k int, at nsqdattest.Fault) {
			disk, f, err := writeWithFaults(t, files, map[int]nsqdattest.Fault{k: at})
			require.ErrorIs(t, err, at.Err)
			require.ErrorContains(t, err, f.Path())
			requireAfterCrash(t, disk, old, "new")
			if stepsOfWrite[k] != "create" || !at.Done { // created and yet an error: nobody knows its name
				requireNoTempFile(t, disk)
			}

			require.NoError(t, write(f, "newer", bigItems()...))
			requireAfterCrash(t, disk, "newer")
		})
	})
}

func TestMetadataIsOldOrNewAfterAnErrorFollowedByASecondFault(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		forEachError(func(k int, first nsqdattest.Fault) {
			for second := k + 1; second < k+4; second++ { // the steps after an error: close, remove
				for _, then := range []nsqdattest.Fault{{Crash: true}, {Err: syscall.EIO}} {
					disk, _, err := writeWithFaults(t, files, map[int]nsqdattest.Fault{k: first, second: then})
					require.ErrorIs(t, err, first.Err)
					requireAfterCrash(t, disk, old, "new")
				}
			}
		})
	})
}

func TestMetadataIsOldOrNewAfterACrashAtAnyStepOfARetry(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		forEachError(func(k int, first nsqdattest.Fault) {
			for crash := range stepsOfWrite {
				disk, f, err := writeWithFaults(t, files, map[int]nsqdattest.Fault{k: first})
				require.Error(t, err)
				step := -1
				disk.Order(func(string) nsqdattest.Fault { step++; return nsqdattest.Fault{Crash: step == crash} })
				require.ErrorIs(t, write(f, "newer", bigItems()...), nsqdattest.ErrMachineStopped)
				requireAfterCrash(t, disk, old, "new", "newer")
			}
		})
	})
}

func TestOpeningRemovesWhatACrashLeftAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	leftovers := []string{"nsqd.dat.7.tmp", "nsqd.dat.8674665223082153551.tmp"}
	others := []string{"nsqd.dat", "nsqd.dat.tmp", "nsqd.dat.old.tmp", "nsqd.dat.7.tmp.bak", "my.nsqd.dat.7.tmp", "orders.diskqueue.meta.dat.7.tmp"}
	for _, name := range slices.Concat(leftovers, others) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("{}"), 0o600))
	}
	f, err := nsqdat.Open(nsqdat.OS{}, dir)
	require.NoError(t, err)
	require.NoError(t, f.Close())

	require.ElementsMatch(t, others, namesIn(t, dir))
}

func TestDataPathThatCannotBeOpened(t *testing.T) {
	_, err := nsqdat.Open(noAccess{}, "data")
	require.EqualError(t, err, "lookuploop: data path data: permission denied (make the directory readable and writable for this user, or set another DataPath)")
}

type noAccess struct{}

func (noAccess) Open(string) (nsqdat.Directory, error) { return nil, syscall.EACCES }

func TestOpeningThatFailsLeavesTheDataPathUnlocked(t *testing.T) {
	for _, failing := range []string{"list", "remove"} {
		disk := nsqdattest.NewDisk(map[string]string{"nsqd.dat.7.tmp": ""})
		disk.Order(func(step string) nsqdattest.Fault {
			if step == failing {
				return nsqdattest.Fault{Err: syscall.EIO}
			}
			return nsqdattest.Fault{}
		})
		_, err := nsqdat.Open(disk, "data")
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorContains(t, err, "data")

		disk.Order(nil)
		_, err = nsqdat.Open(disk, "data")
		require.NoError(t, err)
	}
}

// TestDataPathThatCannotBeWrittenToIsAnError: else the broker would learn of it
// when its first topic can't be kept.
func TestDataPathThatCannotBeWrittenToIsAnError(t *testing.T) {
	for _, failing := range []string{"create", "close", "remove"} {
		for _, errno := range []error{syscall.EACCES, syscall.EROFS, syscall.ENOSPC} {
			disk := nsqdattest.NewDisk(map[string]string{nsqdat.Name: fileOf(t, "old")})
			disk.Order(func(step string) nsqdattest.Fault {
				if step == failing {
					return nsqdattest.Fault{Err: errno}
				}
				return nsqdattest.Fault{}
			})
			_, err := nsqdat.Open(disk, "data")
			require.ErrorIs(t, err, errno, failing)
			require.ErrorContains(t, err, "lookuploop: data path data: nothing can be written there: ")
			require.ErrorContains(t, err, "(make it writable for this user, or set another DataPath)")

			disk.Order(nil)
			_, err = nsqdat.Open(disk, "data")
			require.NoError(t, err, "it is not locked")
			requireNoTempFile(t, disk)
		}
	}
}

func TestMissingMetadataIsEmptyAndUnreadableMetadataIsAnError(t *testing.T) {
	disk := nsqdattest.NewDisk(nil)
	f, err := nsqdat.Open(disk, "data")
	require.NoError(t, err)
	version, items := load(t, f)
	require.Empty(t, version)
	require.Empty(t, items)

	disk.Order(func(string) nsqdattest.Fault { return nsqdattest.Fault{Err: syscall.EACCES} })
	_, err = f.Load()
	require.ErrorIs(t, err, syscall.EACCES)
	require.NotErrorIs(t, err, nsqdat.ErrCorrupt)
	require.ErrorContains(t, err, "(make the file readable for this user)")
}

func TestErrorsOfCorruptMetadataSayWhatIsWrong(t *testing.T) {
	for content, want := range map[string]string{
		"":                            "byte 0 of 0: the file is empty",
		`{"topics":{"a":1}}`:          `byte 11 of 18: "topics" can't be a JSON object`,
		`{"topics":[{"name":["a"]}]}`: `byte 20 of 27: "topics.name" can't be a JSON array`,
		`[1,2]`:                       "byte 1 of 5: nsqd.dat can't be a JSON array",
	} {
		f, err := nsqdat.Open(nsqdattest.NewDisk(map[string]string{nsqdat.Name: content}), "data")
		require.NoError(t, err)
		_, err = f.Load()
		require.ErrorIs(t, err, nsqdat.ErrCorrupt)
		require.ErrorContains(t, err, want+" (fix the file, or move it away to start without topics)")
	}
}

func TestDirectoryThatIsRemovedWhileInUse(t *testing.T) {
	disk := nsqdattest.NewDisk(nil)
	f, err := nsqdat.Open(disk, "data")
	require.NoError(t, err)
	disk.Order(func(string) nsqdattest.Fault { return nsqdattest.Fault{Err: syscall.ENOENT} })
	err = write(f, "")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "(the directory was removed while in use: create it again and restart the broker)")
}

// TestFileIsCleanIfAWriterWouldWriteTheSame: what isn't is written again once.
func TestFileIsCleanIfAWriterWouldWriteTheSame(t *testing.T) {
	for content, want := range map[string]bool{
		`{"topics":[],"version":"1.3.0"}`: true,
		`{"topics":[{"name":"a","channels":[{"name":"c"},{"name":"d","paused":true}]},{"name":"c","channels":[{"name":"c"}]}]}`: true,
		`{"topics":[{"name":"no no"}]}`:                                                  false,
		`{"topics":[{"name":"a","channels":[{"name":"no no"}]}]}`:                        false,
		`{"topics":[{"name":"a"},{"name":"a"}]}`:                                         false,
		`{"topics":[{"name":"a","channels":[{"name":"c"},{"name":"c","paused":true}]}]}`: false,
		`{"topics":[{"name":"a#ephemeral"}]}`:                                            false,
		`{"topics":[{"name":"a","channels":[{"name":"c#ephemeral"}]}]}`:                  false,
	} {
		disk := nsqdattest.NewDisk(map[string]string{nsqdat.Name: content})
		f, err := nsqdat.Open(disk, "data")
		require.NoError(t, err)
		c, err := f.Load()
		require.NoError(t, err)
		require.Equal(t, want, c.IsClean, content)
	}

	f, err := nsqdat.Open(nsqdattest.NewDisk(nil), "data")
	require.NoError(t, err)
	c, err := f.Load()
	require.NoError(t, err)
	require.False(t, c.IsClean, "there is no file")
}

func TestFileThatCannotBeSyncedIsNotClean(t *testing.T) {
	disk := nsqdattest.NewDisk(map[string]string{nsqdat.Name: fileOf(t, "")})
	f, err := nsqdat.Open(disk, "data")
	require.NoError(t, err)
	disk.Order(func(step string) nsqdattest.Fault {
		if step == "sync directory" {
			return nsqdattest.Fault{Err: syscall.EIO}
		}
		return nsqdattest.Fault{}
	})
	c, err := f.Load()
	require.NoError(t, err)
	require.False(t, c.IsClean)
}

// TestFileOfNsqd03IsNamed: nsqd 0.3 had the number of its worker in the name.
func TestFileOfNsqd03IsNamed(t *testing.T) {
	for _, tt := range []struct {
		want  string
		names []string
	}{
		{"nsqd.512.dat", []string{"nsqd.512.dat"}},
		{"nsqd.0.dat", []string{"nsqd.x.dat", "nsqd.0.dat", "nsqd.0.dat.bak", "orders.diskqueue.000000.dat"}},
		{"", []string{"nsqd.x.dat", "nsqd..dat", "xnsqd.1.dat"}},
		{"", []string{"nsqd.512.dat", nsqdat.Name}},
	} {
		files := make(map[string]string)
		for _, name := range tt.names {
			files[name] = fileOf(t, "0.3.8")
		}
		f, err := nsqdat.Open(nsqdattest.NewDisk(files), "data")
		require.NoError(t, err)
		c, err := f.Load()
		require.NoError(t, err)
		require.Equal(t, tt.want, c.Nsqd03, tt.names)
	}
}

func TestCorruptMetadataIsReportedWithFileAndByteAndLeftAsItIs(t *testing.T) {
	for content, place := range map[string]string{
		"":                                  "byte 0 of 0",
		`{"topics":[{"name":"a","pau`:       "byte 27 of 27",
		`{"topics":[],"version":"1"}xyz`:    "byte 28 of 30",
		`{"topics":[]}{}`:                   "byte 14 of 15",
		"\x00\x00\x00\x00":                  "byte 1 of 4",
		`{"topics":[{"name":7}]}`:           "byte 20 of 23",
		`{"topics":{"name":"a"}}`:           "byte 11 of 23",
		`[]`:                                "byte 1 of 2",
		`{"topics":[{"paused":"very"}]}   `: "byte 27 of 33",
	} {
		t.Run(content, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, nsqdat.Name)
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			f, err := nsqdat.Open(nsqdat.OS{}, dir)
			require.NoError(t, err)
			defer f.Close()

			_, err = f.Load()
			require.ErrorIs(t, err, nsqdat.ErrCorrupt)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, place)

			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, content, string(after))
		})
	}
}

func TestMetadataOnARealDiskIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	f, err := nsqdat.Open(nsqdat.OS{}, dir)
	require.NoError(t, err)
	defer f.Close()
	for _, topics := range []int{3, 20_000, 1, 0} { // longer, shorter, empty
		var items []nsqdat.Item
		for i := range topics {
			topic := fmt.Sprint("topic", i)
			items = append(items, nsqdat.Item{Topic: topic},
				nsqdat.Item{Topic: topic, Channel: "a", Paused: i%2 == 0}, nsqdat.Item{Topic: topic, Channel: "b"})
		}
		require.NoError(t, write(f, fmt.Sprint(topics), items...))
		version, loaded := load(t, f)
		require.Equal(t, fmt.Sprint(topics), version)
		require.Equal(t, items, loaded)

		info, err := os.Stat(f.Path())
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm(), "as nsqd writes it")
		require.Equal(t, []string{nsqdat.Name}, namesIn(t, dir))
	}
}

// namesIn are the names of all that is in a directory.
func namesIn(t testing.TB, dir string) (names []string) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestCloseTellsThatTheDataPathStaysLocked(t *testing.T) {
	disk := nsqdattest.NewDisk(nil)
	f, err := nsqdat.Open(disk, "data")
	require.NoError(t, err)
	disk.Order(func(step string) nsqdattest.Fault { return nsqdattest.Fault{Err: syscall.EIO} })
	err = f.Close()
	require.ErrorIs(t, err, syscall.EIO)
	require.ErrorContains(t, err, "lookuploop: unlock data path data: ")
}

func TestACrashKeepsAnyOfTheChangesThatWereNotSynced(t *testing.T) {
	disk := nsqdattest.NewDisk(nil)
	dir, err := disk.Open("data")
	require.NoError(t, err)
	for _, name := range []string{"a", "b"} {
		f, err := dir.Create(name)
		require.NoError(t, err)
		_, err = f.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, f.Sync())
		require.NoError(t, f.Close())
	}
	var outcomes []map[string]string
	for _, left := range disk.AfterCrash() {
		outcomes = append(outcomes, left.Files())
	}
	require.ElementsMatch(t, []map[string]string{{}, {"a": "x"}, {"b": "x"}, {"a": "x", "b": "x"}}, outcomes)
}
