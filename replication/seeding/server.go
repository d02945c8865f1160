package seeding

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"github.com/millrace/millrace/log"
	"github.com/millrace/millrace/replication/metadata"
	"github.com/millrace/millrace/replication/transport"
	"github.com/millrace/millrace/segment"
)

// Codes of the errors with which a Server answers. Numbers are part of the protocol.
const (
	// CodeNothing: no replica of the group is here, or its log has no seed that ends
	// where it was asked for.
	CodeNothing = transport.FirstHostCode + 32
	// CodeChanged: the seed is not there any more as it was described, or was forgotten.
	CodeChanged = transport.FirstHostCode + 33
)

const (
	// maxSessions is how many seeds are being given; one more forgets the one that was
	// not read for longest, whose taker asks again. Each holds a segment header and the
	// list of its files, no descriptors.
	maxSessions = 32
	// maxReading is how many reads are under way, of at most MaxRead bytes each; others
	// wait.
	maxReading = 4
)

// Source is the seed of a replica; *log.SeedSource is one.
type Source interface {
	// Seed is its description.
	Seed() *log.Seed
	// ReadAt reads from one of its files, see log.SeedSource.
	ReadAt(file int, p []byte, at int64) (int, error)
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Open opens the seed of a group's log that ends at an entry, or the newest for 0.
	// log.ErrNotFound says that there is none.
	Open func(group transport.GroupID, at segment.Index) (Source, error)
	// Throttle bounds what all takers together read, see NewThrottle; nil: nothing.
	Throttle *rate.Limiter
}

// NewThrottle bounds the bytes a second of all copies of a broker that share it.
func NewThrottle(bytesPerSecond int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(bytesPerSecond), MaxRead)
}

// Server gives seeds to other brokers. It has no goroutines: it works in those of the
// requests.
type Server struct {
	config  ServerConfig
	reading chan struct{}

	mu       sync.Mutex
	sessions []*session // the one read last at the end
}

// session is a seed that is being given.
type session struct {
	id     uint64 // random, so that one of before a restart is not mistaken
	node   metadata.NodeID
	source Source
}

// NewServer makes a server and registers its handlers; Handle is that of the mux.
func NewServer(handle func(transport.Method, transport.Handler), config ServerConfig) *Server {
	s := &Server{config: config, reading: make(chan struct{}, maxReading)}
	answer := func(serve func(*transport.Request) ([][]byte, error)) transport.Handler {
		return func(r *transport.Request) {
			body, err := serve(r)
			if err != nil {
				r.ReplyError(coded(err))
				return
			}
			r.Reply(body...)
		}
	}
	handle(transport.MethodSeedDescribe, answer(s.describe))
	handle(transport.MethodSeedRead, answer(s.read))
	return s
}

// coded gives an error the code by which the taker knows it.
func coded(err error) error {
	code := transport.Code(0)
	switch {
	case errors.Is(err, errMalformed):
		code = transport.CodeBadRequest
	case errors.Is(err, log.ErrSeedChanged), errors.Is(err, log.ErrClosed):
		code = CodeChanged
	case errors.Is(err, log.ErrNotFound):
		code = CodeNothing
	default:
		return err
	}
	return &transport.RemoteError{Code: code, Message: err.Error()}
}

// describe opens a seed.
func (s *Server) describe(r *transport.Request) ([][]byte, error) {
	d, err := decodeDescribe(r.Body)
	if err != nil {
		return nil, err
	}
	source, err := s.config.Open(d.group, d.at)
	if err != nil {
		return nil, err
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("draw a session: %w", err)
	}
	opened := &session{id: binary.BigEndian.Uint64(id[:]), node: r.Peer.Node, source: source}
	s.mu.Lock()
	s.sessions = append(s.sessions, opened)
	if len(s.sessions) > maxSessions {
		s.sessions = append([]*session(nil), s.sessions[1:]...)
	}
	s.mu.Unlock()
	return [][]byte{encodeSeed(opened.id, source.Seed())}, nil
}

// find is a session of a node, which so was used last; nil without.
func (s *Server) find(node metadata.NodeID, id uint64) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, found := range s.sessions {
		if found.id == id && found.node == node {
			copy(s.sessions[i:], s.sessions[i+1:])
			s.sessions[len(s.sessions)-1] = found
			return found
		}
	}
	return nil
}

// read reads a part of a file.
func (s *Server) read(r *transport.Request) ([][]byte, error) {
	asked, err := decodeRead(r.Body)
	if err != nil {
		return nil, err
	}
	found := s.find(r.Peer.Node, asked.session)
	if found == nil {
		return nil, fmt.Errorf("%w: session %016x is not known", log.ErrSeedChanged, asked.session)
	}
	files := found.source.Seed().Files
	if asked.file >= len(files) || int64(asked.length) > files[asked.file].Size-asked.position {
		return nil, fmt.Errorf("%w: %d bytes at %d of file %d of a seed of %d", errMalformed, asked.length, asked.position, asked.file, len(files))
	}
	if err := throttle(r.Context(), s.config.Throttle, asked.length); err != nil {
		return nil, err
	}
	select {
	case s.reading <- struct{}{}:
		defer func() { <-s.reading }()
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	b := make([]byte, asked.length)
	if _, err := found.source.ReadAt(asked.file, b, asked.position); err != nil {
		return nil, err
	}
	return [][]byte{{wireVersion}, b}, nil
}

// throttle waits until n bytes may go, at most MaxRead.
func throttle(ctx context.Context, limiter *rate.Limiter, n int) error {
	if limiter == nil {
		return nil
	}
	if err := limiter.WaitN(ctx, n); err != nil {
		return fmt.Errorf("throttled: %w", err)
	}
	return nil
}
