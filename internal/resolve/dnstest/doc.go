// Package dnstest tests the look-up of names with a real DNS server.
// It is a module of its own, so that the library doesn't depend on a DNS library.
package dnstest
