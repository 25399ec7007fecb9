package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
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
	if ip, err := netip.ParseAddr(host); err == nil {
		a.Key = netip.AddrPortFrom(ip.Unmap(), a.port).String()
	} else {
		a.host = host
		a.Key = fmt.Sprintf("%s:%d", strings.ToLower(host), port)
	}
	return a, nil
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
