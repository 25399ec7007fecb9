package lookuploop

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/atomic"

	"github.com/lookuploop/lookuploop/internal/nsqdat"
)

// countingDisk counts the bytes that are written to it.
type countingDisk struct {
	nsqdat.OS
	written atomic.Int64
}

func (d *countingDisk) Open(path string) (nsqdat.Directory, error) {
	dir, err := d.OS.Open(path)
	return countingDirectory{dir, d}, err
}

type countingDirectory struct {
	nsqdat.Directory
	disk *countingDisk
}

func (d countingDirectory) Create(name string) (nsqdat.TempFile, error) {
	file, err := d.Directory.Create(name)
	return countingFile{file, d.disk}, err
}

type countingFile struct {
	nsqdat.TempFile
	disk *countingDisk
}

func (f countingFile) Write(p []byte) (int, error) {
	f.disk.written.Add(int64(len(p)))
	return f.TempFile.Write(p)
}

// BenchmarkBurst measures a burst of new topics, until PersistMetadata returns
// that all are on disk: ns/op, and x-size, the bytes written by the size of
// nsqd.dat in the end. Where there are few enough it is done as nsqd does it
// too, which writes and syncs the whole file for each: x-each is how many times
// as fast the Loop is, each-x-size what nsqd's way writes.
func BenchmarkBurst(b *testing.B) {
	for _, n := range []int{500, 20_000} {
		b.Run(fmt.Sprintf("topics=%d", n), func(b *testing.B) {
			var ours, each time.Duration
			var written, writtenEach, size float64
			for b.Loop() {
				inTurns(
					func() {
						d, bytes, total := burst(b, n, false)
						ours += d
						written += bytes
						size += total
					},
					func() {
						if n <= 500 {
							d, bytes, _ := burst(b, n, true)
							each += d
							writtenEach += bytes
						}
					},
				)
			}
			b.ReportMetric(nanoseconds(ours)/float64(b.N), "ns/op")
			b.ReportMetric(written/size, "x-size")
			if each > 0 {
				b.ReportMetric(ratio(each, ours), "x-each")
				b.ReportMetric(writtenEach/size, "each-x-size")
			}
		})
	}
}

// burst makes n topics, and persists after each or in the end.
func burst(b *testing.B, n int, each bool) (took time.Duration, written, size float64) {
	dir := b.TempDir()
	disk := new(countingDisk)
	loop := newLoop(b, func(o *Options) { o.DataPath = dir })
	loop.disk = disk
	_, err := loop.LoadMetadata()
	require.NoError(b, err)
	end := run(b, loop)
	took = timed(func() {
		for i := range n {
			require.NoError(b, loop.Notify(TopicCreated(fmt.Sprintf("orders-%06d", i))))
			if each {
				require.NoError(b, loop.PersistMetadata(b.Context()))
			}
		}
		require.NoError(b, loop.PersistMetadata(b.Context()))
	})
	end()
	info, err := os.Stat(filepath.Join(dir, nsqdat.Name))
	require.NoError(b, err)
	return took, float64(disk.written.Load()), float64(info.Size())
}

// BenchmarkLoadMetadata measures LoadMetadata of 100,000 topics, and x-json,
// how many times as long as json.Unmarshal of the file alone it takes.
func BenchmarkLoadMetadata(b *testing.B) {
	dir := b.TempDir()
	data := []byte(encoded(b, someMetadata(100_000)))
	require.NoError(b, os.WriteFile(filepath.Join(dir, nsqdat.Name), data, 0o600))
	var ours, parse time.Duration
	for b.Loop() {
		inTurns(
			func() {
				loop := newLoop(b, func(o *Options) { o.DataPath = dir })
				ours += timed(func() {
					_, err := loop.LoadMetadata()
					require.NoError(b, err)
				})
				require.NoError(b, loop.Close())
			},
			func() {
				var m Metadata
				parse += timed(func() { require.NoError(b, json.Unmarshal(data, &m)) })
			},
		)
	}
	b.ReportMetric(nanoseconds(ours)/float64(b.N), "ns/op")
	b.ReportMetric(ratio(ours, parse), "x-json")
}

// BenchmarkSnapshot measures how long it takes to copy 100,000
// registrations for nsqd.dat: 100,000 topics, or 50,000 topics of a channel.
// x-copy is how many times as long it takes as to copy an equal Metadata.
func BenchmarkSnapshot(b *testing.B) {
	topics := someMetadata(100_000)
	for i := range topics.Topics {
		topics.Topics[i].Channels = nil
	}
	for _, bm := range []struct {
		name string
		m    Metadata
	}{{"topics", topics}, {"channels", someMetadata(50_000)}} {
		b.Run(bm.name, func(b *testing.B) {
			loop := newLoop(b)
			require.NoError(b, loop.SetMetadata(bm.m))
			var ours, plain time.Duration
			for b.Loop() {
				inTurns(
					func() { ours += timed(func() { loop.reg.Snapshot(true) }) },
					func() { plain += timed(func() { copyMetadata(bm.m) }) },
				)
			}
			b.ReportMetric(nanoseconds(ours)/float64(b.N), "ns/op")
			b.ReportMetric(ratio(ours, plain), "x-copy")
		})
	}
}

// inTurns calls each of fs once, in any order.
func inTurns(fs ...func()) {
	for _, i := range rand.Perm(len(fs)) {
		fs[i]()
	}
}

// timed returns how long f takes.
func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

func nanoseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) }

// copyMetadata copies the lists of m, and no names.
func copyMetadata(m Metadata) Metadata {
	m.Topics = slices.Clone(m.Topics)
	for i := range m.Topics {
		m.Topics[i].Channels = slices.Clone(m.Topics[i].Channels)
	}
	return m
}

// countCommands serves one connection after another until the listener is
// closed, and says OK to everything.
func countCommands(listener net.Listener) map[string]int {
	count := make(map[string]int)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return count
		}
		sayOK(conn, func(verb string) { count[verb]++ })
		conn.Close()
	}
}

// sayOK answers each command until the connection ends.
func sayOK(conn net.Conn, heard func(verb string)) {
	r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
	r.Discard(len("  V1"))
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		heard(verb)
		if verb == "IDENTIFY" {
			var size [4]byte
			io.ReadFull(r, size[:])
			r.Discard(int(binary.BigEndian.Uint32(size[:])))
		}
		w.WriteString("\x00\x00\x00\x02OK")
		if r.Buffered() == 0 {
			w.Flush()
		}
	}
}
