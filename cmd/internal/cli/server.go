package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/millrace/millrace/replication"
	"github.com/millrace/millrace/server"
)

type serverOptions struct {
	app      *app
	config   server.Config
	settings pairs
	logLevel string
}

func newServerCmd(a *app) *cobra.Command {
	o := serverOptions{app: a}
	c := &cobra.Command{
		Use:   "server",
		Short: "Run a broker",
		Long: `Run a broker. Without flags it is a complete single node.

With --join, a node with an empty disk asks every listed address, its own included. If
one belongs to a cluster, it joins that one. Otherwise a cluster is founded when all of
them answer, have empty disks and the same list.

It prints one line that begins with "ready" on standard error when it can serve. SIGTERM
and SIGINT stop it gracefully; a second one stops it at once.`,
		Example: `  millrace server
  millrace server --data-dir /var/lib/millrace --kafka-addr 10.0.0.1:9092 -c num.partitions=6
  millrace server --node-id 2 --join 10.0.0.1:33145,10.0.0.2:33145,10.0.0.3:33145 \
    --rpc-addr 10.0.0.2:33145 --kafka-addr 10.0.0.2:9092`,
		Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := c.Flags()
	flags.StringVar(&o.config.DataDir, "data-dir", "./millrace-data", "the folder of all data")
	flags.Int32Var(&o.config.NodeID, "node-id", 1, "this node's number, unique in the cluster")
	flags.StringVar(&o.config.KafkaAddr, "kafka-addr", "127.0.0.1:9092", "where clients connect; port 0: any free one")
	flags.StringVar(&o.config.Advertise, "advertise", "", "the address that clients are told (default: where they connected; to other brokers' clients --kafka-addr)")
	flags.StringVar(&o.config.RPCAddr, "rpc-addr", "127.0.0.1:33145", "where other brokers connect")
	flags.StringVar(&o.config.RPCAdvertise, "rpc-advertise", "", "the address that other brokers dial (default: --rpc-addr)")
	flags.StringVar(&o.config.HTTPAddr, "http-addr", "127.0.0.1:9644", "readiness and metrics; none: nowhere")
	flags.StringSliceVar(&o.config.Join, "join", nil, "RPC addresses of all nodes of the cluster, this one's included")
	flags.StringVar(&o.config.FoundWithout, "found-without", "", "the RPC address of a founder that will never come")
	flags.StringVar(&o.config.Rack, "rack", "", "the failure domain of this node")
	flags.VarP(&o.settings, "broker-config", "c", "a configuration of the broker, repeatable")
	flags.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	return c
}

// run serves until ctx is cancelled or the disk fails.
func (o *serverOptions) run(ctx context.Context) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return usagef("--log-level %q is not one of debug, info, warn and error", o.logLevel).withHint("--log-level debug, info, warn or error")
	}
	if o.config.DataDir == "" {
		return usagef("--data-dir is empty").withHint("name the folder of all data, such as --data-dir ./millrace-data")
	}
	failed := make(chan error, 1)
	o.config.Settings = o.settings.values
	o.config.Version = Version()
	o.config.Logger = slog.New(slog.NewTextHandler(o.app.Err, &slog.HandlerOptions{Level: level}))
	o.config.OnFatal = func(err error) { failed <- err }
	broker, err := server.Open(ctx, o.config)
	if err != nil {
		return o.explain(err)
	}
	ready := broker.Ready()
	for {
		select {
		case <-ready:
			fmt.Fprintln(o.app.Err, broker.Info().ReadyLine())
			ready = nil
		case err := <-failed:
			// The disk cannot be trusted: waiting for it could take for ever.
			return advise(fmt.Errorf("storage failed: %w", err), "check the disk of "+o.config.DataDir+" before the next start").named(codeStorage)
		case <-ctx.Done():
			if err := broker.Close(); err != nil {
				return fmt.Errorf("stop: %w", err)
			}
			return &silent{exitOK}
		}
	}
}

// explain says what to do about a broker that did not start.
func (o *serverOptions) explain(err error) error {
	switch {
	case strings.HasPrefix(err.Error(), "configuration: "):
		return usagef("%s", err).withHint("see: millrace server --help")
	case errors.Is(err, replication.ErrFolderInUse):
		return advise(err, "stop the other process, or choose another --data-dir").named(codeFolderInUse)
	case errors.Is(err, replication.ErrFolderFormat), errors.Is(err, replication.ErrFolderOfOther), errors.Is(err, replication.ErrNodeFile):
		return advise(err, "choose another --data-dir, or start the node that "+o.config.DataDir+" belongs to").named(codeFolder)
	case errors.Is(err, syscall.EADDRINUSE):
		return advise(err, "see which program has the port of "+portFlag(err)+" with: lsof -nP -iTCP -sTCP:LISTEN").named(codeAddress)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return advise(err, "the user needs to read and write "+o.config.DataDir).named(codePermission)
	}
	return err
}

// portFlag is the flag that the message names, for the hint.
func portFlag(err error) string {
	flags := []string{"--kafka-addr", "--rpc-addr", "--http-addr"}
	if i := slices.IndexFunc(flags, func(f string) bool { return strings.Contains(err.Error(), f) }); i >= 0 {
		return flags[i]
	}
	return "another address"
}
