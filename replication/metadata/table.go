package metadata

import (
	"iter"

	iradix "github.com/hashicorp/go-immutable-radix"
)

// table is a persistent map in key order: put and remove return a new table that
// shares all but the changed path with the old one. A view of ten thousand topics
// therefore costs nothing to keep and a change costs the same in a large cluster
// as in a small one. The zero value is empty.
type table[V any] struct{ tree *iradix.Tree }

func (t table[V]) get(key []byte) (V, bool) {
	var none V
	if t.tree == nil {
		return none, false
	}
	v, ok := t.tree.Get(key)
	if !ok {
		return none, false
	}
	return v.(V), true
}

func (t table[V]) put(key []byte, value V) table[V] {
	tree := t.tree
	if tree == nil {
		tree = iradix.New()
	}
	tree, _, _ = tree.Insert(key, value)
	return table[V]{tree}
}

func (t table[V]) remove(key []byte) table[V] {
	if t.tree == nil {
		return t
	}
	tree, _, _ := t.tree.Delete(key)
	return table[V]{tree}
}

func (t table[V]) size() int {
	if t.tree == nil {
		return 0
	}
	return t.tree.Len()
}

// all yields keys and values in ascending order of the keys' bytes.
func (t table[V]) all() iter.Seq2[[]byte, V] {
	return func(yield func([]byte, V) bool) {
		if t.tree == nil {
			return
		}
		it := t.tree.Root().Iterator()
		for key, v, ok := it.Next(); ok; key, v, ok = it.Next() {
			if !yield(key, v.(V)) {
				return
			}
		}
	}
}

// values yields the values in ascending order of their keys.
func (t table[V]) values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for _, v := range t.all() {
			if !yield(v) {
				return
			}
		}
	}
}
