package lookupdtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What a Network knows of names makes it a resolver: its methods LookupNetIP, LookupHost
// and LookupSRV are those of a [net.Resolver], and lead to addresses that Dial takes.

// SetHosts makes name lead to the given hosts of servers or IP addresses, like a headless
// Service of Kubernetes leads to its pods. Without hosts the name leads nowhere. It
// replaces what the name led to before, even if it is the host of a server.
func (n *Network) SetHosts(name string, hosts ...string) {
	n.made()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, host := range hosts {
		if _, err := netip.ParseAddr(host); err != nil {
			n.mustKnow("SetHosts", host)
		}
	}
	n.names[name] = slices.Clone(hosts)
}

// SetSRV makes a name such as "_lookupd._tcp.test" lead to the given addresses, each as
// host:port, in this order. Without addresses the name leads nowhere. It panics if an
// address is invalid.
func (n *Network) SetSRV(name string, addresses ...string) {
	n.made()
	var records []net.SRV
	for _, address := range addresses {
		host, port, err := net.SplitHostPort(address)
		number, notANumber := strconv.ParseUint(port, 10, 16)
		if err != nil || notANumber != nil {
			panic(fmt.Sprintf("lookupdtest: SetSRV(%q, … %q …): an address is host:port, the port a number", name, address))
		}
		records = append(records, net.SRV{Target: host + ".", Port: uint16(number)})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.services[name] = records
}

// LookupNetIP returns the IP addresses of host for network "ip", "ip4" or "ip6". The host
// of each server has one address from 198.18.0.0/15, assigned in the order in which the
// servers were created. A name of SetHosts has the addresses of its hosts.
func (n *Network) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if err := ctx.Err(); err != nil {
		return nil, &net.DNSError{Err: err.Error(), Name: host, UnwrapErr: err, IsTimeout: true}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ips, _ := n.resolve(host)
	switch network {
	case "ip":
	case "ip4":
		ips = slices.DeleteFunc(ips, netip.Addr.Is6)
	case "ip6":
		ips = slices.DeleteFunc(ips, netip.Addr.Is4)
	default:
		return nil, net.UnknownNetworkError(network)
	}
	if len(ips) == 0 {
		return nil, noSuchHost(host)
	}
	return ips, nil
}

// LookupHost is like LookupNetIP for network "ip".
func (n *Network) LookupHost(ctx context.Context, host string) ([]string, error) {
	ips, err := n.LookupNetIP(ctx, "ip", host)
	var found []string
	for _, ip := range ips {
		found = append(found, ip.String())
	}
	return found, err
}

// LookupSRV returns the records of SetSRV for _service._proto.name, or for name if
// service and proto are empty.
func (n *Network) LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error) {
	if service != "" || proto != "" {
		name = "_" + service + "._" + proto + "." + name
	}
	if err := ctx.Err(); err != nil {
		return "", nil, &net.DNSError{Err: err.Error(), Name: name, UnwrapErr: err, IsTimeout: true}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, record := range n.services[strings.TrimSuffix(name, ".")] {
		records = append(records, &record)
	}
	if records == nil {
		return "", nil, noSuchHost(name)
	}
	return strings.TrimSuffix(name, ".") + ".", records, nil
}

func noSuchHost(name string) error {
	return &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// The rest is called with mu held.

// know takes the address of a server among those that the network knows, and its host
// among those that have an IP address.
func (n *Network) know(address string) {
	n.addresses[address] = true
	if host, _, _ := net.SplitHostPort(address); !slices.Contains(n.hosts, host) {
		n.hosts = append(n.hosts, host)
	}
}

// mustKnow panics for what is neither the host nor the address of a server.
func (n *Network) mustKnow(method string, names ...string) {
	for _, name := range names {
		if !n.addresses[name] && !slices.Contains(n.hosts, name) {
			panic(fmt.Sprintf("lookupdtest: %s(… %q …): the network has no server there; it has %s",
				method, name, list(n.hosts)))
		}
	}
}

// ip returns the IP address of the i-th host.
func (n *Network) ip(i int) netip.Addr {
	if ip, err := netip.ParseAddr(n.hosts[i]); err == nil {
		return ip
	}
	i++
	return netip.AddrFrom4([4]byte{198, 18 + byte(i>>16), byte(i >> 8), byte(i)})
}

// resolve returns the IP addresses of a host. known: it is one, or a name that was set.
func (n *Network) resolve(host string) (ips []netip.Addr, known bool) {
	host = strings.TrimSuffix(host, ".")
	hosts, known := n.names[host]
	if !known {
		hosts = []string{host}
	}
	for _, host := range hosts {
		if ip, err := netip.ParseAddr(host); err == nil {
			ips = append(ips, ip)
		} else if i := slices.Index(n.hosts, host); i >= 0 {
			ips = append(ips, n.ip(i))
		}
	}
	return ips, known || len(ips) > 0
}

// targets returns the addresses of servers that an address with any host leads to. What
// leads nowhere is returned as it is: there is no server either.
func (n *Network) targets(address string) (targets []string, err error) {
	host, port, _ := net.SplitHostPort(address)
	ips, known := n.resolve(host)
	if !known {
		return []string{address}, nil
	}
	for _, ip := range ips {
		host := ip.String()
		for i := range n.hosts {
			if n.ip(i) == ip {
				host = n.hosts[i]
			}
		}
		targets = append(targets, net.JoinHostPort(host, port))
	}
	if targets == nil {
		return nil, noSuchHost(host)
	}
	return targets, nil
}
