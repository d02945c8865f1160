package server

import (
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendfiler sends ranges of files over a TCP connection without copying them
// through the process.
type sendfiler interface {
	// sendfile sends n bytes of the file from position on, all of them or an
	// error. It waits as the connection's write deadline says.
	sendfile(file uintptr, position, n int64) (int64, error)
}

// tcpSendfile uses the system call with an explicit offset: Go's own use of it
// works with the position shared by all users of the descriptor, which here are
// many consumers at a time.
type tcpSendfile struct {
	raw syscall.RawConn
	// slots bounds the calls under way on the node: each may wait for the disk
	// and holds a thread of the system meanwhile. A slot is held for one call,
	// which fills the socket's buffer, never while waiting for the client.
	slots chan struct{}
}

// newSendfiler returns nil where the connection is not plain TCP.
func newSendfiler(conn net.Conn, slots chan struct{}) sendfiler {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return tcpSendfile{raw, slots}
}

func (t tcpSendfile) sendfile(file uintptr, position, n int64) (int64, error) {
	var sent int64
	var failed error
	err := t.raw.Write(func(socket uintptr) bool {
		for sent < n {
			offset := position + sent
			t.slots <- struct{}{}
			k, err := unix.Sendfile(int(socket), int(file), &offset, int(n-sent))
			<-t.slots
			switch {
			case err == unix.EINTR:
				continue
			case err == unix.EAGAIN:
				return false // wait until the socket takes more
			case err != nil:
				failed = os.NewSyscallError("sendfile", err)
				return true
			case k == 0:
				// The file ends inside a range that was checked: it was cut by
				// somebody else.
				failed = fmt.Errorf("sendfile at %d: %w", offset, io.ErrUnexpectedEOF)
				return true
			}
			sent += int64(k)
		}
		return true
	})
	if failed != nil {
		err = failed
	}
	return sent, err
}
