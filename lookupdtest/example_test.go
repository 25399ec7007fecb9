package lookupdtest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// broker stands for what is tested: it has a connection to a lookupd.
type broker struct{ net.Conn }

// connect connects and sends IDENTIFY.
func connect(lookupd *lookupdtest.Server) broker {
	conn, err := net.Dial("tcp", lookupd.TCPAddress)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	b := broker{conn}
	b.identify()
	return b
}

func (b broker) identify() string {
	body := `{"broadcast_address":"broker.test","hostname":"h","tcp_port":4150,"http_port":4151,"version":"1"}`
	fmt.Fprintf(b, "  V1IDENTIFY\n%s%s", binary.BigEndian.AppendUint32(nil, uint32(len(body))), body)
	return b.answer()
}

// ask sends a command and returns what comes back.
func (b broker) ask(command string) string {
	fmt.Fprintf(b, "%s\n", command)
	return b.answer()
}

// answer reads a response, and says in words what it got if that isn't one.
func (b broker) answer() string {
	b.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	var size [4]byte
	n, err := io.ReadFull(b, size[:])
	if err == nil {
		length := int32(binary.BigEndian.Uint32(size[:]))
		if length < 0 || length > 1<<20 {
			return fmt.Sprintf("a length of %d", length)
		}
		body := make([]byte, length)
		if n, err = io.ReadFull(b, body); err == nil {
			return string(body)
		}
		n += len(size)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "no answer"
	case errors.Is(err, syscall.ECONNRESET):
		return "connection reset"
	default:
		return fmt.Sprintf("closed after %d bytes", n)
	}
}

func Example() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()

	b := connect(lookupd)
	go b.ask("REGISTER orders mail")

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := lookupd.Wait(ctx, func() bool { return len(lookupd.Producers("orders", "mail")) == 1 })
	fmt.Println(err, lookupd.Topics(), lookupd.Channels("orders"), lookupd.Producers("orders", "mail"))
	// Output:
	// <nil> [orders] [mail] [broker.test:4150]
}

func ExampleServer_Stop() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)
	b.ask("REGISTER orders")

	lookupd.Stop()
	fmt.Println(b.answer())
	lookupd.Start() // at the same addresses, knowing nothing
	fmt.Println(lookupd.Topics())
	fmt.Println(connect(lookupd).ask("PING"))
	// Output:
	// connection reset
	// []
	// OK
}

// The HTTP API is that of nsqlookupd.
func ExampleServer_http() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	connect(lookupd).ask("REGISTER orders mail")

	resp, err := http.Get("http://" + lookupd.HTTPAddress + "/channels?topic=orders")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output:
	// {"channels":["mail"]} <nil>
}
