package cli

import (
	"fmt"
	"time"
)

// progressInterval is the time between two lines of progress.
const progressInterval = time.Second

// progress tells people, on standard error, how far something is that takes longer,
// and how long the rest will take if it goes on like that.
type progress struct {
	app   *app
	what  string // what is being done
	unit  string // what is counted
	begin time.Time
	first int       // what was left at the first look
	told  time.Time // when the last line was written, or the beginning
}

func newProgress(a *app, what, unit string) *progress {
	now := a.Now()
	return &progress{app: a, what: what, unit: unit, begin: now, told: now, first: -1}
}

// left notes how much is left, and writes it if it is time for it.
func (p *progress) left(count int) {
	now := p.app.Now()
	p.first = max(p.first, count)
	if now.Sub(p.told) < progressInterval || p.app.format != "text" {
		return
	}
	p.told = now
	eta := ""
	if done := p.first - count; done > 0 {
		rest := time.Duration(float64(now.Sub(p.begin)) / float64(done) * float64(count))
		eta = fmt.Sprintf(", about %s more", max(rest.Round(time.Second), time.Second))
	}
	fmt.Fprintf(p.app.Err, "%s: %d %s%s\n", p.what, count, p.unit, eta)
}
