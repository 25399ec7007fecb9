package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lookuploop/lookuploop"
)

const (
	wrongAddress   = "::1" // the broker listens at 127.0.0.1
	verifyInterval = 100 * time.Millisecond
)

// findWhatIsWrong lets consumers be misled in three ways, of which Status says nothing.
func findWhatIsWrong(ctx context.Context, t *tour) {
	t.options.BroadcastAddress = wrongAddress
	t.stop(ctx)
	t.show(ctx, "it runs again, and announces "+wrongAddress+", where nothing listens", t.startBroker)
	t.checkRegistered(ctx, "every lookupd has acknowledged", 0)
	t.tombstone(ctx, orders)
	t.deleteAtLookupd(ctx, returns)
	t.check(ctx, "Registered says that every lookupd has acknowledged all", func(context.Context) error {
		return t.broker.Loop().Registered(0)
	})
	t.checkFindings(ctx, "Verify finds all three",
		"tombstoned: "+orders+" at lookupd 1",
		"not listed: "+returns+" at lookupd 1",
		"not reachable")
}

// announceWhatWasLost shows what VerifyInterval does about a topic that was deleted.
func announceWhatWasLost(ctx context.Context, t *tour) {
	t.options.BroadcastAddress = ""
	t.options.VerifyInterval = verifyInterval
	t.stop(ctx)
	t.show(ctx, "it runs again, at the right address and with a VerifyInterval", t.startBroker)
	t.checkRegistered(ctx, "every lookupd has acknowledged", 0)
	t.check(ctx, "a new producer is started there", t.startProducer)
	t.checkMessages(ctx, "the consumer found it and gets messages")
	t.checkFindings(ctx, "Verify finds nothing: a new connection has no tombstones")
	t.deleteAtLookupd(ctx, returns)
	t.check(ctx, "a verification found it and announced it again", func(ctx context.Context) error {
		return poll(ctx, func(context.Context) error {
			if v := t.broker.Loop().Status().Verification; v.Announced != 1 {
				return fmt.Errorf("%d topics were announced again; found %v", v.Announced, v.Found.Findings)
			}
			return nil
		})
	})
	t.checkAnswers(ctx)
	t.check(ctx, "the next verification finds nothing", func(ctx context.Context) error {
		return poll(ctx, func(context.Context) error {
			if v := t.broker.Loop().Status().Verification; len(v.Found.Findings) > 0 {
				return fmt.Errorf("it found %v", v.Found.Findings)
			}
			return nil
		})
	})
	t.checkMessages(ctx, "messages keep arriving")
}

// tombstone hides the broker from the consumers of a topic, as nsqadmin can.
func (t *tour) tombstone(ctx context.Context, topic string) {
	b := t.broker.Loop().Status().Broker
	node := fmt.Sprintf("%s:%d", b.BroadcastAddress, b.BroadcastHTTPPort) // without [], as nsqlookupd has it
	t.administer(ctx, "/topic/tombstone?topic="+topic+"&node="+url.QueryEscape(node))
}

// deleteAtLookupd deletes a topic there while the broker has it, as nsqadmin can.
func (t *tour) deleteAtLookupd(ctx context.Context, topic string) {
	t.administer(ctx, "/topic/delete?topic="+topic)
}

// administer makes a request of the first lookupd.
func (t *tour) administer(ctx context.Context, path string) {
	l := t.lookupds[0]
	t.check(ctx, l.name+": POST "+path, func(ctx context.Context) error {
		body, status, err := request(ctx, http.MethodPost, l.http+path, "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d, %q", status, body)
		}
		return err
	})
}

// checkFindings checks that Verify returns just these, and prints them.
func (t *tour) checkFindings(ctx context.Context, what string, want ...string) {
	t.show(ctx, what, func(ctx context.Context) (string, error) {
		v, err := t.broker.Loop().Verify(ctx)
		if err != nil {
			return "", err
		}
		var errs []error
		for _, l := range v.Lookupds {
			errs = append(errs, l.Err)
		}
		var found, lines []string
		for _, f := range v.Findings {
			found = append(found, t.brief(f))
			lines = append(lines, t.brief(f))
			if f.Detail != "" {
				lines = append(lines, "  seen: "+f.Detail)
			}
			lines = append(lines, wrap(f.Advice, "  ", maxShown)...)
		}
		if !slices.Equal(found, want) {
			errs = append(errs, fmt.Errorf("found %q, not %q", found, want))
		}
		return strings.Join(lines, "\n"), errors.Join(errs...)
	})
}

// brief says what is wrong with which topic at which lookupd.
func (t *tour) brief(f lookuploop.Finding) string {
	s := string(f.Kind)
	if f.Topic != "" {
		s += ": " + strings.TrimSuffix(f.Topic+"/"+f.Channel, "/")
	}
	if i := slices.IndexFunc(t.lookupds, func(l lookupd) bool { return l.tcp == f.Lookupd }); i >= 0 {
		s += " at " + t.lookupds[i].name
	}
	return s
}

// wrap breaks a text between words into lines of at most width bytes, each with
// the indentation.
func wrap(text, indentation string, width int) (lines []string) {
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(indentation)+len(line)+1+len(word) > width {
			lines, line = append(lines, indentation+line), ""
		}
		line = strings.TrimSpace(line + " " + word)
	}
	return append(lines, indentation+line)
}
