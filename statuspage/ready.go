package statuspage

import (
	"io"
	"net/http"
)

// Ready returns a handler for readiness probes, to be mounted on any path. It
// answers a GET or HEAD with 200 if n nsqlookupds (n <= 0: all that are
// configured) know everything that the broker has, and with 503 otherwise. The
// body says in words which are missing and why. It never waits.
//
//	mux.Handle("/ready", statuspage.Ready(loop, 1))
//
// With n <= 0 one nsqlookupd that is down takes the broker out of service, and a
// broker without addresses is ready. So n is 1 mostly: consumers find the broker.
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
