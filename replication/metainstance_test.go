package replication

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"

	"github.com/millrace/millrace/replication/metamodel"
	"github.com/millrace/millrace/segment/vfs"
	"github.com/millrace/millrace/segment/vfs/crashfs"
)

// badIdentity are stores that answer otherwise when asked whose they are.
type badIdentity struct {
	MetaStores
	text []byte
	err  error
}

func (b badIdentity) Get(key []byte) ([]byte, error) {
	if string(key) != string(identityKey) {
		return b.MetaStores.Get(key)
	}
	return b.text, b.err
}

// TestMetaDiskThatCannotBeReadStaysWhoItIs: becoming another broker cannot be undone,
// and loses every replica of the disk. One failed read is no reason for it, nor are
// bytes that nobody can make sense of; the node does not start.
func TestMetaDiskThatCannotBeReadStaysWhoItIs(t *testing.T) {
	n := newMetaNet(t).add(1).start()
	n.serves()
	before := n.node.Incarnation()
	n.stop()
	refuses := func(what string, stores StoreFactory) {
		t.Helper()
		n.stores = stores
		if err := n.tryStart(); err == nil || errors.Is(err, errOtherDisk) {
			t.Fatalf("%s: started with %v", what, err)
		}
		if _, err := n.fs.Mount().Stat("/data/quarantine"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: something was set aside (%v)", what, err)
		}
	}
	for _, cause := range []error{syscall.EIO, syscall.EACCES} {
		fault := n.fs.Inject(crashfs.Fault{Op: crashfs.OpStat, PathContains: "/data/metadata", Err: cause})
		refuses(cause.Error(), nil)
		if fault.Fired() == 0 {
			t.Fatal("the fault did not happen: the test proves nothing")
		}
	}
	for what, bad := range map[string]badIdentity{
		"a failed read":   {err: syscall.EIO},
		"a closed store":  {err: errors.New("database not open")},
		"a rotten record": {text: []byte(`{"cluster":"`)},
	} {
		refuses(what, func(fsys vfs.FS, dir string) (MetaStores, error) {
			stores, err := metamodel.Open(fsys, dir)
			return badIdentity{stores, bad.text, bad.err}, err
		})
	}
	n.stores = nil
	n.start().serves()
	if now := n.node.Incarnation(); now != before {
		t.Errorf("incarnation %s became %s", before, now)
	}
}

// TestMetaDiskOfAnotherBecomesAnother: what is missing for certain, or names another
// owner, makes the disk another one.
func TestMetaDiskOfAnotherBecomesAnother(t *testing.T) {
	for what, spoil := range map[string]func(t *testing.T, n *metaNode){
		"no folder": func(t *testing.T, n *metaNode) { must(t, n.fs.RemoveAll("/data/metadata")) },
		"empty": func(t *testing.T, n *metaNode) {
			must(t, errors.Join(n.fs.RemoveAll("/data/metadata"), n.fs.MkdirAll("/data/metadata")))
		},
		"another's": func(t *testing.T, n *metaNode) {
			stores, err := metamodel.Open(n.fs, "/data/metadata")
			must(t, err)
			text, err := stores.Get(identityKey)
			must(t, err)
			other := strings.Replace(string(text), `"node":2`, `"node":3`, 1)
			must(t, errors.Join(stores.Set(identityKey, []byte(other)), stores.Close()))
		},
	} {
		t.Run(what, func(t *testing.T) {
			net := newMetaNet(t)
			nodes := net.founders(3)
			for _, n := range nodes {
				n.start()
			}
			net.settled()
			n := nodes[1]
			before := n.node.Incarnation()
			n.stop()
			spoil(t, n)
			n.start().serves()
			if n.node.Incarnation() == before {
				t.Error("it speaks as who it was")
			}
		})
	}
}
