package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"unicode"
)

// Address is a configured address: host and port as net.Dial takes them, or a
// SRV name such as _lookupd._tcp.example.com.
type Address struct {
	Text string // as it was written
	Key  string // the same for all spellings; of an IP address, AddrPort's text

	host string // to be looked up; empty: the address needs no look-up
	port uint16 // 0: it is a SRV name
}

// services knows the ports of services from a table and a file, as net.Dial does.
// It asks neither the network nor the C library.
var services = net.Resolver{PreferGo: true}

// Parse reads an address. Its errors don't repeat the address.
func Parse(text string) (Address, error) {
	if mistake := mistakeIn(text); mistake != "" {
		return Address{}, errors.New(mistake)
	}
	if isSRV(text) {
		return Address{Text: text, Key: strings.ToLower(text), host: text}, nil
	}
	host, service, err := net.SplitHostPort(text)
	port := 0
	if err == nil {
		port, err = services.LookupPort(context.Background(), "tcp", service)
	}
	if err != nil || port == 0 {
		return Address{}, errors.New("write host:port, with a port of 1..65535")
	}
	a := Address{Text: text, port: uint16(port)}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		a.Key = netip.AddrPortFrom(ip.Unmap(), a.port).String()
		return a, nil
	case isSRV(host):
		return Address{}, errors.New("write a SRV name without a port, its records have the ports")
	case host != "" && !IsHostName(host):
		return Address{}, errors.New("write an IP address or a host name (letters, digits, hyphens, underscores, dots), and a port")
	}
	a.host = host
	a.Key = fmt.Sprintf("%s:%d", strings.ToLower(host), port)
	return a, nil
}

// mistakeIn names the mistakes that people make, each with its remedy; empty: none
// of them.
func mistakeIn(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || r == ',' || r == ';' })
	scheme, _, isURL := strings.Cut(text, "://")
	_, err := netip.ParseAddr(text)
	switch {
	case text == "":
		return "it is empty; without any lookupd, pass an empty list"
	case len(words) > 1 && (strings.ContainsAny(text, ",;") || strings.Count(text, ":") >= len(words)):
		return "write host:port, and one address in each string"
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return "remove the space or control character"
	case isURL:
		return "write host:port, without " + scheme + "://"
	case err == nil && strings.Contains(text, ":"):
		return "write host:port, with an IPv6 address in brackets, as in [::1]:4160"
	case !isSRV(text) && (!strings.Contains(text, ":") || strings.HasSuffix(text, "]")):
		return "write host:port; nsqlookupd's TCP port is 4160 by default"
	}
	return ""
}

// IsHostName tells whether text can be the name of a host, as resolvers see it:
// letters, digits, hyphens, underscores and dots, but not digits alone.
func IsHostName(text string) bool {
	text = strings.TrimSuffix(text, ".")
	isNumber := true
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range label {
			switch {
			case '0' <= c && c <= '9':
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_':
				isNumber = false
			default:
				return false
			}
		}
	}
	return !isNumber && len(text) <= 253
}

// IsLoopback tells whether host is this machine, seen from itself; an empty one
// is, as for net.Dial.
func IsLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || host == "" || strings.EqualFold(host, "localhost")
}

// IsLoopback tells whether the address is one of this machine, seen from itself.
func (a Address) IsLoopback() bool {
	host, _, _ := net.SplitHostPort(a.Text)
	return !a.IsSRV() && IsLoopback(host)
}

// IsName tells whether the address has to be looked up. An empty host is this
// machine, as for net.Dial.
func (a Address) IsName() bool { return a.host != "" }

// IsSRV tells whether the address is a SRV name, which only a look-up gives a port.
func (a Address) IsSRV() bool { return a.host != "" && a.port == 0 }

func isSRV(text string) bool {
	service, rest, _ := strings.Cut(text, ".")
	return strings.HasPrefix(service, "_") && len(rest) > len("_tcp.") &&
		strings.EqualFold(rest[:len("_tcp.")], "_tcp.") && !strings.Contains(rest, ":")
}
