// Package lookupdtest is an nsqlookupd in memory, for tests and examples, as
// net/http/httptest is a web server for them.
//
// # Usage
//
//	lookupd := lookupdtest.NewServer()
//	defer lookupd.Close()
//	startBroker(lookupd.TCPAddress)
//	err := lookupd.Wait(ctx, func() bool {
//		return len(lookupd.Producers("orders", "mail")) == 1
//	})
//
// It needs no testing.TB, so examples and programs can use it too.
//
// # What is like nsqlookupd
//
// The lookupd V1 protocol over TCP, the HTTP API (/ping /info /lookup /topics
// /channels /nodes /debug, /topic/create|delete|tombstone, /channel/create|delete) and
// the registration database behind both. Recorded conversations with nsqlookupd v1.3.0
// are replayed against it byte for byte, and the same suite runs against a real one when
// the environment variable NSQLOOKUPD names its binary: versions 1.0.0-compat, 1.1.0,
// 1.2.0, 1.2.1 and 1.3.0 agree with it. Worth knowing, since brokers meet it:
//
//   - Topics and channels stay when their last producer is gone, until they are deleted
//     by HTTP. Only an ephemeral one goes, and only when it is unregistered; before
//     nsqlookupd 1.2.0 only channels did, see [Server].KeepEphemeralTopics.
//   - A producer is a connection: a node that is connected twice is listed twice. When a
//     connection ends all its registrations go.
//   - UNREGISTER of a topic takes the producer from the topic's channels too.
//   - After each error answer the connection is closed, with what is behind it unread.
//   - A producer that sent no PING for 300 s is not shown; one that is tombstoned is not
//     shown by /lookup for 45 s, however often it registers.
//
// # What is not
//
// Input is bounded. A command of more than 4096 bytes, an IDENTIFY of more than 1 MiB and
// one of negative size are answered with an error; nsqlookupd takes the first two and
// dies of the third. Lists in HTTP answers are sorted where nsqlookupd's are in no order,
// and /debug/pprof is not there.
//
// # Faults
//
// [Server.Do] gives the server orders: to hang, to cut connections after so many bytes,
// to refuse names, to be slow, to answer nonsense, and so on; see [Order]. Some faults are
// an order for the names that a pattern matches:
//
//	On("* bad-*", BadTopic())               // refused with nsqlookupd's own answer
//	On("REGISTER * bad-*", BadChannel())    // so is a channel
//	On("REGISTER bad-*", Reset())           // refused, and the answer is lost
//	On("REGISTER bad-*", Drop())            // closed without a word
//	On("REGISTER bad-*", Raw(nil))          // never answered, and the connection stays
//	On("REGISTER bad-*", Reply("E_INVALID")) // refused, and the connection stays
//	On("REGISTER", Rate(1000))              // 1,000 registrations per second, of all brokers
//
// To restart a server at the same address, empty, there are [Server.Stop] and
// [Server.Start], and within one command [Restart].
//
// # Networks in memory
//
// A [Network] has servers that are reached without sockets, with latency, partitions and
// small buffers as wanted, and in virtual time in a bubble of testing/synctest:
//
//	synctest.Test(t, func(t *testing.T) {
//		network := lookupdtest.NewNetwork()
//		network.SetLatency(20 * time.Millisecond)
//		lookupd := network.NewServer("lookupd.test:4160")
//		defer lookupd.Close()
//		startBroker(Options{
//			LookupdTCPAddresses: []string{"lookupd.test:4160"},
//			Dial:                network.Dial,
//			HTTPClient:          network.Client(),
//			Resolver:            network, // it has the methods of a net.Resolver
//		})
//		heal := network.Partition("lookupd.test")
//		time.Sleep(time.Hour) // takes no time
//		heal()
//	})
//
// Real TCP doesn't work there: a goroutine that waits for the system never counts as
// idle. Neither does one that waits for a sync.Mutex, so nothing here sleeps under one.
//
// # Concurrency
//
// All methods may be called by any goroutine. Stop and Close return when no goroutine of
// the server is left.
package lookupdtest
