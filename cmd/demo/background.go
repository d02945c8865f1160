package main

import "sync"

// background owns goroutines; wait joins them.
type background struct{ group sync.WaitGroup }

func (b *background) do(f func()) { b.group.Go(f) }

func (b *background) wait() { b.group.Wait() }
