package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Resolver is what a look-up needs; *net.Resolver has it.
type Resolver interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// timeout bounds one look-up of one name, an SRV name's hosts included.
const timeout = 5 * time.Second

// Lookup returns the addresses of one name, host:port each.
func Lookup(ctx context.Context, resolver Resolver, name string) (addresses []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type hostPort struct{ host, port string }
	var hosts []hostPort
	if IsSRV(name) {
		_, records, err := resolver.LookupSRV(ctx, "", "", name)
		if err != nil {
			return nil, fmt.Errorf("lookuploop: %s: resolve: %w", name, err)
		}
		for _, record := range records {
			hosts = append(hosts, hostPort{record.Target, strconv.Itoa(int(record.Port))})
		}
	} else {
		host, port, _ := net.SplitHostPort(name)
		hosts = append(hosts, hostPort{host, port})
	}
	for _, h := range hosts {
		ips, err := resolver.LookupHost(ctx, h.host)
		if err != nil {
			return nil, fmt.Errorf("lookuploop: %s: resolve: %w", name, err)
		}
		for _, ip := range ips {
			addresses = append(addresses, net.JoinHostPort(ip, h.port))
		}
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("lookuploop: %s: resolve: %w", name, errors.New("the name has no addresses"))
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), nil
}

// IsLiteral tells whether an address needs no look-up.
func IsLiteral(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, _, _ := strings.Cut(host, "%") // a zone, as in fe80::1%eth0
	return err == nil && net.ParseIP(ip) != nil
}

// IsSRV tells whether an address is an SRV name, which has no port.
func IsSRV(address string) bool {
	service, rest, _ := strings.Cut(address, ".")
	return strings.HasPrefix(service, "_") && strings.HasPrefix(rest, "_tcp.")
}
