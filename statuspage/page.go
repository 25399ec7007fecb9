package statuspage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/lookuploop/lookuploop"
)

const (
	refreshSeconds = 10 // time enough to type a topic
	maxRefused     = 10 // names that the page shows of those that one lookupd refused
	maxChannels    = 50 // of the topic asked for
	maxFindings    = 20 // that the page shows
)

//go:embed page.css
var style string

//go:embed page.html
var pageSource string

// The style is the only thing that a browser may take from the page or load
// for it, however text got in there.
var contentSecurityPolicy = fmt.Sprintf(
	"default-src 'none'; style-src 'sha256-%s'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	hash(style))

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return base64.StdEncoding.EncodeToString(sum[:])
}

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"count":  count,
	"number": number,
	"plain":  plain,
	"trip":   trip,
}).Parse(pageSource))

// page is what the template gets.
type page struct {
	report
	Style   template.CSS
	Refresh int // seconds until it loads itself again; 0: never
}

func render(w io.Writer, r report, refresh bool) error {
	p := page{report: r, Style: template.CSS(style)}
	if refresh {
		p.Refresh = refreshSeconds
	}
	return pageTemplate.Execute(w, p)
}

// Interval is how often the page loads itself again if it does.
func (page) Interval() int { return refreshSeconds }

// Link is the page about a topic, or without one the page about all.
func (p page) Link(topic string) string { return query("topic", topic, "refresh", p.refresh()) }

// Toggle is the same page, with the reloading turned on or off.
func (p page) Toggle() string {
	if p.Refresh != 0 {
		return query("topic", p.topic(), "refresh", "off")
	}
	return query("topic", p.topic())
}

// JSON is what the page shows, for programs.
func (p page) JSON() string { return query("format", "json", "topic", p.topic()) }

func (p page) refresh() string {
	if p.Refresh == 0 {
		return "off"
	}
	return ""
}

// topic is the name asked for, if there is one.
func (p page) topic() string {
	if p.Topic == nil {
		return ""
	}
	return p.Topic.Name
}

// query is a link to this address with those parameters that are not empty.
func query(pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			values.Set(pairs[i], pairs[i+1])
		}
	}
	return "?" + values.Encode()
}

// moment is a point in time, with words for it.
type moment struct {
	UTC   string
	Words string
}

// Taken says when the snapshot was taken.
func (r report) Taken() moment {
	return moment{r.Time.Format(time.RFC3339), r.Time.Format("2006-01-02 15:04:05 MST")}
}

// Ago says how long before the snapshot t was.
func (r report) Ago(t time.Time) moment {
	return moment{t.Format(time.RFC3339), span(r.Time.Sub(t)) + " ago"}
}

// For says since when, at the time of the snapshot.
func (r report) For(since time.Time) moment {
	return moment{since.Format(time.RFC3339), "for " + span(r.Time.Sub(since))}
}

// In says how long after the snapshot t will be.
func (r report) In(t time.Time) moment {
	words := "now"
	if d := t.Sub(r.Time); d > 0 {
		words = "in " + span(d+time.Second-1)
	}
	return moment{t.Format(time.RFC3339), words}
}

// Lines are what each lookupd said, and what that means.
func (v verification) Lines() (lines []string) {
	if v.Error != nil && !v.isOfLookupds() {
		lines = append(lines, strings.TrimPrefix(*v.Error, "lookuploop: "))
	}
	if v.Found == nil {
		return lines
	}
	for _, l := range v.Found.Lookupds {
		isWrong := slices.ContainsFunc(v.Found.Findings, func(f lookuploop.Finding) bool { return f.Lookupd == l.Address })
		switch {
		case l.Err != nil:
			lines = append(lines, strings.TrimPrefix(cut(l.Err.Error()), "lookuploop: "))
		case l.Pending > 0:
			lines = append(lines, fmt.Sprintf("%s: it has not acknowledged %s, so its topics were not compared", l.Address, count(l.Pending, "change")))
		case !isWrong:
			lines = append(lines, l.Address+": it lists the broker correctly")
		}
	}
	shown := v.Found.Findings[:min(len(v.Found.Findings), maxFindings)]
	for _, f := range shown {
		lines = append(lines, cut(f.String()))
	}
	if n := len(v.Found.Findings) - len(shown); n > 0 {
		lines = append(lines, count(n, "more finding")+"; all are in the JSON")
	}
	return lines
}

// isOfLookupds tells whether Error only joins what the lookupds are shown with.
func (v verification) isOfLookupds() bool {
	var errs []error
	if v.Found != nil {
		for _, l := range v.Found.Lookupds {
			if l.Err == nil {
				return false
			}
			errs = append(errs, l.Err)
		}
	}
	err := errors.Join(errs...)
	return err != nil && cut(err.Error()) == *v.Error
}

// count is "1 topic", "2 topics".
func count(n any, what string) string {
	text := number(n) + " " + what
	if text == "1 "+what {
		return text
	}
	return text + "s"
}

// number is a whole number >= 0 with its digits in groups of three.
func number(n any) string {
	digits := fmt.Sprint(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// span is a duration in words, to the second.
func span(d time.Duration) string {
	d = max(d, 0)
	switch days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60; {
	case days > 0:
		return fmt.Sprintf("%s d %d h", number(days), hours)
	case hours > 0:
		return fmt.Sprintf("%d h %d min", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%d min %d s", minutes, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d s", int(d.Seconds()))
}

// trip is a round trip in words.
func trip(seconds float64) string {
	if seconds >= 1 {
		return fmt.Sprintf("%.1f s", seconds)
	}
	return fmt.Sprintf("%.3g ms", seconds*1000)
}

// plain writes out what a text from the network could use to pass for
// something else: control characters, and those that turn the direction of text.
func plain(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}
