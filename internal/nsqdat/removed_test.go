package nsqdat_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
	"github.com/lookuploop/lookuploop/internal/nsqdat/nsqdattest"
)

func TestFileThatIsRemovedIsWrittenAgain(t *testing.T) {
	for name, look := range map[string]func(*writerBench) error{
		"before Run": func(b *writerBench) error { return b.writer.Persist(b.t.Context()) },
		"during Run": func(b *writerBench) error {
			b.run()
			defer b.end()
			return b.writer.Persist(b.t.Context())
		},
		"at the end": func(b *writerBench) error { b.run(); return b.end() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				b := newWriterBench(t)
				b.disk.Remove(nsqdat.Name)
				require.NoError(t, look(b))
				b.requireOnDisk(0)
				require.EqualValues(t, 1, b.writer.Status().Writes)
				require.Equal(t, []string{"WARN metadata file was removed or replaced, writing it again"}, b.logged())
			})
		})
	}
}

func TestLookingAtTheFileHurtsNobody(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b := newWriterBench(t)
		b.run()
		require.NoError(t, b.writer.Persist(t.Context()))
		b.change(1)
		require.NoError(t, b.writer.Persist(t.Context()))
		require.NoError(t, b.writer.Persist(t.Context()))
		require.EqualValues(t, 1, b.writer.Status().Writes, "it is there")

		slow := true
		b.disk.Order(func(step string) nsqdattest.Fault {
			if step == "stat" && slow {
				slow = false
				time.Sleep(time.Second)
			}
			return nsqdattest.Fault{}
		})
		result := b.persistLater()
		b.change(1) // is written while the other looks
		require.NoError(t, <-result)
		require.NoError(t, b.end())
		require.EqualValues(t, 2, b.writer.Status().Writes, "it was replaced by ourselves")
		b.disk.Remove(nsqdat.Name)
		require.NoError(t, b.writer.Persist(t.Context()), "the directory is not ours any more")
		require.Empty(t, b.logged())
	})
}

// TestFileOnARealDiskIsKnownAgain is about what else than a removal may happen.
func TestFileOnARealDiskIsKnownAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(path string) error
		want bool
	}{
		"nothing":    {func(string) error { return nil }, true},
		"read":       {func(path string) error { _, err := os.ReadFile(path); return err }, true},
		"removed":    {os.Remove, false},
		"written to": {func(path string) error { return os.WriteFile(path, []byte("{}"), 0o600) }, false},
		"replaced by a copy": {func(path string) error {
			data, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+"2", data, 0o600), os.Rename(path+"2", path))
		}, false},
		"moved away and back": {func(path string) error {
			return errors.Join(os.Rename(path, path+"2"), os.Rename(path+"2", path))
		}, true},
		"moved behind a link": {func(path string) error {
			return errors.Join(os.Rename(path, path+"2"), os.Symlink(path+"2", path))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := nsqdat.Open(nsqdat.OS{}, t.TempDir())
			require.NoError(t, err)
			defer f.Close()
			require.False(t, f.IsOurs(), "there is none")
			require.NoError(t, write(f, "", bigItems()...))
			require.True(t, f.IsOurs(), "it was written")
			require.NoError(t, tt.do(f.Path()))
			require.Equal(t, tt.want, f.IsOurs())
			_, err = f.Load()
			if info, statErr := os.Lstat(f.Path()); statErr == nil && err == nil {
				require.Equal(t, info.Mode().IsRegular(), f.IsOurs(), "it was loaded")
			}
		})
	}
}
