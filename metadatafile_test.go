package lookuploop

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// bigMetadata takes several writes; its version tells one from another.
func bigMetadata(version string) Metadata {
	topic := TopicMetadata{Name: strings.Repeat("t", 5000), Channels: []ChannelMetadata{}}
	return Metadata{Version: version, Topics: []TopicMetadata{topic, topic}}
}

func encoded(t testing.TB, m Metadata) string {
	var b strings.Builder
	require.NoError(t, m.encode(&b))
	return b.String()
}

// stepsOfWrite are those of a write that succeeds, in their order.
var stepsOfWrite = []string{"create", "write", "write", "write", "sync", "close", "rename", "sync directory"}

// writeWithFaults opens the file on a disk that holds files, and writes m while
// the k-th step from then on meets faults[k].
func writeWithFaults(t testing.TB, files map[string]string, m Metadata, faults map[int]fault) (*memoryDisk, *metadataFile, error) {
	disk := newMemoryDisk(files)
	f, err := openMetadataFile("data", disk)
	require.NoError(t, err)
	k := -1
	disk.order(func(string) fault { k++; return faults[k] })
	disk.steps = nil
	err = f.write(m)
	disk.order(nil)
	return disk, f, err
}

// requireAfterCrash starts again from everything that a crash now can leave, and
// wants the version that it loads among those allowed; "" is no file.
func requireAfterCrash(t testing.TB, disk *memoryDisk, allowed ...string) {
	t.Helper()
	for _, rest := range disk.afterCrash() {
		f, err := openMetadataFile("data", rest)
		require.NoError(t, err)
		m, err := f.load()
		require.NoError(t, err)
		require.Contains(t, allowed, m.Version)
		if m.Version != "" {
			require.Equal(t, bigMetadata(m.Version), m)
		}
		requireNoTempFile(t, rest)
	}
}

func requireNoTempFile(t testing.TB, disk *memoryDisk) {
	t.Helper()
	for _, path := range disk.paths() {
		require.Equal(t, filepath.Join("data", metadataName), path)
	}
}

// forEachStart runs test on a disk without and on one with an old file.
func forEachStart(t *testing.T, test func(t *testing.T, files map[string]string, old string)) {
	t.Run("no file before", func(t *testing.T) { test(t, nil, "") })
	t.Run("old file before", func(t *testing.T) {
		test(t, map[string]string{filepath.Join("data", metadataName): encoded(t, bigMetadata("old"))}, "old")
	})
}

func TestMetadataIsDurableOnceWriteReturns(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, _ string) {
		disk, f, err := writeWithFaults(t, files, bigMetadata("new"), nil)
		require.NoError(t, err)
		require.Equal(t, stepsOfWrite, disk.steps)
		requireNoTempFile(t, disk)
		requireAfterCrash(t, disk, "new")

		m, err := f.load()
		require.NoError(t, err)
		require.Equal(t, bigMetadata("new"), m)
	})
}

func TestMetadataIsOldOrNewAfterACrashAtAnyStep(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		for k := range stepsOfWrite {
			disk, _, err := writeWithFaults(t, files, bigMetadata("new"), map[int]fault{k: {crash: true}})
			require.ErrorIs(t, err, errMachineStopped)
			requireAfterCrash(t, disk, old, "new")
		}
	})
}

// forEachError runs test with an error at each step of a write, one that
// prevents the step and one in spite of which it took effect.
func forEachError(test func(k int, f fault)) {
	for k := range stepsOfWrite {
		test(k, fault{err: syscall.EIO})
		test(k, fault{err: syscall.EIO, done: true})
		test(k, fault{err: syscall.ENOSPC})
	}
}

func TestMetadataIsOldOrNewAfterAnErrorAtAnyStep(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		forEachError(func(k int, at fault) {
			disk, f, err := writeWithFaults(t, files, bigMetadata("new"), map[int]fault{k: at})
			require.ErrorIs(t, err, at.err)
			require.ErrorContains(t, err, f.path)
			requireAfterCrash(t, disk, old, "new")
			if stepsOfWrite[k] != "create" || !at.done { // created and yet an error: nobody knows its name
				requireNoTempFile(t, disk)
			}

			require.NoError(t, f.write(bigMetadata("newer")))
			requireAfterCrash(t, disk, "newer")
		})
	})
}

func TestMetadataIsOldOrNewAfterAnErrorFollowedByASecondFault(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		forEachError(func(k int, first fault) {
			for second := k + 1; second < k+4; second++ { // the steps after an error: close, remove
				for _, then := range []fault{{crash: true}, {err: syscall.EIO}} {
					disk, _, err := writeWithFaults(t, files, bigMetadata("new"), map[int]fault{k: first, second: then})
					require.ErrorIs(t, err, first.err)
					requireAfterCrash(t, disk, old, "new")
				}
			}
		})
	})
}

func TestMetadataIsOldOrNewAfterACrashAtAnyStepOfARetry(t *testing.T) {
	forEachStart(t, func(t *testing.T, files map[string]string, old string) {
		forEachError(func(k int, first fault) {
			for crash := range stepsOfWrite {
				disk, f, err := writeWithFaults(t, files, bigMetadata("new"), map[int]fault{k: first})
				require.Error(t, err)
				step := -1
				disk.order(func(string) fault { step++; return fault{crash: step == crash} })
				require.ErrorIs(t, f.write(bigMetadata("newer")), errMachineStopped)
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
	f, err := openMetadataFile(dir, osFileSystem{})
	require.NoError(t, err)
	require.NoError(t, f.close())

	names, err := osFileSystem{}.listFiles(dir)
	require.NoError(t, err)
	require.ElementsMatch(t, others, names)
}

func TestOpeningThatFailsLeavesTheDataPathUnlocked(t *testing.T) {
	for _, failing := range []string{"list", "remove"} {
		disk := newMemoryDisk(map[string]string{filepath.Join("data", "nsqd.dat.7.tmp"): ""})
		disk.order(func(step string) fault {
			if step == failing {
				return fault{err: syscall.EIO}
			}
			return fault{}
		})
		_, err := openMetadataFile("data", disk)
		require.ErrorIs(t, err, syscall.EIO)
		require.ErrorContains(t, err, "data")

		disk.order(nil)
		_, err = openMetadataFile("data", disk)
		require.NoError(t, err)
	}
}

func TestMissingMetadataIsEmptyAndUnreadableMetadataIsAnError(t *testing.T) {
	disk := newMemoryDisk(nil)
	f, err := openMetadataFile("data", disk)
	require.NoError(t, err)
	m, err := f.load()
	require.NoError(t, err)
	require.Zero(t, m)

	disk.order(func(string) fault { return fault{err: syscall.EACCES} })
	_, err = f.load()
	require.ErrorIs(t, err, syscall.EACCES)
	require.NotErrorIs(t, err, ErrCorruptMetadata)
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
			path := filepath.Join(dir, metadataName)
			require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
			f, err := openMetadataFile(dir, osFileSystem{})
			require.NoError(t, err)
			defer f.close()

			_, err = f.load()
			require.ErrorIs(t, err, ErrCorruptMetadata)
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
	f, err := openMetadataFile(dir, osFileSystem{})
	require.NoError(t, err)
	defer f.close()
	for _, topics := range []int{3, 20_000, 1, 0} { // longer, shorter, empty
		m := Metadata{Version: fmt.Sprint(topics), Topics: []TopicMetadata{}}
		for i := range topics {
			channels := []ChannelMetadata{{Name: "a", Paused: i%2 == 0}, {Name: "b"}}
			m.Topics = append(m.Topics, TopicMetadata{Name: fmt.Sprint("topic", i), Channels: channels})
		}
		require.NoError(t, f.write(m))
		loaded, err := f.load()
		require.NoError(t, err)
		require.Equal(t, m, loaded)

		info, err := os.Stat(f.path)
		require.NoError(t, err)
		require.EqualValues(t, 0o600, info.Mode().Perm(), "as nsqd writes it")
		names, err := osFileSystem{}.listFiles(dir)
		require.NoError(t, err)
		require.Equal(t, []string{metadataName}, names)
	}
}
