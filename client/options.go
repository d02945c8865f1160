package client

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Option changes how [Open] connects and produces.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// Codec names a compression codec.
type Codec string

// The codecs of the Kafka protocol.
const (
	// None sends batches as they are; the broker compresses them at rest.
	None Codec = "none"
	// Gzip is understood by every client.
	Gzip Codec = "gzip"
	// Snappy is cheap and compresses little.
	Snappy Codec = "snappy"
	// LZ4 is cheap to read.
	LZ4 Codec = "lz4"
	// Zstd is the default: the best ratio for its cost.
	Zstd Codec = "zstd"
)

// metadataMinAge is how soon a client that lost a leader asks again who leads.
// franz-go's five seconds would be added to every change of a leader that is not
// decided at the first question.
const metadataMinAge = 250 * time.Millisecond

// fetchMaxWait is how long a broker holds a fetch that has nothing to give; as in
// Kafka's own clients. A partition whose leader moved to that broker waits for
// the fetch that is there: with franz-go's five seconds consumers of a quiet
// broker would stand still for that long.
const fetchMaxWait = 500 * time.Millisecond

// bufferedBytes bounds the keys, values and headers that wait to be sent or
// acknowledged. franz-go bounds their number alone: 10,000 large records would take
// all memory.
const bufferedBytes = 64 << 20

// config is what the options set. It is not changed after Open.
type config struct {
	addresses []string
	clientID  string
	codec     Codec
	linger    time.Duration
	tls       *tls.Config
	extra     []kgo.Opt
}

func defaultConfig() config {
	return config{clientID: "millrace-go", codec: Zstd, linger: 5 * time.Millisecond}
}

// WithClientID sets the name that brokers show for this client; default
// "millrace-go". Kafka property: client.id.
func WithClientID(id string) Option { return optionFunc(func(c *config) { c.clientID = id }) }

// WithCompression sets how batches are compressed; default Zstd. Kafka property:
// compression.type.
func WithCompression(codec Codec) Option { return optionFunc(func(c *config) { c.codec = codec }) }

// WithLinger sets how long a record may wait for others to share its batch;
// default 5 ms. More gives larger batches and latency. Kafka property: linger.ms.
func WithLinger(d time.Duration) Option { return optionFunc(func(c *config) { c.linger = d }) }

// WithTLS makes all connections use TLS; default none.
func WithTLS(t *tls.Config) Option { return optionFunc(func(c *config) { c.tls = t.Clone() }) }

// WithKgo passes options to franz-go, after and so over those of this package.
// It is the way to everything that has no option here; mind that it can also
// take the safe defaults away.
func WithKgo(options ...kgo.Opt) Option {
	return optionFunc(func(c *config) { c.extra = append(c.extra, options...) })
}

// validate reports every fault of the configuration at once.
func (c *config) validate() error {
	var faults []error
	if len(c.addresses) == 0 {
		faults = append(faults, errors.New("no broker address"))
	}
	for _, a := range c.addresses {
		if a == "" || strings.ContainsAny(a, " \t\n/") {
			faults = append(faults, fmt.Errorf("broker address %q is not host:port", a))
		}
	}
	if _, ok := c.codec.kgo(); !ok {
		faults = append(faults, fmt.Errorf("unknown codec %q: use none, gzip, snappy, lz4 or zstd", string(c.codec)))
	}
	if c.linger < 0 || c.linger > time.Minute {
		faults = append(faults, fmt.Errorf("linger %s is not between 0 and 1m", c.linger))
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("client options: %w", errors.Join(faults...))
}

func (c Codec) kgo() (kgo.CompressionCodec, bool) {
	switch c {
	case None:
		return kgo.NoCompression(), true
	case Gzip:
		return kgo.GzipCompression(), true
	case Snappy:
		return kgo.SnappyCompression(), true
	case LZ4:
		return kgo.Lz4Compression(), true
	case Zstd:
		return kgo.ZstdCompression(), true
	}
	return kgo.CompressionCodec{}, false
}

// base is what producing and consuming connections share.
func (c *config) base() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.addresses...),
		kgo.ClientID(c.clientID),
		kgo.SoftwareNameAndVersion("millrace-go", "1"),
		kgo.DialTimeout(openTimeout),
		kgo.MetadataMinAge(metadataMinAge),
		kgo.FetchMaxWait(fetchMaxWait),
	}
	if c.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(c.tls))
	}
	return opts
}

// producerOptions are those of the client's own connection. Idempotent
// producing and acks=all are franz-go's defaults; they are named so that a
// change there cannot weaken them here.
func (c *config) producerOptions() []kgo.Opt {
	codec, _ := c.codec.kgo() // validated
	return append(append(c.base(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(codec),
		kgo.ProducerLinger(c.linger),
		kgo.MaxBufferedBytes(bufferedBytes),
	), c.extra...)
}
