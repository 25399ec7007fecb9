package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

// The steps. After a failed check nothing is checked or printed any more.

func announce(ctx context.Context, t *tour) {
	t.check(ctx, "nobody else has the tour's topics", t.claimTopics)
	t.show(ctx, "the broker runs, with a Loop inside", t.startBroker)
	t.post(ctx,
		"/topic/create?topic="+orders,
		"/channel/create?channel=mail&topic="+orders,
		"/topic/create?topic="+returns,
		"/channel/create?channel=refund&topic="+returns,
		"/channel/create?channel=exchange&topic="+returns,
	)
	t.checkRegistered(ctx, "every lookupd has acknowledged", 0)
}

func showAnswers(ctx context.Context, t *tour) {
	for _, l := range t.lookupds {
		t.showAnswer(ctx, l, "/lookup?topic="+orders)
		t.showAnswer(ctx, l, "/nodes")
	}
	t.checkAnswers(ctx)
}

func startMessages(ctx context.Context, t *tour) {
	t.check(ctx, "a go-nsq Consumer of channel mail is started", t.startConsumer)
	t.check(ctx, "a go-nsq Producer is started", t.startProducer)
	t.checkMessages(ctx, "messages arrive")
}

func deleteAndMakeAgain(ctx context.Context, t *tour) {
	const remade = 20
	del, create := "/topic/delete?topic="+returns, "/topic/create?topic="+returns
	t.post(ctx, del)
	t.checkRegistered(ctx, "every lookupd has acknowledged", 0)
	t.showAnswer(ctx, t.lookupds[0], "/lookup?topic="+returns)
	t.print("(nsqlookupd keeps the names of what was deleted; it has no producer)")
	t.checkAnswers(ctx)

	t.post(ctx, create)
	t.check(ctx, "its channels are back: the broker asked the lookupds (TopicChannels)", t.hasChannels(returns, "exchange", "refund"))
	t.check(ctx, fmt.Sprintf("it is deleted and made again %d times", remade), func(ctx context.Context) error {
		for range remade {
			for _, path := range []string{del, create} {
				if err := t.callBroker(ctx, http.MethodPost, path, ""); err != nil {
					return err
				}
			}
		}
		return nil
	})
	t.check(ctx, "its channels are back", t.hasChannels(returns, "exchange", "refund"))
	t.checkRegistered(ctx, "every lookupd has acknowledged", 0)
	t.checkAnswers(ctx)
	t.checkMessages(ctx, "messages of the other topic kept arriving")
}

func dieAndComeBack(ctx context.Context, t *tour) {
	dead := t.lookupds[0]
	dead.server.Stop()
	t.print("%s is killed", dead.name)
	t.check(ctx, "the library has noticed", func(ctx context.Context) error {
		return poll(ctx, func(context.Context) error {
			if s := t.broker.Loop().Status().Lookupds[0]; s.State == lookuploop.Connected {
				return errors.New("it is still connected")
			}
			return nil
		})
	})
	t.post(ctx, "/topic/create?topic="+news)
	t.checkRegistered(ctx, "the others have acknowledged", len(t.lookupds)-1)
	t.showStatus()
	t.checkMessages(ctx, "messages keep arriving")
	t.print("%s is started again, at the same address", dead.name)
	t.check(ctx, "it knows everything again", func(ctx context.Context) error {
		dead.server.Start()
		return t.broker.Loop().WaitRegistered(ctx, 0)
	})
	t.checkAnswers(ctx)
	t.checkMessages(ctx, "messages keep arriving")
}

func hang(ctx context.Context, t *tour) {
	last := len(t.lookupds) - 1
	healthy, hung := t.lookupds[:last], t.lookupds[last]
	lift := hung.server.Do(lookupdtest.Hang())
	defer lift()
	t.print("%s reads, but answers nothing any more", hung.name)
	t.post(ctx, "/topic/create?topic="+alerts)
	t.checkRegistered(ctx, "the others have acknowledged", len(healthy))
	t.check(ctx, "the others name the broker for it", func(ctx context.Context) error {
		return each(ctx, healthy, t.hasProducer(alerts))
	})
	t.check(ctx, "Status says that "+hung.name+" is behind", func(context.Context) error {
		if s := t.broker.Loop().Status().Lookupds[last]; s.Pending == 0 {
			return fmt.Errorf("nothing is pending: %+v", s)
		}
		return nil
	})
	t.showStatus()
	t.checkMessages(ctx, "messages keep arriving")
	t.print("%s goes on", hung.name)
	t.check(ctx, "it has acknowledged everything", func(ctx context.Context) error {
		lift()
		return t.broker.Loop().WaitRegistered(ctx, 0)
	})
	t.checkAnswers(ctx)
}

func swapAddresses(ctx context.Context, t *tour) {
	last := len(t.lookupds) - 1
	leaving := t.lookupds[last]
	before := t.broker.Loop().Status().Lookupds[:last]

	t.print("broker: PUT /config/nsqlookupd_tcp_addresses, without %s", leaving.name)
	t.check(ctx, "it has forgotten the broker", func(ctx context.Context) error {
		if err := t.setAddresses(ctx, t.tcpAddresses()[:last]); err != nil {
			return err
		}
		return each(ctx, []lookupd{leaving}, t.hasForgotten)
	})
	t.checkMessages(ctx, "messages keep arriving")
	if !t.given {
		leaving.server.Close()
		t.lookupds[last] = startLookupd(last + 2)
	}
	joining := t.lookupds[last]
	t.print("broker: PUT /config/nsqlookupd_tcp_addresses, with %s", joining.name)
	t.check(ctx, "it knows everything", func(ctx context.Context) error {
		if err := t.setAddresses(ctx, t.tcpAddresses()); err != nil {
			return err
		}
		return t.broker.Loop().WaitRegistered(ctx, 0)
	})
	for i, was := range before {
		t.check(ctx, t.lookupds[i].name+" kept its connection", func(context.Context) error {
			if s := t.broker.Loop().Status().Lookupds[i]; s.Connects != was.Connects {
				return fmt.Errorf("%d connects before, %d now", was.Connects, s.Connects)
			}
			return nil
		})
	}
	t.showStatus()
	t.checkAnswers(ctx)
	t.checkMessages(ctx, "messages keep arriving")
}

func restart(ctx context.Context, t *tour) {
	had := describe(t.broker.Loop().Metadata())
	t.post(ctx, "/channel/create?channel=tail%23ephemeral&topic="+returns)
	t.checkRegistered(ctx, "every lookupd has acknowledged the channel, which is not to be kept", 0)
	t.stop(ctx)
	t.check(ctx, "every lookupd has forgotten it", func(ctx context.Context) error {
		return each(ctx, t.lookupds, t.hasForgotten)
	})
	t.showFile(ctx, filepath.Join(t.options.DataPath, "nsqd.dat"))
	t.show(ctx, "it runs again, and has what it had", func(ctx context.Context) (string, error) {
		where, err := t.startBroker(ctx)
		if has := describe(t.broker.Loop().Metadata()); err == nil && has != had {
			err = fmt.Errorf("it had  %s\nnow has %s", had, has)
		}
		return where, err
	})
	t.check(ctx, "a new producer is started there", t.startProducer)
	t.checkMessages(ctx, "the consumer found it and gets messages")
	t.checkRegistered(ctx, "every lookupd has acknowledged", 0)
	t.checkAnswers(ctx)
}

// stop stops the producer and the broker.
func (t *tour) stop(ctx context.Context) {
	t.stopProducer()
	n := t.messages.count()
	t.check(ctx, fmt.Sprintf("the producer has stopped; all %d messages have arrived", n), t.messages.allArrived(n))
	t.check(ctx, "the broker has stopped", func(context.Context) error { return t.stopBroker() })
}

// checkRegistered checks that n lookupds (0: all) have acknowledged all that the
// broker has.
func (t *tour) checkRegistered(ctx context.Context, what string, n int) {
	t.check(ctx, what, func(ctx context.Context) error { return t.broker.Loop().WaitRegistered(ctx, n) })
}

// hasChannels waits until the broker has exactly these channels of a topic.
func (t *tour) hasChannels(topic string, channels ...string) func(context.Context) error {
	want := fmt.Sprint(topic, channels)
	return func(ctx context.Context) error {
		return poll(ctx, func(context.Context) error {
			if has := describe(t.broker.Loop().Metadata()); !strings.Contains(has, want) {
				return fmt.Errorf("the broker doesn't have %s, but %s", want, has)
			}
			return nil
		})
	}
}
