//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "chaos: FAILED it needs the network namespaces and the mounts of Linux")
	os.Exit(1)
}
