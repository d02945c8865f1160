package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/client"
)

// maxLine bounds a line of input, and so a value.
const maxLine = 64 << 20

type produceOptions struct {
	app         *app
	topic       string
	key         string
	keyGiven    bool
	partition   int32
	codec       string
	layout      string
	layoutGiven bool
	headers     []string
}

func newProduceCmd(a *app) *cobra.Command {
	o := produceOptions{app: a}
	c := &cobra.Command{
		Use:   "produce TOPIC [-k KEY] [-p PARTITION] [-z CODEC] [-f FORMAT]",
		Short: "Produce records from standard input, one a line",
		Long: `Produce records from standard input, one a line, and wait until all are durable.

-f is a layout: %v value, %k key, %v{3} three bytes, \n and \t, ...; or json: one
object a line, as consume -f json writes it (topic, partition and offset in it are
ignored; other names than consume writes are refused).

When nothing is acknowledged for --timeout, it ends with exit code 3 and tells how many
records have an unknown outcome: they were sent and may have been written. A signal ends
it with exit code 130 when what was read is acknowledged, or after two seconds.`,
		Example: `  echo hello | millrace produce orders -k customer-7
  millrace produce orders -f '%k\t%v\n' < orders.tsv
  millrace consume orders -e -f json | millrace produce copy -f json`,
		Args: exactly(1, "the name of a topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.topic = args[0]
			o.keyGiven, o.layoutGiven = cmd.Flags().Changed("key"), cmd.Flags().Changed("layout")
			if !cmd.Flags().Changed("partition") {
				o.partition = -1
			} else if o.partition < 0 {
				return usagef("-p %d is no partition", o.partition)
			}
			return o.run(cmd.Context())
		},
	}
	flags := c.Flags()
	flags.StringVarP(&o.key, "key", "k", "", "the key of every record")
	flags.Int32VarP(&o.partition, "partition", "p", 0, "the partition (default: by key, or any)")
	flags.StringVarP(&o.codec, "compression", "z", string(client.Zstd), "none, gzip, snappy, lz4 or zstd")
	flags.StringVarP(&o.layout, "layout", "f", `%v\n`, "how to read records, or json")
	flags.StringArrayVarP(&o.headers, "header", "H", nil, "a header key:value of every record, repeatable")
	return c
}

func (o *produceOptions) run(ctx context.Context) error {
	layout, err := recordLayout(o.app, o.layout, o.layoutGiven)
	if err != nil {
		return err
	}
	read, err := recordReader(o.app.In, layout)
	if err != nil {
		return err
	}
	headers, err := parseHeaders(o.headers)
	if err != nil {
		return err
	}
	c, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	p := production{client: c, limit: o.app.timeout}
	err = p.all(ctx, func() (*client.Record, error) {
		r, err := read()
		if err != nil {
			return nil, err
		}
		r.Topic, r.Partition = o.topic, o.partition
		if o.keyGiven {
			r.Key = []byte(o.key)
		}
		r.Headers = append(r.Headers, headers...)
		return r, nil
	})
	acknowledged, unknown := p.counts()
	fmt.Fprintf(o.app.Err, "produced %d records\n", acknowledged)
	if unknown > 0 {
		fmt.Fprintf(o.app.Err, "%d records: outcome unknown\n", unknown)
	}
	return err
}

// open connects, and says what is wrong before anything is read: the protocol's own
// answer to a wrong name takes seconds of retries. The client has no limit of its own
// for a record: it would count from the record's timestamp, which may be years old.
func (o *produceOptions) open(ctx context.Context) (*client.Client, error) {
	options := []client.Option{
		client.WithCompression(client.Codec(o.codec)),
		client.WithKgo(kgo.RetryBackoffFn(func(int) time.Duration { return retryPause })),
	}
	if o.partition >= 0 {
		options = append(options, client.WithKgo(kgo.RecordPartitioner(kgo.ManualPartitioner())))
	}
	limited, done := o.app.limit(ctx)
	defer done()
	c, err := o.app.open(limited, options...)
	if err != nil {
		return nil, err
	}
	if err := o.checkTopic(limited, c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// checkTopic looks whether the topic and the partition exist.
func (o *produceOptions) checkTopic(ctx context.Context, c *client.Client) error {
	topic, err := c.Admin().Describe(ctx, o.topic)
	if err != nil {
		return aboutTopic(ctx, c, o.topic, err, createTopic(o.topic))
	}
	if topic.Internal {
		return ownTopic(o.topic)
	}
	if int(o.partition) >= len(topic.Partitions) {
		return noPartition(o.topic, o.partition, len(topic.Partitions))
	}
	return nil
}

// recordReader gives the function that reads the next record, io.EOF at the end.
func recordReader(in io.Reader, layout string) (func() (*client.Record, error), error) {
	switch layout {
	case "json":
		return newLineReader(in, parseRecord), nil
	case `%v\n`, "%v\n":
		return newLineReader(in, func(line []byte) (*client.Record, error) {
			return &client.Record{Value: bytes.Clone(line)}, nil
		}), nil
	}
	if strings.HasSuffix(layout, `\n`) || strings.HasSuffix(layout, "\n") {
		in = &lastLine{in: in}
	}
	reader, err := kgo.NewRecordReader(in, layout)
	if err != nil {
		return nil, usagef("-f %q: %s", layout, err).withHint("a layout is made of %v value, %k key, \\n, \\t, ...; see: millrace produce --help")
	}
	n := 0
	return func() (*client.Record, error) {
		n++
		r, err := reader.ReadRecord()
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the input ends in the middle of it")
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, advise(fmt.Errorf("input record %d: %w", n, err), "the input must follow the layout "+layout).named(codeInput)
		}
		return r, err
	}, nil
}

// lastLine ends the last line of an input that does not do so itself.
type lastLine struct {
	in    io.Reader
	open  bool // the last byte was no line feed
	ended bool
}

// Read implements io.Reader.
func (l *lastLine) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case l.ended:
		return 0, io.EOF
	}
	n, err := l.in.Read(p)
	if n > 0 {
		l.open = p[n-1] != '\n'
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	if l.open && n < len(p) {
		p[n], l.open = '\n', false
		n++
	}
	l.ended = !l.open
	if l.ended {
		return n, io.EOF
	}
	return n, nil // there was no room; the input says again that it is over
}

// newLineReader gives the function that makes a record of each line. Its errors
// say which line.
func newLineReader(in io.Reader, parse func([]byte) (*client.Record, error)) func() (*client.Record, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	lines.Split(splitLines)
	n := 0
	return func() (*client.Record, error) {
		for lines.Scan() {
			n++
			r, err := parse(lines.Bytes())
			if err != nil {
				return nil, advise(fmt.Errorf("line %d: %w", n, err), lineHint).named(codeInput)
			}
			if r != nil {
				return r, nil
			}
		}
		switch err := lines.Err(); {
		case err == nil:
			return nil, io.EOF
		case errors.Is(err, bufio.ErrTooLong):
			return nil, advise(fmt.Errorf("line %d is longer than %d bytes", n+1, maxLine), "records are far smaller; is the input text?").named(codeInput)
		default:
			return nil, advise(fmt.Errorf("line %d: %w", n+1, err), "standard input cannot be read to its end").named(codeInput)
		}
	}
}

// splitLines is bufio.ScanLines that leaves a carriage return alone.
func splitLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

func parseHeaders(texts []string) ([]client.Header, error) {
	headers := make([]client.Header, 0, len(texts))
	for _, text := range texts {
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			return nil, usagef("-H %q is not key:value", text)
		}
		headers = append(headers, client.Header{Key: key, Value: []byte(value)})
	}
	return headers, nil
}
