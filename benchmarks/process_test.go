package main_test

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// process is a lookupd, or a slow line to one, outside of this process, so
// that this process's CPU time is the client's.
type process struct {
	address string
	end     func()
}

// helperTask names the environment variable that makes TestHelperProcess one.
const helperTask = "LOOKUPLOOP_HELPER"

// TestHelperProcess is no test but the main function of the processes that
// benchmarks start: they run the test binary once more.
func TestHelperProcess(t *testing.T) {
	task := strings.Fields(os.Getenv(helperTask))
	if len(task) == 0 {
		t.Skip("only benchmarks run this, as a process of its own")
	}
	switch task[0] {
	case "lookupdtest":
		lookupd := lookupdtest.NewServer()
		defer lookupd.Close()
		os.Stdout.WriteString(lookupd.TCPAddress + "\n")
	case "line":
		delay, err := time.ParseDuration(task[1])
		require.NoError(t, err)
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		go runLine(listener, delay, task[2])
		os.Stdout.WriteString(listener.Addr().String() + "\n")
	}
	io.Copy(io.Discard, os.Stdin) // until the benchmark ends, however it does
	os.Exit(0)
}

func startHelper(b testing.TB, task string) process {
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(os.Environ(), helperTask+"="+task)
	stdin, err := cmd.StdinPipe()
	require.NoError(b, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	address, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(b, err)
	return process{strings.TrimSpace(address), func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	}}
}

// lookupds are the lookupds that benchmarks know: lookupdtest, and a real
// nsqlookupd where NSQLOOKUPD names the binary. Each call of start starts a new
// and empty one.
var lookupds = []struct {
	name  string
	start func(testing.TB) process
}{
	{"lookupdtest", func(b testing.TB) process { return startHelper(b, "lookupdtest") }},
	{"nsqlookupd", startNSQLookupd},
}

// startNSQLookupd starts a real nsqlookupd that logs errors only: at its
// default level it logs every REGISTER, and that would be what is measured.
func startNSQLookupd(b testing.TB) process {
	binary := os.Getenv("NSQLOOKUPD")
	if binary == "" {
		b.Skip("NSQLOOKUPD names no nsqlookupd")
	}
	address := freeAddress(b)
	cmd := exec.Command(binary, "-tcp-address", address, "-http-address", freeAddress(b), "-log-level", "error")
	require.NoError(b, cmd.Start())
	end := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	conn, err := net.Dial("tcp", address)
	for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); {
		conn, err = net.Dial("tcp", address)
	}
	if err != nil {
		end()
		require.NoError(b, err)
	}
	conn.Close()
	return process{address, end}
}

// freeAddress returns an address on loopback where nobody listens.
func freeAddress(b testing.TB) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer listener.Close()
	return listener.Addr().String()
}

// startFar starts a lookupd at the end of a line with this round trip.
func startFar(b testing.TB, start func(testing.TB) process, roundTrip time.Duration) process {
	lookupd := start(b)
	if roundTrip == 0 {
		return lookupd
	}
	line := startHelper(b, "line "+roundTrip.String()+" "+lookupd.address)
	return process{line.address, func() {
		line.end()
		lookupd.end()
	}}
}

// runLine forwards connections to address. Each answer arrives delay later, so
// that a round trip takes so much longer, however much is under way.
func runLine(listener net.Listener, delay time.Duration, address string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", address)
		if err != nil {
			client.Close()
			continue
		}
		type chunk struct {
			data []byte
			due  time.Time
		}
		chunks := make(chan chunk, 1<<16)
		go func() {
			io.Copy(server, client)
			server.Close()
		}()
		go func() {
			defer close(chunks)
			for {
				data := make([]byte, 16<<10)
				n, err := server.Read(data)
				if err != nil {
					return
				}
				chunks <- chunk{data[:n], time.Now().Add(delay)}
			}
		}()
		go func() {
			defer client.Close()
			for c := range chunks {
				time.Sleep(time.Until(c.due))
				if _, err := client.Write(c.data); err != nil {
					return
				}
			}
		}()
	}
}
