package lookuploop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// requiredOptions leaves everything to its default that has one.
func requiredOptions() Options { return Options{BroadcastTCPPort: 4150, BroadcastHTTPPort: 4151} }

// TestDefaultsAreThoseOfTheComments reads "Default: …" in the comments of
// Options, and what a field is when it is left zero.
func TestDefaultsAreThoseOfTheComments(t *testing.T) {
	hostname, err := os.Hostname()
	require.NoError(t, err)
	opts, err := requiredOptions().withDefaults()
	require.NoError(t, err)
	named := requiredOptions()
	named.Hostname = "named"
	named, err = named.withDefaults()
	require.NoError(t, err)

	// What words mean; numbers are read.
	words := map[string]func(field string){
		"Hostname":      func(string) { require.Equal(t, "named", named.BroadcastAddress) },
		"os.Hostname()": func(string) { require.Equal(t, hostname, opts.Hostname) },
		defaultVersion + ", for nsqd and this library": func(string) {
			require.Equal(t, defaultVersion, opts.Version)
			require.Regexp(t, `^\d+\.\d+\.\d+\+lookuploop\.\d+\.\d+\.\d+$`, defaultVersion, "nsqadmin expects a semantic version")
		},
		"0, which means never": func(field string) { require.Zero(t, reflect.ValueOf(opts).FieldByName(field).Int()) },
		`"ip"`:                 func(string) { require.Equal(t, "ip", opts.ResolveNetwork) },
		"net.DefaultResolver":  func(string) { require.Same(t, net.DefaultResolver, opts.Resolver) },
		"0, which means that Dial looks names up, and takes one address": func(string) {
			require.Zero(t, opts.ResolveInterval)
		},
		"net.Dialer's DialContext": func(string) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer listener.Close()
			conn, err := opts.Dial(t.Context(), "tcp", listener.Addr().String())
			require.NoError(t, err)
			require.IsType(t, &net.TCPConn{}, conn)
			conn.Close()
		},
		"a client that gives up after ResponseTimeout, follows no redirects and uses no proxy": func(string) {
			client := opts.HTTPClient
			require.Equal(t, opts.ResponseTimeout, client.Timeout)
			require.Equal(t, http.ErrUseLastResponse, client.CheckRedirect(nil, nil))
			require.Nil(t, client.Transport.(*http.Transport).Proxy)
		},
		"slog.Default()": func(string) { require.Same(t, slog.Default(), opts.Logger) },
		"none":           func(string) { require.Nil(t, opts.OnStateChange) },
	}

	var checked []string
	for _, field := range fieldsOfOptions(t) {
		match := regexp.MustCompile(`Default: (.+?)\.(\s|$)`).FindStringSubmatch(field.comment)
		if match == nil {
			require.Regexp(t, `Required|[Ee]mpty`, field.comment, "%v: the comment says nothing about the zero value", field.names)
			continue
		}
		checked = append(checked, field.names...)
		if check := words[match[1]]; check != nil {
			require.Len(t, field.names, 1)
			check(field.names[0])
			continue
		}
		values := strings.Split(match[1], " and ")
		require.Len(t, values, len(field.names), "%v: default %q", field.names, match[1])
		for i, name := range field.names {
			require.Equal(t, quantity(t, values[i]), reflect.ValueOf(opts).FieldByName(name).Int(), name)
		}
	}
	require.Contains(t, checked, "HeartbeatInterval", "the comments were read")
}

// quantity reads "15 s", "100 ms" or "1 MiB".
func quantity(t *testing.T, text string) int64 {
	number, unit, _ := strings.Cut(text, " ")
	if unit == "MiB" {
		n, err := strconv.Atoi(number)
		require.NoError(t, err, text)
		return int64(n) << 20
	}
	d, err := time.ParseDuration(number + unit)
	require.NoError(t, err, text)
	return int64(d)
}

type optionField struct {
	names   []string
	comment string // in one line
}

func fieldsOfOptions(t *testing.T) (fields []optionField) {
	file, err := parser.ParseFile(token.NewFileSet(), "options.go", nil, parser.ParseComments)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Options" {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			field := optionField{comment: strings.Join(strings.Fields(f.Doc.Text()), " ")}
			for _, name := range f.Names {
				field.names = append(field.names, name.Name)
			}
			fields = append(fields, field)
		}
		return false
	})
	require.NotEmpty(t, fields)
	return fields
}

func TestEachFaultOfAnOptionIsAnError(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*Options)
		want string
	}{
		"no TCP port":         {func(o *Options) { addresses("lookupd:4160")(o); o.BroadcastTCPPort = 0 }, "BroadcastTCPPort 0: set it to 1..65535"},
		"TCP port too large":  {func(o *Options) { o.BroadcastTCPPort = 65536 }, "BroadcastTCPPort 65536: set it to 1..65535"},
		"TCP port negative":   {func(o *Options) { o.BroadcastTCPPort = -1 }, "BroadcastTCPPort -1: set it to 1..65535"},
		"no HTTP port":        {func(o *Options) { addresses("lookupd:4160")(o); o.BroadcastHTTPPort = 0 }, "BroadcastHTTPPort 0: set it to 1..65535 (nsqlookupd refuses 0"},
		"HTTP port too large": {func(o *Options) { o.BroadcastHTTPPort = 1 << 20 }, "BroadcastHTTPPort 1048576"},

		"address without a port":       {addresses("lookupd"), `lookupd address "lookupd": write host:port; nsqlookupd's TCP port is 4160 by default`},
		"address with an empty port":   {addresses("lookupd:"), `lookupd address "lookupd:": write host:port`},
		"address with port 0":          {addresses("lookupd:0"), "with a port of 1..65535"},
		"address with port 65536":      {addresses("lookupd:65536"), "with a port of 1..65535"},
		"address with a negative port": {addresses("lookupd:-1"), "with a port of 1..65535"},
		"address with an unknown port": {addresses("lookupd:no-such-service"), "with a port of 1..65535"},
		"SRV name":                     {addresses("_lookupd._tcp.example.com"), "write host:port, or set ResolveInterval for a SRV name"},
		"SRV name with a port":         {addresses("_lookupd._tcp.example.com:4160"), `"_lookupd._tcp.example.com:4160": write a SRV name without a port, its records have the ports`},
		"empty address":                {addresses(""), `lookupd address "": it is empty; without any lookupd, pass an empty list`},
		"address that isn't expanded":  {addresses("$LOOKUPD:4160"), `"$LOOKUPD:4160": write an IP address or a host name (letters, digits, hyphens, underscores, dots), and a port`},
		"address with a user":          {addresses("me@lookupd:4160"), "write an IP address or a host name"},
		"address with a scheme":        {addresses("http://lookupd:4160"), "write host:port, without http://"},
		"IPv6 address unbracketed":     {addresses("::1:4160"), "in brackets, as in [::1]:4160"},
		"several in one string":        {addresses("a:4160,b:4160"), "one address in each string"},
		"address with a space":         {addresses("look upd:4160"), "remove the space or control character"},
		"address with a newline":       {addresses("lookupd\n:4160"), "remove the space or control character"},

		"broadcast address in brackets":      {func(o *Options) { o.BroadcastAddress = "[::1]" }, "without brackets"},
		"broadcast address in half brackets": {func(o *Options) { o.BroadcastAddress = "::1]" }, "without brackets"},
		"broadcast address with port":        {func(o *Options) { o.BroadcastAddress = "broker:4150" }, "the port goes into BroadcastTCPPort"},
		"broadcast address with a space":     {func(o *Options) { o.BroadcastAddress = "bro ker" }, `BroadcastAddress "bro ker": remove the space`},
		"host name with a newline":           {func(o *Options) { o.Hostname, o.BroadcastAddress = "host\n", "broker" }, `Hostname "host\n": remove the space`},
		"version with a space":               {func(o *Options) { o.Version = "1.0 beta" }, `Version "1.0 beta": remove the space`},
		"zone with a tab":                    {func(o *Options) { o.TopologyZone = "a\tb" }, `TopologyZone "a\tb": remove the space`},
		"region with a no-break space":       {func(o *Options) { o.TopologyRegion = "a\u00a0b" }, `TopologyRegion "a\u00a0b": remove the space`},
		"region with a delete character":     {func(o *Options) { o.TopologyRegion = "a\x7f" }, `TopologyRegion "a\x7f": remove the space or control character`},
		"data path with a null byte":         {func(o *Options) { o.DataPath = "/tmp\x00" }, `DataPath "/tmp\x00": remove the null byte`},

		"broadcast address of all":         {func(o *Options) { o.BroadcastAddress = "0.0.0.0" }, `broadcast address "0.0.0.0": it stands for all addresses of a machine`},
		"broadcast address of all, IPv6":   {func(o *Options) { o.BroadcastAddress = "::" }, `broadcast address "::": it stands for all`},
		"broadcast address of all, mapped": {func(o *Options) { o.BroadcastAddress = "::ffff:0.0.0.0" }, "it stands for all"},
		"broadcast address with a scheme":  {func(o *Options) { o.BroadcastAddress = "tcp://broker" }, "name the host alone"},
		"broadcast address with a path":    {func(o *Options) { o.BroadcastAddress = "broker/" }, `broadcast address "broker/": write an IP address, or a host name`},
		"broadcast address of digits":      {func(o *Options) { o.BroadcastAddress = "10.0.0" }, "write an IP address, or a host name"},
		"host name of digits":              {func(o *Options) { o.Hostname = "4711" }, `broadcast address "4711": write an IP address`},

		"heartbeat interval too long": {func(o *Options) { o.HeartbeatInterval = 100*time.Second + 1 }, "HeartbeatInterval 1m40.000000001s: set it to at most 100 s, as nsqlookupd hides a producer after 300 s"},
		"heartbeat without a unit":    {func(o *Options) { o.HeartbeatInterval = 15 }, "HeartbeatInterval 15ns: set it to at least 1 ms (a number without a unit means nanoseconds: write 15 * time.Second, for example)"},
		"heartbeat of centuries":      {func(o *Options) { o.HeartbeatInterval = math.MaxInt64 }, "HeartbeatInterval 2562047h47m16.854775807s: set it to at most a year"},
		"dial timeout too short":      {func(o *Options) { o.DialTimeout = time.Millisecond - 1 }, "DialTimeout 999.999µs: set it to at least 1 ms"},
		"response timeout of years":   {func(o *Options) { o.ResponseTimeout = 366 * 24 * time.Hour }, "ResponseTimeout 8784h0m0s: set it to at most a year"},
		"resync without a unit":       {func(o *Options) { o.ResyncInterval = 60 }, "ResyncInterval 60ns: set it to at least 1 ms"},
		"resolve without a unit":      {func(o *Options) { o.ResolveInterval = 30 }, "ResolveInterval 30ns: set it to at least 1 ms"},
		"response size too small":     {func(o *Options) { o.MaxResponseSize = 1023 }, "MaxResponseSize 1023: set it to at least 1 KiB and at most 1 GiB"},
		"response size too large":     {func(o *Options) { o.MaxResponseSize = math.MaxInt }, "set it to at least 1 KiB and at most 1 GiB"},

		"negative heartbeat interval": {func(o *Options) { o.HeartbeatInterval = -time.Second }, "HeartbeatInterval -1s: it can't be negative"},
		"negative dial timeout":       {func(o *Options) { o.DialTimeout = -1 }, "DialTimeout -1ns: it can't be negative"},
		"negative response timeout":   {func(o *Options) { o.ResponseTimeout = -1 }, "ResponseTimeout -1ns: it can't be negative"},
		"negative least backoff":      {func(o *Options) { o.MinBackoff = -1 }, "MinBackoff -1ns: it can't be negative"},
		"negative longest backoff":    {func(o *Options) { o.MaxBackoff = -1 }, "MaxBackoff -1ns: it can't be negative"},
		"negative resync interval":    {func(o *Options) { o.ResyncInterval = -1 }, "ResyncInterval -1ns: it can't be negative"},
		"negative verify interval":    {func(o *Options) { o.VerifyInterval = -1 }, "VerifyInterval -1ns: it can't be negative"},
		"negative resolve interval":   {func(o *Options) { o.ResolveInterval = -1 }, "ResolveInterval -1ns: it can't be negative"},
		"unknown resolve network":     {func(o *Options) { o.ResolveNetwork = "tcp4" }, `ResolveNetwork "tcp4": set it to ip, ip4 or ip6`},
		"negative response size":      {func(o *Options) { o.MaxResponseSize = -1 }, "MaxResponseSize -1: it can't be negative"},
		"backoffs the wrong way round": {
			func(o *Options) { o.MinBackoff, o.MaxBackoff = 2*time.Second, time.Second },
			"MinBackoff 2s is above MaxBackoff 1s",
		},
	} {
		t.Run(name, func(t *testing.T) {
			opts := requiredOptions()
			tt.edit(&opts)
			loop, err := New(opts)
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, loop)
			require.Len(t, faults(err), 1, "one fault, one error: %v", err)
			require.Regexp(t, `^lookuploop: [^\n]+$`, err.Error())
		})
	}
}

func addresses(addrs ...string) func(*Options) {
	return func(o *Options) { o.LookupdTCPAddresses = addrs }
}

// faults takes joined errors apart.
func faults(err error) (all []error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			all = append(all, faults(err)...)
		}
		return all
	}
	return []error{err}
}

func TestAllFaultsOfOptionsAreReportedAtOnce(t *testing.T) {
	_, err := New(Options{
		LookupdTCPAddresses: []string{"a", "good:4160", "b:0"},
		BroadcastAddress:    "[::1]",
		Hostname:            "a b",
		Version:             "1 2",
		TopologyZone:        "\n",
		TopologyRegion:      "\n",
		DataPath:            "\x00",
		HeartbeatInterval:   -1,
		DialTimeout:         -1,
		ResponseTimeout:     -1,
		MinBackoff:          -1,
		MaxBackoff:          -1,
		ResyncInterval:      -1,
		VerifyInterval:      -1,
		ResolveInterval:     -1,
		MaxResponseSize:     -1,
	})
	for _, name := range []string{
		`"a"`, `"b:0"`, "BroadcastTCPPort", "BroadcastHTTPPort", "broadcast address", "Hostname", "Version", "TopologyZone",
		"TopologyRegion", "DataPath", "HeartbeatInterval", "DialTimeout", "ResponseTimeout", "MinBackoff", "MaxBackoff",
		"ResyncInterval", "VerifyInterval", "ResolveInterval", "MaxResponseSize",
	} {
		require.Contains(t, err.Error(), name)
	}
	require.NotContains(t, err.Error(), "good")
	require.Len(t, faults(err), 19)
	for _, line := range strings.Split(err.Error(), "\n") {
		require.True(t, strings.HasPrefix(line, "lookuploop: "), line)
	}
}

func TestHostsMayBeNamesOrIPAddressesOfEitherKind(t *testing.T) {
	for _, host := range []string{"broker", "broker.example.com", "127.0.0.1", "::1", "2001:db8::4150", "fe80::1%eth0"} {
		opts := requiredOptions()
		opts.BroadcastAddress = host
		opts.LookupdTCPAddresses = []string{net.JoinHostPort(host, "1"), net.JoinHostPort(host, "65535")}
		loop, err := New(opts)
		require.NoError(t, err)
		require.Equal(t, host, loop.opts.identity()["broadcast_address"])
		require.Equal(t, opts.LookupdTCPAddresses, addressesOf(loop))
	}
}

func addressesOf(loop *Loop) []string {
	addrs := []string{}
	for _, s := range loop.Status().Lookupds {
		addrs = append(addrs, s.Address)
	}
	return addrs
}

// Whoever isn't told of the broker doesn't need its ports.
func TestPortsAreRequiredOnceThereIsALookupd(t *testing.T) {
	loop, err := New(Options{BroadcastAddress: "broker.test", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, loop.Close()) }()
	require.NoError(t, loop.Notify(TopicCreated("orders")))
	err = loop.SetLookupdTCPAddresses([]string{"lookupd.test:4160"})
	require.EqualError(t, err, "lookuploop: BroadcastTCPPort 0: set it to 1..65535 (the port where consumers reach the broker)\n"+
		"lookuploop: BroadcastHTTPPort 0: set it to 1..65535 (nsqlookupd refuses 0; without HTTP name the TCP port)")
	require.Empty(t, loop.Status().Lookupds)
	require.NoError(t, loop.SetLookupdTCPAddresses(nil))
	_, err = New(Options{BroadcastTCPPort: -1, BroadcastHTTPPort: 65536})
	require.Len(t, faults(err), 2, "wrong is wrong in any case")
}

func TestRunSaysWhatKeepsConsumersAway(t *testing.T) {
	const none = `level=INFO msg="no lookupd addresses: consumers can't find the broker`
	const loopback = `level=WARN msg="consumers on other machines can't reach the broker at a loopback address, set BroadcastAddress" broadcast_address=`
	for _, tt := range []struct {
		broadcast string
		lookupds  []string
		want      string
	}{
		{"broker.test", nil, none},
		{"broker.test", []string{"lookupd.test:4160"}, ""},
		{"localhost", nil, none},
		{"localhost", []string{"127.0.0.1:4160", "[::1]:4160", ":4160", "LOCALHOST:4160"}, ""},
		{"localhost", []string{"127.0.0.1:4160", "lookupd.test:4160", "10.0.0.1:4160"}, loopback + "localhost lookupd=lookupd.test:4160"},
		{"127.0.0.2", []string{"10.0.0.1:4160"}, loopback + "127.0.0.2 lookupd=10.0.0.1:4160"},
		{"::1", []string{"lookupd.test:4160"}, loopback + "::1 lookupd=lookupd.test:4160"},
	} {
		var log logBuffer
		loop := newLoop(t, log.watch, addresses(tt.lookupds...), func(o *Options) {
			o.BroadcastAddress = tt.broadcast
			o.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, net.ErrClosed }
		})
		run(t, loop)()
		require.Contains(t, log.String(), tt.want)
		for _, line := range []string{none, loopback} {
			if tt.want == "" || !strings.HasPrefix(tt.want, line) {
				require.NotContains(t, log.String(), line)
			}
		}
	}
}

// The end points of the range are good ports.
func TestPortsFrom1To65535AreAccepted(t *testing.T) {
	for _, port := range []int{1, 65535} {
		_, err := New(Options{BroadcastTCPPort: port, BroadcastHTTPPort: port})
		require.NoError(t, err)
	}
}

func TestOptionsAreCopiedAndNeverWrittenTo(t *testing.T) {
	opts := requiredOptions()
	opts.LookupdTCPAddresses = []string{"b:4160", "a:4160", "b:4160", "c:4160"}
	before := opts
	before.LookupdTCPAddresses = slices.Clone(opts.LookupdTCPAddresses)

	loop, err := New(opts)
	require.NoError(t, err)
	require.Equal(t, before, opts)

	opts.LookupdTCPAddresses[0] = "changed:4160"
	require.Equal(t, []string{"b:4160", "a:4160", "c:4160"}, addressesOf(loop), "in the order given, each once")
	require.Equal(t, []string{"b:4160", "a:4160", "c:4160"}, loop.opts.LookupdTCPAddresses)
}

func TestOneBackoffMovesTheDefaultOfTheOther(t *testing.T) {
	for _, tt := range []struct{ min, max, wantMin, wantMax time.Duration }{
		{0, 0, 100 * time.Millisecond, 5 * time.Second},
		{time.Second, 0, time.Second, 5 * time.Second},
		{time.Minute, 0, time.Minute, time.Minute},
		{0, time.Minute, 100 * time.Millisecond, time.Minute},
		{0, time.Millisecond, time.Millisecond, time.Millisecond},
		{time.Second, time.Second, time.Second, time.Second},
	} {
		t.Run(fmt.Sprint(tt.min, " and ", tt.max), func(t *testing.T) {
			opts := requiredOptions()
			opts.MinBackoff, opts.MaxBackoff = tt.min, tt.max
			opts, err := opts.withDefaults()
			require.NoError(t, err)
			require.Equal(t, tt.wantMin, opts.MinBackoff)
			require.Equal(t, tt.wantMax, opts.MaxBackoff)
		})
	}
}

func TestWhatIsSetIsKept(t *testing.T) {
	opts := Options{
		LookupdTCPAddresses: []string{"lookupd:4160"},
		BroadcastAddress:    "address",
		Hostname:            "host",
		BroadcastTCPPort:    1,
		BroadcastHTTPPort:   2,
		Version:             "3.0.0",
		TopologyZone:        "zone",
		TopologyRegion:      "region",
		DataPath:            "path",
		HeartbeatInterval:   4 * time.Second,
		DialTimeout:         5 * time.Second,
		ResponseTimeout:     6 * time.Second,
		MinBackoff:          7 * time.Second,
		MaxBackoff:          8 * time.Second,
		ResyncInterval:      9 * time.Second,
		VerifyInterval:      12 * time.Second,
		ResolveInterval:     10 * time.Second,
		ResolveNetwork:      "ip6",
		Resolver:            &net.Resolver{},
		MaxResponseSize:     1 << 11,
		HTTPClient:          &http.Client{},
		Logger:              slog.New(slog.NewTextHandler(new(bytes.Buffer), nil)),
	}
	fields := reflect.ValueOf(opts)
	for i := range fields.NumField() {
		if kind := fields.Field(i).Kind(); kind != reflect.Func { // which can't be compared
			require.False(t, fields.Field(i).IsZero(), "%s is not set here", fields.Type().Field(i).Name)
		}
	}
	kept, err := opts.withDefaults()
	require.NoError(t, err)
	kept.Dial = nil
	require.Equal(t, opts, kept)
	require.Same(t, opts.HTTPClient, kept.HTTPClient)
	require.Same(t, opts.Logger, kept.Logger)
	require.Same(t, opts.Resolver, kept.Resolver)
}

func TestIdentitySaysWhatNsqlookupdExpects(t *testing.T) {
	opts := validOptions()
	opts.Version = "1.2.3"
	for _, tt := range []struct{ zone, region, want string }{
		{"", "", ""},
		{"z", "", `,"topology_zone":"z"`},
		{"", "r", `,"topology_region":"r"`},
		{"z", "r", `,"topology_zone":"z","topology_region":"r"`},
	} {
		opts.TopologyZone, opts.TopologyRegion = tt.zone, tt.region
		body, err := json.Marshal(opts.identity())
		require.NoError(t, err)
		require.JSONEq(t, `{"broadcast_address":"broker.test","hostname":"broker-host","http_port":4151,"tcp_port":4150,"version":"1.2.3"`+tt.want+`}`, string(body))
	}
}
