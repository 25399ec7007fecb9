package lookupdtest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// Outside of bubbles a Network works too, in real time.
func ExampleNetwork() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()

	conn, err := network.Dial(context.Background(), "tcp", "lookupd.test:4160")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	b := broker{conn}
	fmt.Println(b.identify())
	fmt.Println(b.ask("REGISTER orders"))

	heal := network.Partition("lookupd.test")
	fmt.Println(b.ask("PING"))
	heal()
	fmt.Println(b.answer())

	resp, err := network.Client().Get("http://lookupd.test:4161/topics")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output:
	// {"broadcast_address":"lookupd.test","hostname":"lookupd.test","http_port":4161,"tcp_port":4160,"version":"1.3.0"}
	// OK
	// no answer
	// OK
	// {"topics":["orders"]} <nil>
}

// What a broker needs of the network fits together: its Dial and Client reach what the
// Network itself, as a resolver, leads to.
func ExampleNetwork_SetHosts() {
	network := lookupdtest.NewNetwork()
	for _, host := range []string{"a.test", "b.test"} {
		defer network.NewServer(host + ":4160").Close()
	}
	network.SetHosts("lookupd.test", "a.test", "b.test")

	ctx := context.Background()
	ips, err := network.LookupNetIP(ctx, "ip", "lookupd.test")
	fmt.Println(ips, err)
	conn, err := network.Dial(ctx, "tcp", ips[1].String()+":4160")
	fmt.Println(broker{conn}.identify(), err)

	network.SetHosts("lookupd.test")
	_, err = network.LookupHost(ctx, "lookupd.test")
	fmt.Println(err)
	// Output:
	// [198.18.0.1 198.18.0.2] <nil>
	// {"broadcast_address":"b.test","hostname":"b.test","http_port":4161,"tcp_port":4160,"version":"1.3.0"} <nil>
	// lookup lookupd.test: no such host
}

func ExampleNetwork_SetSRV() {
	network := lookupdtest.NewNetwork()
	network.SetSRV("_lookupd._tcp.test", "a.test:4160", "b.test:4162")

	_, records, err := network.LookupSRV(context.Background(), "lookupd", "tcp", "test")
	for _, record := range records {
		fmt.Println(record.Target, record.Port)
	}
	fmt.Println(err)
	// Output:
	// a.test. 4160
	// b.test. 4162
	// <nil>
}

func ExampleNetwork_SetLatency() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	b := connectOn(network, "lookupd.test:4160")

	network.SetLatency(10 * time.Millisecond) // in each direction
	start := time.Now()
	fmt.Println(b.ask("PING"), time.Since(start) >= 20*time.Millisecond)
	// Output:
	// OK true
}

func ExampleNetwork_SetBandwidth() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	b := connectOn(network, "lookupd.test:4160")

	network.SetBandwidth(500) // bytes per second: 10 ms for the command and 12 ms for its answer
	start := time.Now()
	fmt.Println(b.ask("PING"), time.Since(start) >= 22*time.Millisecond)
	// Output:
	// OK true
}

// With small buffers and a server that doesn't read, writes wait.
func ExampleNetwork_SetBuffer() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	b := connectOn(network, "lookupd.test:4160")

	network.SetBuffer(10)
	lookupd.Do(lookupdtest.HalfOpen())
	b.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for {
		if _, err := b.Write([]byte("PING\n")); err != nil {
			fmt.Println(errors.Is(err, os.ErrDeadlineExceeded))
			return
		}
	}
	// Output:
	// true
}

func ExampleNetwork_Partition() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	b := connectOn(network, "lookupd.test:4160")

	heal := network.Partition("lookupd.test")
	fmt.Println(b.ask("PING"))
	heal()
	fmt.Println(b.answer())
	// Output:
	// no answer
	// OK
}

func ExampleNetwork_Reset() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	b := connectOn(network, "lookupd.test:4160")

	network.Reset("lookupd.test")
	fmt.Println(b.answer())
	// Output:
	// connection reset
}

// connectOn connects over a Network and sends IDENTIFY.
func connectOn(network *lookupdtest.Network, address string) broker {
	conn, err := network.Dial(context.Background(), "tcp", address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	b := broker{conn}
	b.identify()
	return b
}
