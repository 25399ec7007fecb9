package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/lookuploop/lookuploop"
)

// brokerProcess is a broker in a process of its own, as the soak calls it. It has
// the Loop, and a port to which consumers could connect.
type brokerProcess struct{ loop *lookuploop.Loop }

func runSoakBroker(dir, address, maxBackoff string, lookupds []string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			if conn, err := listener.Accept(); err == nil {
				conn.Close()
			}
		}
	}()
	longest, err := time.ParseDuration(maxBackoff)
	if err != nil {
		return err
	}
	port := listener.Addr().(*net.TCPAddr).Port
	loop, err := lookuploop.New(lookuploop.Options{
		LookupdTCPAddresses: lookupds,
		BroadcastAddress:    "127.0.0.1",
		BroadcastTCPPort:    port,
		BroadcastHTTPPort:   port,
		DataPath:            dir,
		MaxBackoff:          longest,
		Logger:              slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	if _, err := loop.LoadMetadata(); err != nil {
		return err
	}
	go loop.Run(context.Background())
	return serve(&brokerProcess{loop})
}

// soakChange is an event as it is sent to the process of a broker.
type soakChange struct{ What, Topic, Channel string }

// The kinds of a change.
const (
	creates  = "creates"
	deletes  = "deletes"
	pauses   = "pauses"
	unpauses = "unpauses"
)

func (c soakChange) event() lookuploop.Event {
	ofTopic, ofChannel := lookuploop.TopicCreated, lookuploop.ChannelCreated
	switch c.What {
	case deletes:
		ofTopic, ofChannel = lookuploop.TopicDeleted, lookuploop.ChannelDeleted
	case pauses:
		ofTopic, ofChannel = lookuploop.TopicPaused, lookuploop.ChannelPaused
	case unpauses:
		ofTopic, ofChannel = lookuploop.TopicUnpaused, lookuploop.ChannelUnpaused
	}
	if c.Channel == "" {
		return ofTopic(c.Topic)
	}
	return ofChannel(c.Topic, c.Channel)
}

func (b *brokerProcess) Notify(changes []soakChange, _ *struct{}) error {
	var events []lookuploop.Event
	for _, change := range changes {
		events = append(events, change.event())
	}
	return b.loop.Notify(events...)
}

func (b *brokerProcess) SetMetadata(m lookuploop.Metadata, _ *struct{}) error {
	return b.loop.SetMetadata(m)
}

func (b *brokerProcess) SetLookupdTCPAddresses(addresses []string, _ *struct{}) error {
	return b.loop.SetLookupdTCPAddresses(addresses)
}

func (b *brokerProcess) PersistMetadata(timeout time.Duration, _ *struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return b.loop.PersistMetadata(ctx)
}

// Watch calls what only looks. Lookupds that don't work are no error.
func (b *brokerProcess) Watch(timeout time.Duration, _ *struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	began := time.Now()
	b.loop.Verify(ctx)
	b.loop.TopicChannels(ctx, topicName(0))
	b.loop.Metadata()
	for _, err := range []error{b.loop.Registered(0), b.loop.WaitRegistered(ctx, 0)} {
		var refused *lookuploop.ResponseError
		if err != nil && !errors.Is(err, lookuploop.ErrNotRegistered) && !errors.As(err, &refused) {
			return err
		}
	}
	if late := time.Since(began) - timeout; late > 5*time.Second {
		return fmt.Errorf("calls returned %v after their deadline", late)
	}
	return nil
}

func (b *brokerProcess) Registered(n int, _ *struct{}) error { return b.loop.Registered(n) }

func (b *brokerProcess) Metadata(_ struct{}, m *lookuploop.Metadata) error {
	*m = b.loop.Metadata()
	return nil
}

// Verify returns what Verify finds as an error.
func (b *brokerProcess) Verify(timeout time.Duration, _ *struct{}) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	v, err := b.loop.Verify(ctx)
	for _, finding := range v.Findings {
		err = errors.Join(err, errors.New(finding.String()))
	}
	for _, lookupd := range v.Lookupds {
		err = errors.Join(err, lookupd.Err)
		if lookupd.Pending > 0 {
			err = errors.Join(err, fmt.Errorf("lookupd %s: %d changes are pending", lookupd.Address, lookupd.Pending))
		}
	}
	return err
}

func (b *brokerProcess) Close(struct{}, *struct{}) error { return b.loop.Close() }

// Measurement is what a broker uses at a check, and how much it has said to the
// lookupds that it is configured with.
type Measurement struct {
	Heap, RSS               float64 // MB; Heap after a garbage collection
	Descriptors, Goroutines float64
	Commands, Connects      uint64
}

func (b *brokerProcess) Measure(_ struct{}, m *Measurement) error {
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	m.Heap = float64(memory.HeapAlloc) / 1e6
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	pages, err := strconv.Atoi(string(bytes.Fields(statm)[1]))
	if err != nil {
		return err
	}
	m.RSS = float64(pages*os.Getpagesize()) / 1e6
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	m.Descriptors = float64(len(descriptors))
	m.Goroutines = float64(runtime.NumGoroutine())
	for _, lookupd := range b.loop.Status().Lookupds {
		m.Commands += lookupd.Commands
		m.Connects += lookupd.Connects
	}
	return nil
}
