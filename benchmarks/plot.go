package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// The plots have no background, and text that is readable on a light and a
// dark one.
const (
	plotWidth, plotHeight    = 720, 400
	left, right, top, bottom = 70, 190, 50, 50
)

const plotHead = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">
<style>
text { fill: #444 } line, .axis { stroke: #8886 } .ours { stroke: #0a7d4b; fill: #0a7d4b } .raw { stroke: #888; fill: #888 } .single { stroke: #c2410c; fill: #c2410c }
polyline { fill: none !important; stroke-width: 2.5 } text.ours, text.raw, text.single { stroke: none } .dashed { stroke-dasharray: 6 4 }
@media (prefers-color-scheme: dark) { text { fill: #ccc } .ours { stroke: #34d399; fill: #34d399 } .raw { stroke: #aaa; fill: #aaa } .single { stroke: #fb923c; fill: #fb923c } }
</style>
`

// logScale maps lowest..highest to from..to.
func logScale(lowest, highest, from, to float64) func(float64) float64 {
	return func(v float64) float64 {
		return from + (to-from)*math.Log(v/lowest)/math.Log(highest/lowest)
	}
}

// plotSync draws the time of a full sync against the round trip, for what was
// measured with a real nsqlookupd, or else with lookupdtest.
func plotSync(r results) string {
	var b strings.Builder
	fmt.Fprintf(&b, plotHead, plotWidth, plotHeight)
	cases := syncCases(r)
	if len(cases) == 0 {
		return b.String() + "</svg>\n"
	}
	lookupd := cases[0].lookupd
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">Time until %s knows everything</text>`+"\n", left, lookupd)

	const loopback = 0.1 // ms, where 0 is drawn
	x := logScale(loopback, 10, left, plotWidth-right)
	y := logScale(0.01, 10_000, plotHeight-bottom, top)
	for _, t := range []struct {
		ms    float64
		label string
	}{{loopback, "loopback"}, {1, "1 ms"}, {10, "10 ms"}} {
		fmt.Fprintf(&b, `<line x1="%.0f" x2="%.0f" y1="%d" y2="%d"/><text x="%.0f" y="%d" text-anchor="middle">%s</text>`+"\n",
			x(t.ms), x(t.ms), top, plotHeight-bottom, x(t.ms), plotHeight-bottom+18, t.label)
	}
	for _, t := range []struct {
		seconds float64
		label   string
	}{{0.01, "10 ms"}, {0.1, "0.1 s"}, {1, "1 s"}, {10, "10 s"}, {100, "100 s"}, {1000, "1,000 s"}, {10_000, "10,000 s"}} {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.0f" y2="%.0f"/><text x="%d" y="%.0f" text-anchor="end">%s</text>`+"\n",
			left, plotWidth-right, y(t.seconds), y(t.seconds), left-8, y(t.seconds)+4, t.label)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">round trip</text>`+"\n", (left+plotWidth-right)/2, plotHeight-12)

	for _, n := range []int{10_000, 100_000} {
		class := ""
		if n > 10_000 {
			class = " dashed"
		}
		for _, series := range []struct{ class, unit string }{{"raw", "raw-ns/op"}, {"single", "single-ns/op"}, {"ours", "ns/op"}} {
			var points []string
			for _, c := range cases {
				if c.n == n && c.lookupd == lookupd {
					seconds := r.metrics[c.name()][series.unit].median() / 1e9
					points = append(points, fmt.Sprintf("%.1f,%.1f", x(max(float64(c.roundTrip), loopback)), y(seconds)))
				}
			}
			fmt.Fprintf(&b, `<polyline class="%s%s" points="%s"/>`+"\n", series.class, class, strings.Join(points, " "))
		}
	}
	for i, legend := range []struct{ class, text string }{
		{"single", "one at a time, as nsqd"}, {"ours", "lookuploop"}, {"raw", "prebuilt bytes"},
	} {
		at := top + 20 + 22*i
		fmt.Fprintf(&b, `<polyline class="%s" points="%d,%d %d,%d"/><text x="%d" y="%d">%s</text>`+"\n",
			legend.class, plotWidth-right+14, at-4, plotWidth-right+38, at-4, plotWidth-right+44, at, legend.text)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d">solid: 10,000 REGISTERs</text><text x="%d" y="%d">dashed: 100,000</text>`+"\n",
		plotWidth-right+14, top+100, plotWidth-right+14, top+120)
	if slices.ContainsFunc(cases, func(c syncCase) bool { return c.lookupd == lookupd && c.isReckoned(r) }) {
		fmt.Fprintf(&b, `<text x="%d" y="%d">one at a time: partly</text><text x="%d" y="%d">extrapolated (≈ in the table)</text>`+"\n",
			plotWidth-right+14, top+150, plotWidth-right+14, top+166)
	}
	return b.String() + "</svg>\n"
}

// plotStorm draws how many attempts to connect there were in each 100 ms.
func plotStorm(r results) string {
	var b strings.Builder
	const height = 260
	fmt.Fprintf(&b, plotHead, plotWidth, height)
	runs := r.attrs["TestReconnectStorm"]
	if len(runs) == 0 {
		return b.String() + "</svg>\n"
	}
	var windows []float64
	for field := range strings.FieldsSeq(runs[0]["attempts-per-100ms"]) {
		var n float64
		fmt.Sscan(field, &n)
		windows = append(windows, n)
	}
	fmt.Fprintf(&b, `<text x="%d" y="24" font-size="15">Attempts to connect in 100 ms, by %s Loops, from when their lookupd dies</text>`+"\n", left, runs[0]["loops"])
	x := func(window float64) float64 { return left + (plotWidth-left-20)*window/float64(len(windows)) }
	y := logScale(1, max(10, slices.Max(windows)), height-bottom, top)
	for n := 1.0; n <= slices.Max(windows); n *= 10 {
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.0f" y2="%.0f"/><text x="%d" y="%.0f" text-anchor="end">%.0f</text>`+"\n",
			left, plotWidth-20, y(n), y(n), left-8, y(n)+4, n)
	}
	var points []string
	for i, n := range windows {
		points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(i)), y(max(n, 1))))
	}
	fmt.Fprintf(&b, `<polyline class="ours" style="stroke-width: 1" points="%s"/>`+"\n", strings.Join(points, " "))
	for second := 0; second*10 <= len(windows); second += 10 {
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle">%d s</text>`+"\n", x(float64(second*10)), height-bottom+18, second)
	}
	fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle">it is back after 60 s</text>`+"\n", x(600), height-12)
	return b.String() + "</svg>\n"
}
