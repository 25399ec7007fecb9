package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nsqio/go-nsq"
)

const (
	publishInterval     = 10 * time.Millisecond
	lookupdPollInterval = 100 * time.Millisecond // of the consumer; go-nsq's default is a minute
)

// messages is what the producer and the consumer have seen. Each message is a
// number; the first is 0.
type messages struct {
	mu        sync.Mutex
	published int             // taken by the broker
	received  map[string]bool // by the consumer
	failure   error           // of the producer
}

func (m *messages) add(received *nsq.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.received[string(received.Body)] = true
	return nil
}

// publish publishes messages until ctx ends or the broker refuses one. It is run
// by a goroutine that stopProducer waits for.
func (m *messages) publish(ctx context.Context, producer *nsq.Producer) {
	ticker := time.NewTicker(publishInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		err := producer.Publish(orders, []byte(strconv.Itoa(m.count())))
		m.mu.Lock()
		if err != nil {
			m.failure = err
			m.mu.Unlock()
			return
		}
		m.published++
		m.mu.Unlock()
	}
}

// count returns how many messages were published.
func (m *messages) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.published
}

// arrived says which of the first n messages the consumer lacks.
func (m *messages) arrived(n int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range n {
		if !m.received[strconv.Itoa(i)] {
			return errors.Join(fmt.Errorf("message %d of %d has not come", i+1, n), m.failure)
		}
	}
	return nil
}

// allArrived waits until the consumer has the first n messages.
func (m *messages) allArrived(n int) func(context.Context) error {
	return func(ctx context.Context) error {
		return poll(ctx, func(context.Context) error { return m.arrived(n) })
	}
}

// checkMessages checks that what was published until now arrives, and the next
// message too.
func (t *tour) checkMessages(ctx context.Context, what string) {
	n := t.messages.count() + 1
	t.check(ctx, fmt.Sprintf("%s: all %d until now", what, n), t.messages.allArrived(n))
}

// startConsumer starts a consumer that knows only the lookupds' HTTP addresses.
func (t *tour) startConsumer(context.Context) error {
	config := nsq.NewConfig()
	config.LookupdPollInterval = lookupdPollInterval
	config.RDYRedistributeInterval = lookupdPollInterval // a new connection needn't wait for an old one's end
	consumer, err := nsq.NewConsumer(orders, "mail", config)
	if err != nil {
		return err
	}
	consumer.SetLogger(nil, nsq.LogLevelMax)
	consumer.SetLookupdHttpClient(client)
	consumer.AddHandler(nsq.HandlerFunc(t.messages.add))
	t.stopConsumer = sync.OnceFunc(func() {
		consumer.Stop()
		<-consumer.StopChan
	})
	var addresses []string
	for _, l := range t.lookupds {
		addresses = append(addresses, l.http)
	}
	return consumer.ConnectToNSQLookupds(addresses)
}

// startProducer starts a producer that publishes a message every
// publishInterval to the broker, from now until stopProducer.
func (t *tour) startProducer(context.Context) error {
	producer, err := nsq.NewProducer(t.broker.TCPAddress(), nsq.NewConfig())
	if err != nil {
		return err
	}
	producer.SetLogger(nil, nsq.LogLevelMax)
	ctx, cancel := context.WithCancel(context.Background())
	var publishing sync.WaitGroup
	publishing.Go(func() { t.messages.publish(ctx, producer) })
	t.stopProducer = sync.OnceFunc(func() {
		cancel()
		publishing.Wait()
		producer.Stop()
	})
	return nil
}
