package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// print writes v in the format that was asked for. v is a struct with json tags;
// text writes it for people.
func (a *app) print(v any, text func(w io.Writer)) error {
	if a.format == "text" {
		var page bytes.Buffer
		text(&page)
		return a.write(page.Bytes())
	}
	var page bytes.Buffer
	encoder := json.NewEncoder(&page)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	if a.format == "json" {
		return a.write(page.Bytes())
	}
	text2, err := toYAML(page.Bytes())
	if err != nil {
		return fmt.Errorf("encode output: %w", err)
	}
	return a.write(text2)
}

// outputFailed is the error of a standard output that takes no more.
func outputFailed(err error) error {
	return advise(fmt.Errorf("write output: %w", err), "is the disk of standard output full, or its reader gone?").named(codeOutput)
}

func (a *app) write(page []byte) error {
	if _, err := a.Out.Write(page); err != nil {
		return outputFailed(err)
	}
	return nil
}

// toYAML gives a JSON document as YAML with the same names in the same order.
func toYAML(document []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(document, &node); err != nil { // JSON is YAML
		return nil, err
	}
	block(&node)
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&node); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// block takes the style of JSON away; quotes come back where YAML needs them.
func block(n *yaml.Node) {
	empty := (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode) && len(n.Content) == 0
	if !empty {
		n.Style = 0
	}
	for _, child := range n.Content {
		block(child)
	}
}

// table is a table for people: upper-case headers without spaces, so that awk
// can split it, and numbers to the right.
type table struct {
	rows    [][]string
	numeric []bool
}

// newTable takes the headers; one that begins with '>' is a column of numbers.
func newTable(headers ...string) *table {
	t := &table{numeric: make([]bool, len(headers))}
	for i, h := range headers {
		h, t.numeric[i] = strings.CutPrefix(h, ">")
		headers[i] = h
	}
	t.rows = append(t.rows, headers)
	return t
}

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if row[i] = fmt.Sprint(c); row[i] == "" {
			row[i] = "-"
		}
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(w io.Writer) {
	widths := make([]int, len(t.numeric))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if t.numeric[i] {
				line.WriteString(pad + cell + "  ")
			} else {
				line.WriteString(cell + pad + "  ")
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// join is a list of numbers for a table cell.
func join[T any](values []T) string {
	parts := make([]string, len(values))
	for i, v := range values {
		parts[i] = fmt.Sprint(v)
	}
	return strings.Join(parts, ",")
}

// orEmpty makes a null list an empty one in JSON.
func orEmpty[T any](values []T) []T {
	if values == nil {
		return []T{}
	}
	return values
}
