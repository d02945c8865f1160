package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"
	"time"

	"github.com/millrace/millrace/replication"
)

const (
	// httpHeaderTimeout bounds how long an HTTP client may take to ask.
	httpHeaderTimeout = 10 * time.Second
	// httpIdle bounds how long an HTTP connection may be idle.
	httpIdle = time.Minute
	// httpHeaderBytes bounds the header of an HTTP request.
	httpHeaderBytes = 64 << 10
)

// httpServer answers what operators and orchestrators ask:
//
//	/livez     200 while the process runs; never depends on a quorum
//	/readyz    200 once the broker can serve and until it stops, while its disk answers;
//	           ?verbose lists the checks
//	/healthz   the cluster as seen from here
//	/version   the program's version
//	/debug/pprof/  profiles, for clients on this machine only
type httpServer struct {
	broker *Broker
	net    net.Listener
	server *http.Server
}

func newHTTPServer(b *Broker, l net.Listener) *httpServer {
	s := &httpServer{broker: b, net: l}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /version", s.version)
	mux.HandleFunc("/debug/pprof/", onLoopback(pprof.Index))
	mux.HandleFunc("/debug/pprof/cmdline", onLoopback(pprof.Cmdline))
	mux.HandleFunc("/debug/pprof/profile", onLoopback(pprof.Profile))
	mux.HandleFunc("/debug/pprof/symbol", onLoopback(pprof.Symbol))
	mux.HandleFunc("/debug/pprof/trace", onLoopback(pprof.Trace))
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: httpHeaderTimeout, IdleTimeout: httpIdle, MaxHeaderBytes: httpHeaderBytes}
	return s
}

// serve runs until close.
func (s *httpServer) serve() {
	if err := s.server.Serve(s.net); !errors.Is(err, http.ErrServerClosed) {
		s.broker.config.Logger.Error("the HTTP listener failed", "err", err)
	}
}

// close ends all connections and waits for what is under way, for a moment.
func (s *httpServer) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		s.server.Close()
	}
}

// onLoopback refuses clients on other machines: a profile shows what the broker
// does and can slow it down.
func onLoopback(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !isLoopback(host) {
			writeText(w, http.StatusForbidden, "profiles are for clients on this machine\n")
			return
		}
		h(w, r)
	}
}

// check is one condition of readiness.
type check struct {
	// Name says what is checked.
	Name string `json:"name"`
	// OK is the outcome.
	OK bool `json:"ok"`
	// Detail says what is wrong, where the name does not.
	Detail string `json:"detail,omitempty"`
}

// diskAnswers is the check of the disks. A broker whose disk hangs leads nothing that
// another can lead, and commits nothing.
func (s *httpServer) diskAnswers() check {
	c := check{Name: "disk_answers", OK: true}
	for _, hung := range s.broker.host.HungDisks() {
		c.OK = false
		c.Detail = strings.TrimPrefix(fmt.Sprintf("%s; the disk of %s hangs since %s", c.Detail, hung.Folder, hung.Since.UTC().Format(time.RFC3339)), "; ")
	}
	return c
}

// readyz says whether traffic should be sent here.
func (s *httpServer) readyz(w http.ResponseWriter, r *http.Request) {
	checks := []check{
		{Name: "ready", OK: closed(s.broker.ready)},
		{Name: "not_stopping", OK: s.broker.stopping.Err() == nil},
		s.diskAnswers(),
	}
	status := http.StatusOK
	for _, c := range checks {
		if !c.OK {
			status = http.StatusServiceUnavailable
		}
	}
	if r.URL.Query().Has("verbose") {
		writeJSON(w, status, map[string]any{"ready": status == http.StatusOK, "checks": checks})
		return
	}
	text := "ok\n"
	if status != http.StatusOK {
		text = "not ready\n"
	}
	writeText(w, status, text)
}

// health is what /healthz answers.
type health struct {
	// Healthy: there is a controller, and nothing below is missing.
	Healthy bool `json:"healthy"`
	// Controller leads the metadata group, -1 for none known.
	Controller int32 `json:"controller"`
	// Brokers counts the registered brokers.
	Brokers int `json:"brokers"`
	// Topics counts the topics, internal ones included.
	Topics int `json:"topics"`
	// Leaderless counts partitions without a known ready leader.
	Leaderless int `json:"leaderless"`
	// UnderReplicated counts partitions with a replica that is not in sync, as
	// Metadata tells it and `millrace cluster health` counts it: those without a
	// leader, of which nobody is known to be in sync, among them.
	UnderReplicated int `json:"under_replicated"`
	// BrokersDown are the registered brokers that this one cannot reach.
	BrokersDown []int32 `json:"brokers_down"`
}

// healthz shows the cluster as seen from this broker; it is 200 also when the
// cluster is not healthy, because this broker is.
func (s *httpServer) healthz(w http.ResponseWriter, _ *http.Request) {
	n := s.broker.node
	view := n.cluster.View()
	h := health{Controller: controllerID(n), Brokers: view.BrokerCount(), Topics: view.TopicCount(), BrokersDown: []int32{}}
	for b := range view.Brokers() {
		if !n.alive(b.Node) {
			h.BrokersDown = append(h.BrokersDown, int32(b.Node))
		}
	}
	for t := range view.Topics() {
		for i := range t.Partitions {
			l, ok := n.cluster.Leader(t.ID, int32(i))
			if !ok || l.Node == replication.NoLeader {
				h.Leaderless++
			}
			if len(l.InSync) < len(t.Partitions[i].Replicas) {
				h.UnderReplicated++
			}
		}
	}
	h.Healthy = h.Controller >= 0 && h.Leaderless == 0 && h.UnderReplicated == 0 && len(h.BrokersDown) == 0
	writeJSON(w, http.StatusOK, h)
}

func (s *httpServer) version(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"version": s.broker.config.Version, "go": runtime.Version(),
		"os": runtime.GOOS, "arch": runtime.GOARCH})
}

// closed reports whether a channel is closed.
func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // a client that is gone is no error of ours
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
