package lookupprom_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
	"github.com/lookuploop/lookuploop/lookupprom"
)

func ExampleNewCollector() {
	network := lookupdtest.NewNetwork() // in production: TCP, and nsqlookupd
	lookupd := network.NewServer("lookupd.test:4160")
	defer lookupd.Close()
	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: []string{lookupd.TCPAddress},
		BroadcastAddress:    "broker.example.com",
		Hostname:            "broker-1",
		Version:             "1.3.0",
		BroadcastTCPPort:    4150,
		BroadcastHTTPPort:   4151,
		Dial:                network.Dial,
		Logger:              slog.New(slog.DiscardHandler),
	})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()

	registry := prometheus.NewRegistry()
	registry.MustRegister(lookupprom.NewCollector(loop))
	server := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{})) // at /metrics in production
	defer server.Close()

	loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.ChannelCreated("orders", "mail"))
	fmt.Println(loop.WaitRegistered(ctx, 0))

	scrape, err := server.Client().Get(server.URL)
	if err != nil {
		panic(err)
	}
	defer scrape.Body.Close()
	for lines := bufio.NewScanner(scrape.Body); lines.Scan(); {
		if line := lines.Text(); !strings.HasPrefix(line, "#") && !strings.Contains(line, "seconds") {
			fmt.Println(line)
		}
	}
	stop()
	fmt.Println(<-ended)
	// Output:
	// <nil>
	// lookuploop_broker_info{broadcast_address="broker.example.com",hostname="broker-1",http_port="4151",region="",tcp_port="4150",version="1.3.0",zone=""} 1
	// lookuploop_channels 1
	// lookuploop_lookupd_commands_total{lookupd="lookupd.test:4160"} 2
	// lookuploop_lookupd_connects_total{lookupd="lookupd.test:4160"} 1
	// lookuploop_lookupd_failures_total{lookupd="lookupd.test:4160"} 0
	// lookuploop_lookupd_pending_changes{lookupd="lookupd.test:4160"} 0
	// lookuploop_lookupd_refused_names{lookupd="lookupd.test:4160"} 0
	// lookuploop_lookupd_state{lookupd="lookupd.test:4160",state="connected"} 1
	// lookuploop_lookupd_state{lookupd="lookupd.test:4160",state="connecting"} 0
	// lookuploop_lookupd_state{lookupd="lookupd.test:4160",state="disconnected"} 0
	// lookuploop_topics 1
	// <nil>
}
