// Package lookupdtest provides an nsqlookupd in memory, for tests and examples, like
// net/http/httptest for HTTP. It can be told to misbehave.
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
// The package doesn't need testing.TB, so examples and programs can use it, too.
//
// # What is like nsqlookupd
//
// A [Server] has the lookupd V1 protocol over TCP, the HTTP API and the registration
// database. The HTTP API has /ping, /info, /lookup, /topics, /channels, /nodes, /debug,
// /topic/create, /topic/delete, /topic/tombstone, /channel/create and /channel/delete.
// Tests replay recorded conversations with nsqlookupd v1.3.0 and compare every byte. The
// same tests run against a real nsqlookupd if the environment variable NSQLOOKUPD names
// its binary. They pass with 1.0.0-compat, 1.1.0, 1.2.0, 1.2.1 and 1.3.0. Some behaviour
// that matters to brokers:
//
//   - Topics and channels stay after their last producer is gone, until they are deleted
//     over HTTP. An ephemeral one is dropped when its last producer unregisters it. Before
//     nsqlookupd 1.2.0 only ephemeral channels were; see KeepEphemeralTopics of [Server].
//   - A producer is a connection. A node with two connections is listed twice. When a
//     connection ends, all its registrations are dropped.
//   - UNREGISTER of a topic also removes the producer from the channels of the topic.
//   - An error answer is followed by the end of the connection. Commands behind it are
//     not read.
//   - A producer without a PING for 300 s is not listed. /lookup doesn't list a tombstoned
//     producer for 45 s, even if it registers again.
//
// # What is different
//
// Input is bounded. A command of more than 4096 bytes, and an IDENTIFY of more than 1 MiB
// or of negative size, get an error answer. nsqlookupd accepts the first two, and the
// third ends its process. Lists in HTTP answers are sorted; those of nsqlookupd have no
// order. There is no /debug/pprof.
//
// # Faults
//
// [Server.Do] gives the server an [Order], for example to hang, to cut connections, to
// refuse names, to be slow or to send garbage. [On] limits an order to some names:
//
//	On("* bad-*", BadTopic())                // refused with the answer of nsqlookupd
//	On("REGISTER * bad-*", BadChannel())     // the same for a channel
//	On("REGISTER bad-*", Reset())            // refused, and the answer is lost
//	On("REGISTER bad-*", Drop())             // closed without an answer
//	On("REGISTER bad-*", Raw(nil))           // never answered, and the connection stays open
//	On("REGISTER bad-*", Reply("E_INVALID")) // refused, and the connection stays open
//	On("REGISTER", Rate(1000))               // 1,000 registrations per second for all brokers together
//
// [Server.Stop] and [Server.Start] restart a server at the same address, with an empty
// database. [Restart] does so at a command.
//
// # Networks in memory
//
// A [Network] connects servers and clients without sockets. It has latency, bandwidth,
// partitions and buffers of any size. It works in the virtual time of testing/synctest:
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
//			ResolveInterval:     time.Minute,
//			Resolver:            network, // it has the methods of a net.Resolver
//		})
//		heal := network.Partition("lookupd.test")
//		time.Sleep(time.Hour) // takes no real time
//		heal()
//	})
//
// Don't use real TCP in such a bubble: a goroutine that waits for the operating system
// never counts as idle, so virtual time doesn't advance. The same is true for a goroutine
// that waits for a sync.Mutex. This package never sleeps while it holds one.
//
// # Concurrency
//
// All methods may be called from any goroutine. When Stop or Close returns, no goroutine
// of the server is left.
package lookupdtest
