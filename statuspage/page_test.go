package statuspage

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lookuploop/lookuploop"
	"github.com/lookuploop/lookuploop/lookupdtest"
)

func TestPageSaysHowThingsStand(t *testing.T) { synctest.Test(t, testPageSaysHowThingsStand) }

func testPageSaysHowThingsStand(t *testing.T) {
	now := time.Now()
	good := lookuploop.LookupdStatus{
		Address: "10.0.0.7:4160", Names: []string{"lookupd.test:4160", "_lookupd._tcp.test"}, State: lookuploop.Connected, Since: now.Add(-90 * time.Second),
		Info:          lookuploop.PeerInfo{HTTPPort: 4161, Version: "1.3.0", Hostname: "node1", BroadcastAddress: "lookupd.test"},
		LastHeartbeat: now.Add(-7 * time.Second), RTT: 432 * time.Microsecond, Connects: 1, Commands: 12,
	}
	bad := lookuploop.LookupdStatus{
		Address: "b.test:4160", Names: []string{"b.test:4160"}, Since: now, MissingSince: now.Add(-26 * time.Hour), Pending: 3000, Failures: 41, NextAttempt: now.Add(2500 * time.Millisecond),
		LastError:    errors.New("lookuploop: b.test:4160: dial: connection refused"),
		ResolveError: errors.New("lookuploop: b.test: no such host"),
		Refused:      []*lookuploop.ResponseError{{Topic: "orders", Channel: "ship", Code: "E_BAD_CHANNEL", Message: "is not valid"}},
	}
	waiting := lookuploop.LookupdStatus{Address: "c.test:4160", Names: []string{"c.test:4160"}, Since: now, NextAttempt: now.Add(-1)}
	broker := lookuploop.BrokerInfo{BroadcastAddress: "broker.test", BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151, Hostname: "b1",
		Version: "1.3.0", TopologyZone: "z", TopologyRegion: "r", Started: now.Add(-2 * time.Hour)}
	metadata := lookuploop.Metadata{Topics: []lookuploop.TopicMetadata{
		{Name: "orders", Paused: true, Channels: []lookuploop.ChannelMetadata{{Name: "ship", Paused: true}, {Name: "mail"}}}, {Name: "empty"},
	}}
	for name, tt := range map[string]struct {
		status lookuploop.Status
		query  string
		want   []string
	}{
		"nothing": {lookuploop.Status{}, "", []string{
			"0 of 0 lookupds – lookuploop lookuploop · Run was not called yet No lookupd is configured So consumers can’t find this broker: set LookupdTCPAddresses, or call SetLookupdTCPAddresses. It is the same after Drain. The broker has 0 topics and 0 channels.",
		}},
		"all is well": {lookuploop.Status{Broker: broker, Topics: 1, Channels: 1234, Lookupds: []lookuploop.LookupdStatus{good}}, "", []string{
			"1 of 1 lookupd – broker.test:4150 broker.test:4150 · HTTP 4151 · host b1 · version 1.3.0 · zone z · region r · running for 2 h 0 min " +
				"The lookupd knows everything The broker has 1 topic and 1,234 channels.",
			"10.0.0.7:4160 from lookupd.test:4160, _lookupd._tcp.test nsqlookupd 1.3.0 on node1 HTTP at lookupd.test:4161",
			"connected for 1 min 30 s 1 connection, 0 failures, 12 commands 0 7 s ago 0.432 ms – For programs: JSON",
		}},
		"twice": {lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{good, good}}, "", []string{"All 2 lookupds know everything"}},
		"trouble": {lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{good, bad, waiting}}, "", []string{
			"1 of 3 lookupds knows everything 2 are not connected, the longest for 1 d 2 h. The broker",
			"b.test:4160 not connected for 1 d 2 h 0 connections, 41 failures, 0 commands 3,000 never – in 3 s " +
				"Last error: dial: connection refused Not resolved: lookuploop: b.test: no such host Refused orders channel ship: E_BAD_CHANNEL is not valid",
			"c.test:4160 not connected for 0 s 0 connections, 0 failures, 0 commands 0 never – now",
		}},
		"names": {lookuploop.Status{Names: []lookuploop.NameStatus{
			{Name: "lookupd.test:4160", Addresses: []string{"10.0.0.1:4160", "10.0.0.2:4160"}, LookedUp: now.Add(-time.Minute), NextLookup: now.Add(4 * time.Minute)},
			{Name: "_lookupd._tcp.test", Addresses: []string{"10.0.0.7:4160"}, Error: errors.New("gone.test.: no such host"), LookedUp: now},
			{Name: "new.test:4160"},
		}}, "", []string{
			"lookupd.test:4160 leads to 2 lookupds : 10.0.0.1:4160, 10.0.0.2:4160; looked up 1 min 0 s ago , again in 4 min 0 s .",
			"_lookupd._tcp.test leads to 1 lookupd : 10.0.0.7:4160; looked up 0 s ago . Not resolved: gone.test.: no such host",
			"new.test:4160 has no address ; not looked up yet.",
		}},
		"on disk": {lookuploop.Status{Metadata: lookuploop.MetadataStatus{Path: "/data/nsqd.dat", LastWrite: now.Add(-3 * time.Hour), Writes: 2}}, "", []string{
			"/data/nsqd.dat everything is on disk ; last written 3 h 0 min ago , 2 writes, 0 failures.",
		}},
		"not on disk": {lookuploop.Status{Metadata: lookuploop.MetadataStatus{Path: "/data/nsqd.dat", Dirty: true, LastError: errors.New("disk full"), Failures: 1}}, "", []string{
			"/data/nsqd.dat not everything is on disk yet ; not written yet, 0 writes, 1 failure. Last error: disk full",
		}},
		"not verified yet": {lookuploop.Status{Verification: lookuploop.VerificationStatus{Interval: 1}}, "", []string{
			"What consumers find not verified yet. For programs",
		}},
		"nobody to verify with": {lookuploop.Status{Verification: lookuploop.VerificationStatus{Interval: 1, Ended: now, Error: errors.New("lookuploop: no lookupd")}}, "", []string{
			"What consumers find verified 0 s ago , 0 topics announced again. no lookupd For programs",
		}},
		"verified": {lookuploop.Status{Verification: lookuploop.VerificationStatus{Interval: 1, Ended: now, Announced: 1, Found: lookuploop.Verification{
			Topics: 200, Sampled: true,
			Lookupds: []lookuploop.LookupdVerification{{Address: "a:1"}, {Address: "b:1", Pending: 2}, {Address: "c:1", Err: errors.New("lookuploop: c:1: refused")}},
		}}}, "", []string{
			"What consumers find no findings in a sample of 200 topics; verified 0 s ago , 1 topic announced again. " +
				"a:1: it lists the broker correctly b:1: it has not acknowledged 2 changes, so its topics were not compared c:1: refused For programs",
		}},
		"verified by nobody": {lookuploop.Status{Verification: lookuploop.VerificationStatus{Interval: 1, Ended: now, Error: errors.Join(errors.New("lookuploop: c:1: refused")), Found: lookuploop.Verification{
			Lookupds: []lookuploop.LookupdVerification{{Address: "c:1", Err: errors.New("lookuploop: c:1: refused")}},
		}}}, "", []string{"announced again. c:1: refused For programs"}},
		"findings": {lookuploop.Status{Verification: lookuploop.VerificationStatus{Interval: 1, Ended: now, Found: lookuploop.Verification{
			Topics: 1, Lookupds: []lookuploop.LookupdVerification{{Address: "a:1"}},
			Findings: slices.Repeat([]lookuploop.Finding{{Kind: lookuploop.Tombstoned, Lookupd: "a:1", Topic: "orders", Advice: "wait"}}, maxFindings+2),
		}}}, "", []string{
			"22 findings in 1 topic; verified 0 s ago , 0 topics announced again. a:1: orders: tombstoned: wait a:1:",
			"a:1: orders: tombstoned: wait 2 more findings; all are in the JSON For programs",
		}},
		"a topic": {lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{good, bad}}, "?topic=orders", []string{
			"orders: 1 of 2 lookupds – lookuploop lookuploop · Run was not called yet Topic orders is registered at 1 of 2 lookupds It is paused. It has 2 channels: mail , ship (paused).",
			"commands registered 0 7 s ago", "commands not connected 3,000 never", "All topics",
		}},
		"without channels": {lookuploop.Status{}, "?topic=empty", []string{"Topic empty is registered at 0 of 0 lookupds It has no channels."}},
		"unknown":          {lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{good}}, "?topic=typo", []string{"This broker has no topic typo So it is not registered at any lookupd. Ask the lookupds The broker"}},
		"similar":          {lookuploop.Status{}, "?topic=order", []string{"So it is not registered at any lookupd. Similar names: orders . Ask the lookupds The broker"}},
		"refreshing":       {lookuploop.Status{}, "", []string{"Topic Find 2000-01-01 00:00:00 UTC , reloaded every 10 s. Stop"}},
		"not refreshing":   {lookuploop.Status{}, "?refresh=off", []string{"Topic Find 2000-01-01 00:00:00 UTC , not reloaded. Reload every 10 s"}},
	} {
		page := get(t, fakeLoop{status: tt.status, metadata: metadata}, browser, "/"+tt.query).Body.String()
		for _, want := range tt.want {
			require.Contains(t, words(page), want, name)
		}
		for _, section := range sectionElement.FindAllStringSubmatch(page, -1) {
			require.Contains(t, levels, level(section[1]), "page.css has no colour for it: %s", name)
		}
		require.Equal(t, name != "not refreshing", strings.Contains(page, `<meta http-equiv="refresh" content="10">`), name)
		require.Equal(t, name == "not refreshing", strings.Contains(page, `<input type="hidden" name="refresh" value="off">`), name)
	}
}

var sectionElement = regexp.MustCompile(`<section class="(\w*)"`)

func TestLinksKeepTheTopic(t *testing.T) {
	loop := fakeLoop{status: lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{
		{Refused: []*lookuploop.ResponseError{{Topic: "live#ephemeral"}}},
	}}}
	for query, want := range map[string][]string{
		"":                                    {`"?topic=live%23ephemeral"`, `"?refresh=off"`, `"?format=json"`},
		"?refresh=off":                        {`"?refresh=off&amp;topic=live%23ephemeral"`, `"?"`},
		"?topic=live%23ephemeral":             {`"?topic=live%23ephemeral"`, `"?refresh=off&amp;topic=live%23ephemeral"`, `"?"`, `"?format=json&amp;topic=live%23ephemeral"`},
		"?topic=live%23ephemeral&refresh=off": {`"?refresh=off&amp;topic=live%23ephemeral"`, `"?topic=live%23ephemeral"`, `"?refresh=off"`},
	} {
		page := get(t, loop, browser, "/"+query).Body.String()
		for _, link := range want {
			require.Contains(t, page, "<a href="+link, query)
		}
	}
}

func TestPageShowsSomeOfManyRefusedNames(t *testing.T) {
	var refused []*lookuploop.ResponseError
	for i := range 1000 {
		refused = append(refused, &lookuploop.ResponseError{Topic: fmt.Sprint("t", i), Code: "E_BAD_TOPIC"})
	}
	loop := fakeLoop{status: lookuploop.Status{Lookupds: []lookuploop.LookupdStatus{{Refused: refused}}}}
	page := words(get(t, loop, browser, "/").Body.String())
	require.Contains(t, page, "Refused t9 : E_BAD_TOPIC Refused 990 more names; all are in the JSON")
	require.NotContains(t, page, "t10")
	require.Contains(t, get(t, loop, "*/*", "/").Body.String(), `"t999"`)
}

// hostile is what a lookupd might say to get into the page, or to pass for
// something that is part of it.
const hostile = "</style></td><script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover='alert(1)'\n\x1b[2J\u202egnp {{.}}"

// shown is how the page shows it.
var shown = html.EscapeString("</style></td><script>alert(1)</script><img src=x onerror=alert(1)>\" onmouseover='alert(1)'" + `\n\x1b[2J\u202egnp {{.}}`)

func TestHostileLookupdsCanNotInject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := lookupdtest.NewNetwork()
		liar := network.NewUnstartedServer("liar.test:4160")
		liar.Version, liar.Hostname, liar.BroadcastAddress = "version"+hostile, "hostname"+hostile, "address"+hostile
		liar.Start()
		t.Cleanup(liar.Close)
		refuser := network.NewServer("refuser.test:4160")
		t.Cleanup(refuser.Close)
		refuser.Do(lookupdtest.On("REGISTER orders", lookupdtest.Reject("E_BAD_TOPIC refused"+hostile)))
		bouncer := network.NewServer("bouncer.test:4160")
		t.Cleanup(bouncer.Close)
		bouncer.Do(lookupdtest.On("IDENTIFY", lookupdtest.Reject("E_CODE"+hostile)))

		loop := startLoop(t, network, liar, refuser, bouncer)
		require.NoError(t, loop.Notify(lookuploop.TopicCreated("orders")))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var refusal *lookuploop.ResponseError
		require.ErrorAs(t, loop.WaitRegistered(ctx, 3), &refusal)
		synctest.Wait()

		for _, query := range []string{"", "?topic=orders", "?topic=" + url.QueryEscape("name"+hostile)} {
			page := get(t, loop, browser, "/"+query).Body.String()
			for _, what := range []string{"version", "hostname", "address", "E_CODE"} {
				require.Contains(t, page, what+shown, query)
			}
			requireOwnTags(t, page)
			require.NotContains(t, get(t, loop, "*/*", "/"+query).Body.String(), "<", "browsers that look into JSON for HTML")
		}
		for _, query := range []string{"", "?topic=orders"} {
			require.Contains(t, get(t, loop, browser, "/"+query).Body.String(), "E_BAD_TOPIC refused"+shown)
		}
		require.Contains(t, get(t, loop, browser, "/?topic="+url.QueryEscape("name"+hostile)).Body.String(), "has no topic <q>name"+shown+"</q>")
	})
}

// tagName finds what a browser would take for the beginning of a tag.
var tagName = regexp.MustCompile(`<[^\s>]*`)

// requireOwnTags fails if there is a tag in the page that is not of its making.
func requireOwnTags(t require.TestingT, page string) {
	page = styleElement.ReplaceAllString(page, "")
	for _, name := range tagName.FindAllString(page, -1) {
		require.Contains(t, pageSource, name)
	}
	require.Equal(t, 1, strings.Count(page, "<h1"))
	require.NotContains(t, page, "<style")
}

// TestTextsChangeNoTag shows whatever texts wherever texts can come from, and
// holds the tags against those of a page with harmless texts.
func TestTextsChangeNoTag(t *testing.T) {
	tags := func(t require.TestingT, text func() string) []string {
		r := newReport(time.Now(), lookuploop.Status{
			Lookupds: []lookuploop.LookupdStatus{{
				Address: text(), Names: []string{text(), text()},
				Info:      lookuploop.PeerInfo{HTTPPort: 1, Version: text(), Hostname: text(), BroadcastAddress: text()},
				LastError: errors.New(text()), ResolveError: errors.New(text()),
				Refused: []*lookuploop.ResponseError{{Topic: text(), Channel: text(), Code: text(), Message: text()}},
			}},
			Names:    []lookuploop.NameStatus{{Name: text(), Addresses: []string{text(), text()}, Error: errors.New(text())}},
			Metadata: lookuploop.MetadataStatus{Path: text(), LastError: errors.New(text())},
			Verification: lookuploop.VerificationStatus{Interval: 1, Error: errors.New(text()), Found: lookuploop.Verification{
				Lookupds: []lookuploop.LookupdVerification{{Address: text()}, {Err: errors.New(text())}},
				Findings: []lookuploop.Finding{{Kind: lookuploop.Stale, Lookupd: "other", Topic: text(), Detail: text()}},
			}},
		}, nil)
		var page strings.Builder
		require.NoError(t, render(&page, r, true))
		return tagName.FindAllString(styleElement.ReplaceAllString(page.String(), ""), -1)
	}
	want := tags(t, func() string { return "harmless" })
	anything := rapid.OneOf(
		rapid.StringN(1, -1, -1),
		rapid.StringOfN(rapid.RuneFrom([]rune("<>/\"'`=!-&;{}\\\n sctipe")), 1, -1, -1),
	)
	rapid.Check(t, func(t *rapid.T) {
		require.Equal(t, want, tags(t, func() string { return anything.Draw(t, "text") }))
	})
}

func TestPlain(t *testing.T) {
	for text, want := range map[string]string{
		"":                   "",
		`it's "plain" ü 漢 \`: `it's "plain" ü 漢 \`,
		"a\nb\tc\x00":        `a\nb\tc\x00`,
		"\x1b[31mred":        `\x1b[31mred`,
		"\u202eabc\u2066":    `\u202eabc\u2066`,
		"\u00a0\u200b":       `\u00a0\u200b`,
		"\xff":               "\ufffd",
	} {
		require.Equal(t, want, plain(text))
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour:                              "0 s",
		999 * time.Millisecond:                  "0 s",
		59 * time.Second:                        "59 s",
		time.Minute:                             "1 min 0 s",
		time.Hour - time.Second:                 "59 min 59 s",
		time.Hour + 5*time.Minute + time.Second: "1 h 5 min",
		24*time.Hour - time.Second:              "23 h 59 min",
		24 * time.Hour:                          "1 d 0 h",
		1000*24*time.Hour + 5*time.Hour:         "1,000 d 5 h",
	} {
		require.Equal(t, want, span(d))
	}
}

func TestTrip(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0 ms", 0.0000123: "0.0123 ms", 0.012345: "12.3 ms", 0.999: "999 ms", 1: "1.0 s", 12.34567: "12.3 s"} {
		require.Equal(t, want, trip(seconds))
	}
}
