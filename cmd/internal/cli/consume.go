package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

type consumeOptions struct {
	app         *app
	topic       string
	offset      string
	count       int64
	group       string
	partitions  []int32
	layout      string
	layoutGiven bool
	exit        bool
}

func newConsumeCmd(a *app) *cobra.Command {
	o := consumeOptions{app: a}
	c := &cobra.Command{
		Use:   "consume TOPIC [-o OFFSET] [-n COUNT] [-g GROUP] [-p PARTITION] [-f FORMAT] [-e]",
		Short: "Print the records of a topic, and wait for more",
		Long: `Print the records of a topic, and wait for more until Ctrl-C, unless -n or -e says
when to end.

-o is ` + positionHelp + `.

-f is a layout: %v value, %k key, %t topic, %p partition, %o offset, %d{go[2006-01-02]}
time, %h{%k=%v;} headers, %a{compression} codec, \n and \t; or json: one object a line.`,
		Example: `  millrace consume orders -e
  millrace consume orders -o -10 -f '%p %o %k %v\n'
  millrace consume orders -o @-1h:end -f json
  millrace consume orders -g billing`,
		Args: exactly(1, "the name of a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.topic = args[0]
			o.layoutGiven = cmd.Flags().Changed("layout")
			return o.run(cmd.Context())
		},
	}
	flags := c.Flags()
	flags.StringVarP(&o.offset, "offset", "o", "", "where to begin (default: start; with -g: the committed position, else start)")
	flags.Int64VarP(&o.count, "num", "n", 0, "end after this many records")
	flags.StringVarP(&o.group, "group", "g", "", "consume as a member of this group, and commit")
	flags.Int32SliceVarP(&o.partitions, "partition", "p", nil, "only this partition, repeatable")
	flags.StringVarP(&o.layout, "layout", "f", `%v\n`, "how to print a record, or json")
	flags.BoolVarP(&o.exit, "exit", "e", false, "end at the end of the log")
	return c
}

func (o *consumeOptions) run(ctx context.Context) error {
	subscription, err := o.subscription()
	if err != nil {
		return err
	}
	write, err := o.writer()
	if err != nil {
		return err
	}
	limited, done := o.app.limit(ctx)
	defer done()
	c, err := o.app.open(limited)
	if err != nil {
		return err
	}
	defer c.Close()
	sub, err := c.Subscribe(limited, subscription...)
	if err != nil {
		return aboutTopic(limited, c, o.topic, err, createTopic(o.topic))
	}
	if err := o.noteOutside(limited, c); err != nil {
		return errors.Join(err, sub.Close())
	}
	if err := o.loop(ctx, sub, write); err != nil {
		return errors.Join(err, sub.Close())
	}
	return sub.Close()
}

// noteOutside tells when -o is an offset that is not there: reading begins elsewhere.
func (o *consumeOptions) noteOutside(ctx context.Context, c *client.Client) error {
	offset, ok := askedFor(o.offset)
	if !ok {
		return nil
	}
	found, err := lookUp(ctx, c, o.topic, offset)
	if err != nil {
		return err
	}
	if note := found.outside(o.topic, o.partitions); note != "" {
		fmt.Fprintf(o.app.Err, "note: %s\n", note)
	}
	return nil
}

// subscription checks the flags and turns them into what the SDK takes.
func (o *consumeOptions) subscription() ([]client.SubscribeOption, error) {
	if o.count < 0 {
		return nil, usagef("-n %d is less than 0", o.count)
	}
	opts := []client.SubscribeOption{client.Topics(o.topic)}
	if o.group != "" {
		if len(o.partitions) > 0 {
			return nil, usagef("-p cannot be used with -g: the group assigns partitions")
		}
		opts = append(opts, client.Group(o.group))
	}
	if len(o.partitions) > 0 {
		slices.Sort(o.partitions)
		if o.partitions[0] < 0 {
			return nil, usagef("-p %d is no partition", o.partitions[0])
		}
		opts = append(opts, client.Partitions(slices.Compact(o.partitions)...))
	}
	if o.offset != "" {
		r, err := parseRange(o.offset, o.app.Now())
		if err != nil {
			return nil, usagef("-o: %s", err)
		}
		if o.group != "" && (r.until != nil || r.from != client.Start() && r.from != client.End()) {
			return nil, usagef("with -g, -o is start or end, for partitions without a committed position").
				withHint("move the group with: millrace group seek " + o.group + " --to ...")
		}
		opts = append(opts, client.From(r.from))
		if r.until != nil {
			return append(opts, client.Until(*r.until)), nil
		}
	}
	if o.exit {
		opts = append(opts, client.Until(client.End()))
	}
	return opts, nil
}

// writer gives the function that puts a record on the output.
func (o *consumeOptions) writer() (func(*bufio.Writer, *client.Record) error, error) {
	layout, err := recordLayout(o.app, o.layout, o.layoutGiven)
	if err != nil {
		return nil, err
	}
	if layout == "json" {
		var line bytes.Buffer
		return func(w *bufio.Writer, r *client.Record) error {
			line.Reset()
			if err := appendRecord(&line, r); err != nil {
				return err
			}
			_, err := w.Write(line.Bytes())
			return err
		}, nil
	}
	formatter, err := kgo.NewRecordFormatter(layout)
	if err != nil {
		return nil, usagef("-f %q: %s", layout, err)
	}
	var line []byte
	return func(w *bufio.Writer, r *client.Record) error {
		line = formatter.AppendRecord(line[:0], r)
		_, err := w.Write(line)
		return err
	}, nil
}

// recordLayout is the -f that is in force: --format json equals -f json.
func recordLayout(a *app, layout string, given bool) (string, error) {
	switch {
	case a.format == "json" && given && layout != "json":
		return "", usagef("--format json and -f %q cannot be used together", layout).withHint("leave one of them out: on records --format json is -f json")
	case a.format == "json":
		return "json", nil
	case a.format == "yaml":
		return "", usagef("records have no yaml form").withHint("use -f json or a layout such as -f '%k %v\\n'")
	}
	return layout, nil
}

// loop prints until the end. Records are on the output before their position can
// be committed; without a group they may wait while more are at hand.
func (o *consumeOptions) loop(ctx context.Context, sub *client.Subscription, write func(*bufio.Writer, *client.Record) error) error {
	out := bufio.NewWriterSize(o.app.Out, 64<<10)
	var printed int64
	for record, err := range sub.Records(ctx) {
		if err != nil {
			return errors.Join(ignoreCancel(ctx, err), out.Flush())
		}
		if err := write(out, record); err != nil {
			return outputFailed(err)
		}
		if o.group != "" || sub.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return outputFailed(err)
			}
		}
		if printed++; printed == o.count {
			sub.Finish(record)
			break
		}
	}
	return out.Flush()
}

// ignoreCancel drops the error that only says that the user or the system
// stopped the command.
func ignoreCancel(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), errTerminated) {
		return nil
	}
	return err
}
