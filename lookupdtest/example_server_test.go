package lookupdtest_test

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/lookuploop/lookuploop/lookupdtest"
)

// The error of Wait says what the server knows instead.
func ExampleServer_Wait() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	connectOn(network, "lookupd.test:4160").ask("REGISTER orders")

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	fmt.Println(lookupd.Wait(ctx, func() bool { return len(lookupd.Producers("orders", "")) == 1 }))
	fmt.Println(lookupd.Wait(ctx, func() bool { return len(lookupd.Producers("orders", "mail")) == 1 }))
	// Output:
	// <nil>
	// lookupdtest: lookupd.test:4160: the condition that was waited for did not come true: context deadline exceeded; the server has connections: 1, standing orders: 0, registered: orders by [broker.test:4150]
}

func ExampleServer_CloseConnections() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	b := connect(lookupd)
	fmt.Println(lookupd.Connections())

	lookupd.CloseConnections()
	fmt.Println(b.answer())
	fmt.Println(connect(lookupd).ask("PING"))
	// Output:
	// 1
	// connection reset
	// OK
}

// Fields are set before the server starts.
func ExampleNewUnstartedServer() {
	lookupd := lookupdtest.NewUnstartedServer()
	lookupd.Version = "1.1.0"
	lookupd.KeepEphemeralTopics = true // as that version does
	lookupd.WrapHTTP = func(http.Handler) http.Handler { return http.NotFoundHandler() }
	lookupd.Start()
	defer lookupd.Close()

	b := connect(lookupd)
	b.ask("REGISTER clicks#ephemeral")
	b.ask("UNREGISTER clicks#ephemeral")
	fmt.Println(lookupd.Topics())

	resp, err := http.Get("http://" + lookupd.HTTPAddress + "/topics")
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// [clicks#ephemeral]
	// 404 Not Found
}

func ExampleNetwork_NewUnstartedServer() {
	network := lookupdtest.NewNetwork()
	lookupd := network.NewUnstartedServer("lookupd.test:4160")
	lookupd.Version = "2.0.0"
	lookupd.Start()
	defer lookupd.Close()

	conn, err := network.Dial(context.Background(), "tcp", lookupd.TCPAddress)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(broker{conn}.identify())
	// Output:
	// {"broadcast_address":"lookupd.test","hostname":"lookupd.test","http_port":4161,"tcp_port":4160,"version":"2.0.0"}
}
