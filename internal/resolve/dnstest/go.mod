module github.com/lookuploop/lookuploop/internal/resolve/dnstest

go 1.26.0

require (
	github.com/lookuploop/lookuploop v0.1.0
	github.com/miekg/dns v1.1.73
	github.com/stretchr/testify v1.12.1
)

require (
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/net v0.57.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace github.com/lookuploop/lookuploop => ../../..
