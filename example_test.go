package lookuploop_test

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

func Example() {
	lookupd := lookupdtest.NewServer() // in production: nsqlookupd
	defer lookupd.Close()

	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: []string{lookupd.TCPAddress},
		BroadcastAddress:    "broker.example.com",
		BroadcastTCPPort:    4150,
		BroadcastHTTPPort:   4151,
		Logger:              slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err) // it names every option at fault
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()

	// Whenever the broker gets or loses a topic or channel:
	err = loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.ChannelCreated("orders", "mail"))
	if err != nil {
		panic(err)
	}
	err = loop.WaitRegistered(ctx, 0) // if someone must know that consumers find it now
	fmt.Println(lookupd.Producers("orders", "mail"), err)

	stop()
	fmt.Println(<-ended, lookupd.Wait(context.Background(), func() bool { return lookupd.Connections() == 0 }))
	// Output:
	// [broker.example.com:4150] <nil>
	// <nil> <nil>
}
