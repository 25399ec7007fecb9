package lookupdtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkRegister sends pipelined REGISTERs, ten channels to a topic, over loopback
// and reads the answers; with NSQLOOKUPD set, also to a real nsqlookupd.
func BenchmarkRegister(b *testing.B) {
	b.Run("lookupdtest", func(b *testing.B) {
		s := NewServer()
		defer s.Close()
		benchmarkRegister(b, s.TCPAddress)
	})
	b.Run("nsqlookupd", func(b *testing.B) {
		binary := os.Getenv("NSQLOOKUPD")
		if binary == "" {
			b.Skip("NSQLOOKUPD names no nsqlookupd")
		}
		address := freeAddress(b)
		process := exec.Command(binary, "-tcp-address", address, "-http-address", freeAddress(b), "-log-level", "error")
		require.NoError(b, process.Start())
		defer process.Wait()
		defer process.Process.Kill()
		benchmarkRegister(b, address)
	})
}

func benchmarkRegister(b *testing.B, address string) {
	conn, err := net.Dial("tcp", address)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); { // a process takes its time
		conn, err = net.Dial("tcp", address)
	}
	require.NoError(b, err)
	defer conn.Close()
	_, err = io.WriteString(conn, magicIdentify("broker.test", 4150))
	require.NoError(b, err)
	r := bufio.NewReader(conn)
	_, err = (&client{Conn: conn, r: r}).response()
	require.NoError(b, err)

	const batch = 1000
	w := bufio.NewWriterSize(conn, 64<<10)
	answers := make([]byte, batch*len("\x00\x00\x00\x02OK"))
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		for range batch {
			fmt.Fprintf(w, "REGISTER topic-%d channel-%d\n", i/10%10000, i%10)
			i++
		}
		require.NoError(b, w.Flush())
		_, err := io.ReadFull(r, answers)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "commands/s")
}

// BenchmarkConnectionEnd measures how long the end of a connection takes that
// registered little, beside one that registered a lot: it costs what it registered.
func BenchmarkConnectionEnd(b *testing.B) {
	for _, others := range []int{0, 100_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			db := newDatabase()
			big, _ := db.identify("big", []byte(benchIdentity))
			for i := range others {
				db.register(big, fmt.Sprintf("topic-%d", i), "")
			}
			for b.Loop() {
				p, _ := db.identify("small", []byte(benchIdentity))
				for i := range 10 {
					db.register(p, fmt.Sprintf("topic-%d", i), "")
				}
				db.forget(p)
			}
		})
	}
}

const benchIdentity = `{"broadcast_address":"b","tcp_port":1,"http_port":1,"version":"1"}`
