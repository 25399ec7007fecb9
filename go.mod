module github.com/lookuploop/lookuploop

go 1.26.0

require (
	github.com/nsqio/go-nsq v1.1.0
	github.com/stretchr/testify v1.12.1
	go.uber.org/atomic v1.12.0
	go.uber.org/goleak v1.3.0
	pgregory.net/rapid v1.3.0
)

require (
	github.com/golang/snappy v0.0.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
