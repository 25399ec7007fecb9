package statuspage

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

const (
	refreshSeconds = 5
	maxRefused     = 10 // names that the page shows of those that one lookupd refused
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
	"count": count,
	"plain": plain,
	"trip":  trip,
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

// Complaint is the last error without what the row says anyway.
func (l lookupdReport) Complaint() string {
	return strings.TrimPrefix(*l.LastError, "lookuploop: "+l.Address+": ")
}

// OtherNames are the configured addresses unless there is only Address itself.
func (l lookupdReport) OtherNames() string {
	if names := strings.Join(l.Names, ", "); names != l.Address {
		return names
	}
	return ""
}

// Shown are the refused names for which there is room.
func (l lookupdReport) Shown() []refusal { return l.Refused[:min(len(l.Refused), maxRefused)] }

// Hidden is how many refused names there are besides.
func (l lookupdReport) Hidden() int { return len(l.Refused) - len(l.Shown()) }

// Registered is how many lookupds list the topic asked for.
func (r report) Registered() int {
	n := 0
	for _, l := range r.Lookupds {
		if l.TopicState == registered {
			n++
		}
	}
	return n
}

// count is "1 topic", "2 topics".
func count(n any, what string) string {
	text := fmt.Sprintf("%d %s", n, what)
	if text == "1 "+what {
		return text
	}
	return text + "s"
}

// span is a duration in words, to the second.
func span(d time.Duration) string {
	d = max(d, 0)
	switch days, hours, minutes := int(d.Hours())/24, int(d.Hours())%24, int(d.Minutes())%60; {
	case days > 0:
		return fmt.Sprintf("%d d %d h", days, hours)
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
