package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/millrace/millrace/client"
)

// Environment is all that a command gets from outside.
type Environment struct {
	// Context ends the command like SIGTERM does.
	Context context.Context
	// In, Out and Err are the standard streams.
	In       io.Reader
	Out, Err io.Writer
	// Terminal is true when In is a terminal, so that somebody can answer.
	Terminal bool
	// Environ are the environment variables, as from os.Environ.
	Environ []string
	// Now is the wall clock.
	Now func() time.Time
	// Notify asks for signals to be sent to the channel, as signal.Notify does.
	Notify func(chan<- os.Signal, ...os.Signal)
}

// System is the process's own environment.
func System() Environment {
	return Environment{
		Context: context.Background(),
		In:      os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Terminal: term.IsTerminal(int(os.Stdin.Fd())),
		Environ:  os.Environ(),
		Now:      time.Now,
		Notify:   signal.Notify,
	}
}

// app is one run of the command line: the environment and the global flags.
type app struct {
	Environment
	brokers []string
	format  string
	timeout time.Duration
	config  string

	settings *settings     // what the environment and the file say; set before a command runs
	command  string        // the path of the command that runs, for hints
	left     time.Duration // of timeout, less what the command has waited for the cluster
}

// errInterrupted is the cause of the context when SIGINT came.
var errInterrupted = errors.New("interrupted")

// errTerminated is the cause of the context when SIGTERM came.
var errTerminated = errors.New("terminated")

// Main runs one command line, without the program's name, and gives its exit
// code. The first SIGINT or SIGTERM cancels the command's context, the second
// gives up on it at once.
func Main(args []string, env Environment) int {
	a := &app{Environment: env, command: "millrace"}
	ctx, cancel := context.WithCancelCause(env.Context)
	defer cancel(nil)
	signals := make(chan os.Signal, 2)
	if env.Notify != nil {
		env.Notify(signals, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(signals)
	}
	result := make(chan int, 1)
	go func() {
		root := newRootCmd(a)
		root.SetArgs(args)
		err := root.ExecuteContext(ctx)
		if a.settings == nil { // it did not come to reading the flags
			a.format = formatAsked(args, env.Environ)
		}
		result <- a.report(ctx, err)
	}()
	stopping := false
	for {
		select {
		case code := <-result:
			return code
		case s := <-signals:
			if stopping {
				return exitInterrupted // the process ends with whatever hangs
			}
			stopping = true
			cause := errTerminated
			if s == os.Interrupt {
				cause = errInterrupted
			}
			cancel(cause)
		}
	}
}

// formatAsked finds --format on a command line that could not be parsed, so that
// a script gets this error, too, in the form it can read.
func formatAsked(args, environ []string) string {
	for i, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--format="); ok {
			return value
		}
		if arg == "--format" && i+1 < len(args) {
			return args[i+1]
		}
	}
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, envPrefix+"FORMAT="); ok {
			return value
		}
	}
	return "text"
}

const rootExample = `  millrace server                                   a complete single node
  millrace topic create orders -p 6
  echo hello | millrace produce orders
  millrace consume orders -e`

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:           "millrace",
		Short:         "An append-only, distributed event log that speaks the Kafka protocol",
		Example:       rootExample,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       Version(),
		Args:          cobra.ArbitraryArgs,
		RunE:          runGroup,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.prepare(cmd)
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate(versionLine() + "\n")
	flags := root.PersistentFlags()
	flags.StringSliceVarP(&a.brokers, "brokers", "b", []string{"127.0.0.1:9092"}, "addresses of some brokers, separated by commas")
	flags.StringVar(&a.format, "format", "text", "output: text, json or yaml")
	flags.DurationVar(&a.timeout, "timeout", 10*time.Second, "how long to wait for the cluster")
	flags.StringVar(&a.config, "config", "", "YAML file with a key for each flag")
	root.AddCommand(
		newServerCmd(a), newTopicCmd(a), newProduceCmd(a), newConsumeCmd(a),
		newGroupCmd(a), newClusterCmd(a), newVersionCmd(a),
	)
	for _, c := range allCommands(root) {
		c.DisableFlagsInUseLine = true
	}
	return root
}

// prepare fills in what the command line left out and checks the global flags.
func (a *app) prepare(cmd *cobra.Command) error {
	a.command = cmd.CommandPath()
	s, err := a.loadSettings(cmd)
	if err != nil {
		return err
	}
	a.settings = s
	if !slices.Contains([]string{"text", "json", "yaml"}, a.format) {
		asked := a.format
		a.format = "text"
		return usagef("--format %q is not one of text, json and yaml", asked).withHint(nearest(asked, []string{"text", "json", "yaml"}))
	}
	if a.timeout <= 0 {
		return usagef("--timeout must be more than 0")
	}
	a.left = a.timeout
	return nil
}

// runGroup is for commands that only hold others: it shows their help, or says
// that there is no such command.
func runGroup(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	e := usagef("unknown command %q for %q", args[0], cmd.CommandPath())
	if near := nearest(args[0], names); near != "" {
		return e.withHint(near)
	}
	return e.withHint("see: " + cmd.CommandPath() + " --help")
}

// flagError makes errors of flags usage errors, with the flag that was meant.
func flagError(cmd *cobra.Command, err error) error {
	e := usagef("%s", plain(err))
	unknown, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		return e.withHint("see: " + cmd.CommandPath() + " --help")
	}
	near := nearest(unknown, flagNames(cmd))
	if near == "" {
		return e.withHint("see: " + cmd.CommandPath() + " --help")
	}
	return e.withHint(strings.Replace(near, `"`, `"--`, 1))
}

// conversion is what package strconv says of itself in the errors of numbers.
var conversion = regexp.MustCompile(`strconv\.\w+: parsing "[^"]*": `)

// plain is the text of an error about a flag's value without the names of Go.
func plain(err error) string {
	text := conversion.ReplaceAllString(err.Error(), "")
	if text != err.Error() {
		text = strings.Replace(text, "invalid syntax", "not a number", 1)
	}
	return text
}

// exactly wraps the check for a number of arguments.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %s, got %d arguments", cmd.CommandPath(), what, len(args)).
				withHint("usage: " + cmd.UseLine())
		}
		return nil
	}
}

func atLeastOne(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("%s needs %s", cmd.CommandPath(), what).withHint("usage: " + cmd.UseLine())
		}
		return nil
	}
}

// limit gives a context for what is waited for now, within what is left of --timeout:
// there is one for the whole command. The time in which somebody reads a question
// does not count.
func (a *app) limit(ctx context.Context) (context.Context, func()) {
	begin := time.Now()
	limited, cancel := context.WithTimeout(ctx, a.left)
	return limited, func() {
		cancel()
		a.left -= time.Since(begin)
	}
}

// open connects; a dead address is known after at most five seconds.
func (a *app) open(ctx context.Context, options ...client.Option) (*client.Client, error) {
	options = append([]client.Option{client.WithClientID("millrace-cli")}, options...)
	c, err := client.Open(ctx, a.brokers, options...)
	if err != nil && !errors.Is(err, client.ErrUnreachable) && ctx.Err() == nil && !isTyped(err) {
		return nil, usagef("%s", strings.ReplaceAll(strings.TrimPrefix(err.Error(), "client options: "), "\n", "; "))
	}
	return c, err
}

// isTyped reports whether the error came from a cluster, not from bad options.
func isTyped(err error) bool {
	var answered *client.KafkaError
	return errors.As(err, &answered)
}

// request runs f with a client and the time that is left of --timeout.
func (a *app) request(ctx context.Context, f func(context.Context, *client.Client) error) error {
	limited, done := a.limit(ctx)
	defer done()
	c, err := a.open(limited)
	if err != nil {
		return err
	}
	defer c.Close()
	return f(limited, c)
}

// confirm asks whether to do what was just shown. Without a terminal nobody can
// answer, so -y is needed.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.Terminal {
		return usagef("this needs a confirmation and standard input is not a terminal").withHint("add -y to do it, --dry-run to only see it")
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	var answer string
	fmt.Fscanln(a.In, &answer)
	if answer = strings.ToLower(answer); answer == "y" || answer == "yes" {
		return nil
	}
	return errDeclined
}

// errDeclined is returned when the answer was no.
var errDeclined = errors.New("not confirmed, nothing was changed")

func allCommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, allCommands(sub)...)
	}
	return all
}
