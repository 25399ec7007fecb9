package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/lookuploop/lookuploop/internal/listing"
)

const (
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// maxNames bounds how many names of one group of findings are written.
const maxNames = 10

func writeJSON(out output, r report) error { return json.NewEncoder(out).Encode(r) }

// writeTable writes a report for people.
func writeTable(out output, r report) error {
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "LOOKUPD\tVERSION\tBROKERS\tTOPICS")
	for _, l := range r.Lookupds {
		if l.Error != "" {
			fmt.Fprintf(table, "%s\t%s\n", l.Address, l.Error)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\n", l.Address, l.Version, l.Brokers, l.Topics)
	}
	fmt.Fprintln(table, "\nBROKER\tHTTP\tHOSTNAME\tVERSION\tTOPICS\tCHANNELS")
	for _, b := range r.Brokers {
		if b.Error != "" {
			fmt.Fprintf(table, "-\t%s\t%s\n", b.HTTPAddress, b.Error)
			continue
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%d\n", b.Address, b.HTTPAddress, b.Hostname, b.Version, b.Topics, b.Channels)
	}
	table.Flush() // to memory
	colour := func(c, s string) string {
		if out.styled {
			return c + s + plain
		}
		return s
	}
	for _, g := range groups(r.Findings) {
		fmt.Fprintf(&text, "\n%s\n", colour(red, g.String()))
		if names := g.names(); names != "" {
			fmt.Fprintf(&text, "  of: %s\n", names)
		}
		if g.Detail != "" {
			fmt.Fprintf(&text, "  seen: %s\n", g.Detail)
		}
		fmt.Fprintf(&text, "  %s\n", g.Advice())
	}
	fmt.Fprintf(&text, "\n%s\n", r.summary(colour))
	_, err := out.Write(text.Bytes())
	return err
}

func (r report) summary(colour func(c, s string) string) string {
	switch {
	case r.status() == exitNotAsked:
		return colour(red, fmt.Sprintf("findings: %d, but not all lookupds and brokers could be asked", len(r.Findings)))
	case len(r.Findings) > 0:
		return colour(red, fmt.Sprintf("findings: %d", len(r.Findings)))
	}
	return colour(green, "all is well")
}

// group is findings that differ only in topic and channel. The first is embedded.
type group struct {
	listing.Finding
	all []listing.Finding
}

// groups puts together what belongs together, in the order of the findings.
func groups(findings []listing.Finding) []*group {
	var found []*group
	byKey := make(map[listing.Finding]*group)
	for _, f := range findings {
		key := f
		key.Topic, key.Channel = "", ""
		g := byKey[key]
		if g == nil {
			g = &group{Finding: f}
			byKey[key] = g
			found = append(found, g)
		}
		g.all = append(g.all, f)
	}
	return found
}

func (g *group) String() string {
	s := string(g.Kind)
	if g.Broker != "" {
		s += ": broker " + g.Broker
	}
	if g.Lookupd != "" {
		s += ", at lookupd " + g.Lookupd
	}
	return s
}

// names lists topics and channels, but not too many.
func (g *group) names() string {
	var names []string
	for _, f := range g.all[:min(len(g.all), maxNames)] {
		if f.Topic != "" {
			names = append(names, strings.TrimSuffix(f.Topic+"/"+f.Channel, "/"))
		}
	}
	if more := len(g.all) - maxNames; more > 0 {
		names = append(names, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(names, ", ")
}
