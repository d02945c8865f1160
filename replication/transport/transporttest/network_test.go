package transporttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is the two ends of a connection from a to b.
func pair(t *testing.T, n *Network) (a, b net.Conn) {
	t.Helper()
	l, err := n.Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = n.Dialer("a")(t.Context(), "b:1")
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestBytesArriveInOrderAndEndWithEOF(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		a, b := pair(t, New())
		sent := bytes.Repeat([]byte("0123456789abcdef"), window/8) // twice the window
		go func() {
			for part := sent; len(part) > 0; part = part[min(len(part), 1000):] {
				a.Write(part[:min(len(part), 1000)])
			}
			a.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("write to a closed end: %v", err)
		}
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}

func TestDelayIsPerDirection(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		n.Delay("a", "b", 70*time.Millisecond)
		start := time.Now()
		a.Write([]byte("x"))
		b.Read(make([]byte, 1))
		if took := time.Since(start); took != 70*time.Millisecond {
			t.Errorf("a to b took %v", took)
		}
		start = time.Now()
		b.Write([]byte("x"))
		a.Read(make([]byte, 1))
		if took := time.Since(start); took != 0 {
			t.Errorf("b to a took %v", took)
		}
	})
}

func TestDropHoldsBytesUntilRestore(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		n.Drop("a", "b")
		start := time.Now()
		time.AfterFunc(time.Minute, func() { n.Restore("a", "b") })
		a.Write([]byte("x"))
		if _, err := b.Read(make([]byte, 1)); err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		n.Drop("a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Dialer("a")(ctx, "b:1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a dial over a link that drops: %v", err)
		}
	})
}

func TestCutResetsAndRefuses(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := New()
		l, _ := n.Listen("b:2")
		defer l.Close()
		a, b := pair(t, n)
		n.Cut("b", "a")
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
			t.Errorf("read: %v", err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, ErrReset) {
			t.Errorf("write: %v", err)
		}
		if _, err := n.Dialer("a")(t.Context(), "b:2"); !errors.Is(err, ErrRefused) {
			t.Errorf("dial: %v", err)
		}
		n.RestoreAll()
		again, err := n.Dialer("a")(t.Context(), "b:2")
		if err != nil {
			t.Fatal(err)
		}
		again.Close()
		n.Kill("b")
		if _, err := n.Dialer("a")(t.Context(), "b:2"); !errors.Is(err, ErrRefused) {
			t.Errorf("dial to a dead host: %v", err)
		}
	})
}

func TestCorruptFlipsOneBitOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		n.Corrupt("a", "b")
		for i, want := range []int{1, 0} {
			a.Write(make([]byte, 100))
			got := make([]byte, 100)
			io.ReadFull(b, got)
			if flipped := 100 - bytes.Count(got, []byte{0}); flipped != want {
				t.Errorf("write %d: %d bytes differ, want %d", i, flipped, want)
			}
		}
	})
}

func TestDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n := New()
		a, b := pair(t, n)
		start := time.Now()
		a.SetDeadline(start.Add(time.Second))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: %v after %v", err, time.Since(start))
		}
		if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		a.SetDeadline(time.Time{})
		a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write(make([]byte, 2*window)); !errors.Is(err, os.ErrDeadlineExceeded) || n != window {
			t.Errorf("a full window: %d, %v", n, err)
		}
		b.Read(make([]byte, 1))
	})
}

func TestListenTwice(t *testing.T) {
	n := New()
	l, err := n.Listen("a:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("a:1"); err == nil {
		t.Error("an address was taken twice")
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
	again, err := n.Listen("a:1")
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestAddressIsNoHost: a fault between "a:1" and "b:1" would be one of a link that
// nobody uses.
func TestAddressIsNoHost(t *testing.T) {
	n := New()
	for name, call := range map[string]func(){
		"Dialer":  func() { n.Dialer("a:1") },
		"Drop":    func() { n.Drop("a:1", "b") },
		"Cut":     func() { n.Cut("a", "b:1") },
		"Delay":   func() { n.Delay("a:1", "b", time.Second) },
		"Corrupt": func() { n.Corrupt("a", "b:1") },
		"Reset":   func() { n.Reset("a:1", "b") },
		"Isolate": func() { n.Isolate("a", "b", "c:1") },
		"Restore": func() { n.Restore("a:1", "b:1") },
		"Kill":    func() { n.Kill("a:1") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s takes an address", name)
				}
			}()
			call()
		}()
	}
}
