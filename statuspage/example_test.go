package statuspage_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/lookuploop/lookuploop/statuspage"
)

func ExampleReady() {
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
		panic(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/ready", statuspage.Ready(loop, 1))
	probe := func() {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/ready", nil))
		fmt.Print(answer.Code, " ", answer.Body)
	}

	probe()
	go loop.Run(context.Background())
	loop.WaitRegistered(context.Background(), 1)
	probe()
	loop.Close()
	probe()
	// Output:
	// 503 lookuploop: not registered: Run isn't running (start it: go loop.Run(ctx))
	// 200 ready
	// 503 lookuploop: closed
}

func ExampleHandler() {
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
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()

	mux := http.NewServeMux()
	mux.Handle("/debug/lookuploop", statuspage.Handler(loop))
	server := httptest.NewServer(mux)
	defer server.Close()

	loop.Notify(lookuploop.TopicCreated("orders"))
	fmt.Println(loop.WaitRegistered(ctx, 0))

	answer, err := server.Client().Get(server.URL + "/debug/lookuploop?topic=orders")
	if err != nil {
		panic(err)
	}
	defer answer.Body.Close()
	var status struct {
		Lookupds []struct {
			State      string
			TopicState string `json:"topic_state"`
			Pending    int
		}
	}
	err = json.NewDecoder(answer.Body).Decode(&status)
	fmt.Printf("%+v %v\n", status.Lookupds, err)

	stop()
	fmt.Println(<-ended)
	// Output:
	// <nil>
	// [{State:connected TopicState:registered Pending:0}] <nil>
	// <nil>
}
