// Command quickstart is the program of the README. It registers a broker with an
// nsqlookupd until it gets a signal. It only shows the library: nothing listens at
// the address that it registers.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lookuploop/lookuploop"
)

func main() {
	lookupd := flag.String("lookupd-tcp-address", "127.0.0.1:4160", "host:port of an nsqlookupd")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *lookupd); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, lookupd string) error {
	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: []string{lookupd},
		BroadcastAddress:    "127.0.0.1", // where consumers reach the broker
		BroadcastTCPPort:    4150,
		BroadcastHTTPPort:   4151,
	})
	if err != nil {
		return err // it lists every invalid option
	}

	// Don't pass ctx to Run: Drain works only while Run is running. Close ends Run,
	// waits for it, and returns its error.
	go loop.Run(context.Background())

	// Do this wherever the broker creates or deletes a topic or channel.
	err = loop.Notify(lookuploop.TopicCreated("orders"), lookuploop.ChannelCreated("orders", "mail"))
	if err != nil {
		return errors.Join(err, loop.Close())
	}

	// Optional: wait until consumers can find the broker. The loop keeps trying
	// after the deadline, so a lookupd that is down is no reason to exit.
	deadline, cancel := context.WithTimeout(ctx, 10*time.Second)
	err = loop.WaitRegistered(deadline, 1)
	cancel()
	if err != nil {
		log.Print(err)
	} else {
		log.Print("registered")
	}

	<-ctx.Done() // serve clients here

	// Leave discovery first, then let the connected clients finish, then close.
	deadline, cancel = context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return errors.Join(loop.Drain(deadline), loop.Close())
}
