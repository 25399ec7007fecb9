package statuspage

import (
	"io"
	"net/http"
)

// Ready returns a handler for readiness probes. It can be mounted on any path:
//
//	mux.Handle("/ready", statuspage.Ready(loop, 1))
//
// It answers GET and HEAD with status 200 if n nsqlookupds know everything that
// the broker has, and with 503 otherwise. n <= 0 means all configured nsqlookupds.
// The body of a 503 says which nsqlookupds are missing and why. The handler never
// waits and may be used concurrently.
//
// Use 1 for n in most cases: consumers can then find the broker. With n <= 0, a
// single nsqlookupd that is down takes the broker out of service, and a broker
// without addresses is ready. After Drain there are none: n >= 1 gives 503, and n <= 0
// gives 200.
func Ready(loop interface{ Registered(n int) error }, n int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !begin(w, r) {
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err := loop.Registered(n); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, err.Error()+"\n")
			return
		}
		io.WriteString(w, "ready\n")
	})
}
