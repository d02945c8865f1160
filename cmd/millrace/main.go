// Millrace is an append-only, distributed event log that speaks the Kafka
// protocol: the broker (millrace server) and the tools around it. See
// cmd/internal/cli for its commands.
package main

import (
	"os"

	"github.com/millrace/millrace/cmd/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.System()))
}
