package lookuploop_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

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

// brokerOptions are what the examples have in common.
func brokerOptions(lookupds ...*lookupdtest.Server) lookuploop.Options {
	opts := lookuploop.Options{
		BroadcastAddress:  "broker.example.com",
		BroadcastTCPPort:  4150,
		BroadcastHTTPPort: 4151,
		Logger:            slog.New(slog.DiscardHandler),
	}
	for _, lookupd := range lookupds {
		opts.LookupdTCPAddresses = append(opts.LookupdTCPAddresses, lookupd.TCPAddress)
	}
	return opts
}

// start makes a Loop and runs it. stop ends it and returns what Run returned.
func start(opts lookuploop.Options) (loop *lookuploop.Loop, stop func() error) {
	loop, err := lookuploop.New(opts)
	if err != nil {
		panic(err)
	}
	if _, err := loop.LoadMetadata(); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- loop.Run(ctx) }()
	return loop, func() error {
		cancel()
		return <-ended
	}
}

func ExampleNew() {
	_, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: []string{"lookupd.example.com"},
		BroadcastAddress:    "broker.example.com",
		BroadcastTCPPort:    4150,
		MinBackoff:          time.Minute,
		MaxBackoff:          time.Second,
	})
	fmt.Println(err)
	// Output:
	// lookuploop: lookupd address "lookupd.example.com": write host:port; nsqlookupd's TCP port is 4160 by default
	// lookuploop: BroadcastHTTPPort 0: set it to 1..65535 (nsqlookupd refuses 0; without HTTP name the TCP port)
	// lookuploop: MinBackoff 1m0s is above MaxBackoff 1s
}

// The life of a broker: it runs until a signal comes, and ends in order.
func ExampleLoop_Run() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, err := lookuploop.New(brokerOptions(lookupd))
	if err != nil {
		panic(err)
	}
	signaled, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// The Loop must outlive the signal: it has work to do while the broker ends.
	ended := make(chan error)
	go func() { ended <- loop.Run(context.Background()) }()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")), loop.WaitRegistered(signaled, 0))

	stop() // here instead of a signal
	<-signaled.Done()

	// 1. No new consumers: the lookupds forget the broker.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	fmt.Println(loop.Drain(ctx))
	// 2. Let the clients that are connected finish. What changes is still taken.
	fmt.Println(loop.Notify(lookuploop.ChannelCreated("orders", "late")))
	// 3. End Run: with a DataPath, all of it is on disk now.
	fmt.Println(loop.Close(), <-ended)
	// Output:
	// <nil> <nil>
	// <nil>
	// <nil>
	// <nil> <nil>
}

func ExampleLoop_Notify() {
	loop, stop := start(brokerOptions())
	defer stop()

	// All of it, or, with an error, nothing.
	fmt.Println(loop.Notify(
		lookuploop.TopicCreated("orders"),
		lookuploop.ChannelCreated("orders", "mail"),
		lookuploop.ChannelPaused("orders", "mail"),
	))
	// A channel whose topic is gone doesn't bring the topic back.
	err := loop.Notify(lookuploop.TopicDeleted("orders"), lookuploop.ChannelCreated("orders", "late"))
	fmt.Println(errors.Is(err, lookuploop.ErrUnknown), err)
	fmt.Println(loop.Notify(lookuploop.TopicCreated("or\nders")))
	fmt.Println(loop.Metadata().Topics)
	// Output:
	// <nil>
	// true lookuploop: unknown topic: channel created: "orders" "late": create the topic first
	// lookuploop: invalid name: topic created: "or\nders": topic names have 1 to 64 of the characters .a-zA-Z0-9_- and may end in #ephemeral
	// [{orders false [{mail true}]}]
}

func ExampleLoop_TopicMetadata() {
	loop, err := lookuploop.New(brokerOptions())
	if err != nil {
		panic(err)
	}
	loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.ChannelCreated("orders", "mail"))
	topic, found := loop.TopicMetadata("orders")
	fmt.Println(topic.Channels, found)
	// Output: [{mail false}] true
}

func ExampleLoop_SetMetadata() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	defer stop()

	declare := func(topics ...string) {
		var m lookuploop.Metadata
		for _, topic := range topics {
			m.Topics = append(m.Topics, lookuploop.TopicMetadata{Name: topic})
		}
		fmt.Println(loop.SetMetadata(m), loop.WaitRegistered(context.Background(), 0))
	}
	declare("orders", "returns")
	declare("orders", "news") // orders is not touched
	for _, topic := range lookupd.Topics() {
		fmt.Println(topic, lookupd.Producers(topic, ""))
	}
	// Output:
	// <nil> <nil>
	// <nil> <nil>
	// news [broker.example.com:4150]
	// orders [broker.example.com:4150]
	// returns []
}

func ExampleLoop_LoadMetadata() {
	dir, err := os.MkdirTemp("", "lookuploop")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	opts := brokerOptions()
	opts.DataPath = dir

	loop, stop := start(opts) // which calls LoadMetadata before anything else
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.TopicPaused("orders")))
	fmt.Println(stop())

	loop, err = lookuploop.New(opts)
	if err != nil {
		panic(err)
	}
	loaded, err := loop.LoadMetadata()
	fmt.Println(loaded.Topics, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fmt.Println(loop.Run(ctx)) // gives the directory free
	// Output:
	// <nil>
	// <nil>
	// [{orders true []}] <nil>
	// <nil>
}

func ExampleLoop_PersistMetadata() {
	dir, err := os.MkdirTemp("", "lookuploop")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	opts := brokerOptions()
	opts.DataPath, opts.Version = dir, "1.2.3"
	loop, stop := start(opts)
	defer stop()

	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.ChannelCreated("orders", "tail#ephemeral")))
	fmt.Println(loop.PersistMetadata(context.Background())) // from here on a crash doesn't lose it
	content, err := os.ReadFile(loop.Status().Metadata.Path)
	fmt.Println(string(content), err)
	// Output:
	// <nil>
	// <nil>
	// {"topics":[{"name":"orders","paused":false,"channels":[]}],"version":"1.2.3"} <nil>
}

func ExampleLoop_WaitRegistered() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	lookupd.Do(lookupdtest.On("REGISTER bad", lookupdtest.Reject("E_BAD_TOPIC not here")))
	opts := brokerOptions(lookupd)
	opts.LookupdTCPAddresses[0] = lookupd.TCPAddress
	loop, stop := start(opts)
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")), loop.WaitRegistered(ctx, 1))

	err := loop.Notify(lookuploop.TopicCreated("bad"))
	fmt.Println(err)
	var refused *lookuploop.ResponseError
	if errors.As(loop.WaitRegistered(ctx, 1), &refused) {
		fmt.Println(refused.Command, refused.Topic, refused.Code, refused.Message)
	}
	// Output:
	// <nil> <nil>
	// <nil>
	// REGISTER bad E_BAD_TOPIC not here
}

func ExampleLoop_Registered() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	fmt.Println(loop.WaitRegistered(context.Background(), 0), loop.Registered(0))

	err := loop.Registered(2)
	fmt.Println(errors.Is(err, lookuploop.ErrNotRegistered), err)
	stop()
	fmt.Println(loop.Registered(0))
	// Output:
	// <nil> <nil>
	// true lookuploop: not registered: 2 wanted, 1 configured
	// lookuploop: closed
}

func ExampleLoop_Verify() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	opts := brokerOptions(lookupd)
	opts.BroadcastAddress, opts.BroadcastTCPPort = "127.0.0.1", 1 // where nobody listens
	loop, stop := start(opts)
	defer stop()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")), loop.WaitRegistered(context.Background(), 0))

	found, err := loop.Verify(context.Background(), "orders")
	for _, finding := range found.Findings {
		fmt.Println(finding.Kind)
	}
	fmt.Println(err)
	// Output:
	// <nil> <nil>
	// not reachable
	// <nil>
}

func ExampleLoop_SetLookupdTCPAddresses() {
	one, two := lookupdtest.NewServer(), lookupdtest.NewServer()
	defer one.Close()
	defer two.Close()
	loop, stop := start(brokerOptions(one))
	defer stop()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")))

	fmt.Println(loop.SetLookupdTCPAddresses([]string{two.TCPAddress}), loop.WaitRegistered(context.Background(), 0))
	fmt.Println(two.Producers("orders", ""))

	// Output:
	// <nil>
	// <nil> <nil>
	// [broker.example.com:4150]
}

func ExampleLoop_Drain() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	defer stop()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")), loop.WaitRegistered(context.Background(), 0))

	fmt.Println(loop.Drain(context.Background())) // no new consumers come; those that are here can finish
	isGone := func() bool { return len(lookupd.Producers("orders", "")) == 0 }
	fmt.Println(lookupd.Wait(context.Background(), isGone))

	fmt.Println(loop.SetLookupdTCPAddresses([]string{lookupd.TCPAddress})) // back again
	fmt.Println(loop.WaitRegistered(context.Background(), 0), lookupd.Producers("orders", ""))
	// Output:
	// <nil> <nil>
	// <nil>
	// <nil>
	// <nil>
	// <nil> [broker.example.com:4150]
}

func ExampleLoop_TopicChannels() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	other, stopOther := start(brokerOptions(lookupd))
	defer stopOther()
	fmt.Println(other.Notify(
		lookuploop.TopicCreated("orders"),
		lookuploop.ChannelCreated("orders", "mail"),
		lookuploop.ChannelCreated("orders", "archive"),
		lookuploop.ChannelCreated("orders", "tail#ephemeral"),
	), other.WaitRegistered(context.Background(), 0))

	opts := brokerOptions(lookupd)
	opts.BroadcastAddress = "another.example.com"
	loop, stop := start(opts)
	defer stop()
	fmt.Println(loop.WaitRegistered(context.Background(), 0))
	fmt.Println(loop.TopicChannels(context.Background(), "orders"))
	// Output:
	// <nil> <nil>
	// <nil>
	// [archive mail] <nil>
}

func ExampleLoop_Status() {
	lookupd := lookupdtest.NewServer()
	defer lookupd.Close()
	loop, stop := start(brokerOptions(lookupd))
	defer stop()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")), loop.WaitRegistered(context.Background(), 0))

	status := loop.Status()
	fmt.Println(status.Broker.BroadcastAddress, status.Topics, status.Channels)
	for _, s := range status.Lookupds {
		fmt.Println(s.State, s.MissingSince.IsZero(), s.Pending, s.Refused, s.Connects, s.Info.Version)
	}
	// Output:
	// <nil> <nil>
	// broker.example.com 1 0
	// connected true 0 [] 1 1.3.0
}

func ExampleOptions_onStateChange() {
	lookupd := lookupdtest.NewServer()
	opts := brokerOptions(lookupd)
	states := make(chan lookuploop.State, 10)
	opts.OnStateChange = func(s lookuploop.LookupdStatus) { states <- s.State }
	_, stop := start(opts)
	fmt.Println(<-states)
	fmt.Println(<-states)
	lookupd.Close()
	fmt.Println(<-states)
	stop()
	// Output:
	// connecting
	// connected
	// disconnected
}

func ExampleOptions_tls() {
	certificate, roots := selfSigned("lookupd.example.com")
	lookupd := lookupdtest.NewUnstartedServer() // in production: a TLS proxy before nsqlookupd
	lookupd.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	lookupd.Start()
	defer lookupd.Close()

	opts := brokerOptions()
	opts.LookupdTCPAddresses = []string{"lookupd.example.com:" + portOf(lookupd)}
	opts.ResolveInterval = time.Minute
	opts.Resolver = hosts{"lookupd.example.com": "127.0.0.1"} // in production DNS, which is the default
	opts.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		name, _, err := net.SplitHostPort(lookuploop.ConfiguredAddress(ctx)) // address is an IP address
		if err != nil {
			return nil, err
		}
		dialer := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: name}}
		return dialer.DialContext(ctx, network, address)
	}
	loop, stop := start(opts)
	defer stop()
	fmt.Println(loop.Notify(lookuploop.TopicCreated("orders")), loop.WaitRegistered(context.Background(), 0))
	fmt.Println(lookupd.Producers("orders", ""))
	// Output:
	// <nil> <nil>
	// [broker.example.com:4150]
}
