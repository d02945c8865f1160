package cli

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	node "go.yaml.in/yaml/v3"
)

// envPrefix begins the names of environment variables: MILLRACE_DATA_DIR is
// --data-dir.
const envPrefix = "MILLRACE_"

// levels separates the levels of a key inside koanf. Keys of broker
// configurations contain dots, so it is no dot.
const levels = "\x1f"

// settings tells where the value of a flag came from, for messages.
type settings struct{ source map[string]string }

// loadSettings gives every flag that the command line left out its value from the
// environment or, failing that, from the file.
func (a *app) loadSettings(cmd *cobra.Command) (*settings, error) {
	environment, err := a.environment()
	if err != nil {
		return nil, err
	}
	file := a.config
	if !cmd.Flags().Changed("config") && environment.Exists("config") {
		file = environment.String("config")
	}
	merged, lines, err := readFile(file, flagsOfAll(cmd.Root()))
	if err != nil {
		return nil, err
	}
	fromFile := slices.Clone(merged.MapKeys(""))
	if err := merged.Merge(environment); err != nil {
		return nil, fmt.Errorf("merge settings: %w", err)
	}
	s := &settings{source: map[string]string{}}
	for _, key := range fromFile {
		s.source[key] = fmt.Sprintf("%s:%d: %s", file, lines[key], key)
	}
	for _, key := range environment.MapKeys("") {
		s.source[key] = envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
	}
	return s, s.apply(cmd, merged)
}

// apply sets the flags that the command line did not.
func (s *settings) apply(cmd *cobra.Command, merged *koanf.Koanf) error {
	var fault error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Changed || fault != nil || !merged.Exists(f.Name) {
			return
		}
		for _, value := range flagValues(merged.Get(f.Name)) {
			if err := f.Value.Set(value); err != nil {
				fault = usagef("%s: %q: %s", s.source[f.Name], value, err)
				return
			}
			f.Changed = true
		}
	})
	return fault
}

// flagValues turns a value of the file or the environment into texts that the
// flag's own parser reads, a list into several.
func flagValues(value any) []string {
	switch v := value.(type) {
	case []any:
		texts := make([]string, len(v))
		for i, element := range v {
			texts[i] = fmt.Sprint(element)
		}
		return texts
	case map[string]any:
		texts := make([]string, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			texts = append(texts, fmt.Sprintf("%s=%v", key, v[key]))
		}
		return texts
	}
	return []string{fmt.Sprint(value)}
}

func (a *app) environment() (*koanf.Koanf, error) {
	k := koanf.New(levels)
	err := k.Load(env.Provider(levels, env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return a.Environ },
		TransformFunc: func(name, value string) (string, any) {
			name = strings.TrimPrefix(name, envPrefix)
			return strings.ToLower(strings.ReplaceAll(name, "_", "-")), value
		},
	}), nil)
	if err != nil {
		return nil, fmt.Errorf("read environment: %w", err)
	}
	return k, nil
}

// readFile reads the file; a key that is no flag of any command is an error with
// its line. lines has the line of each key.
func readFile(name string, known []string) (*koanf.Koanf, map[string]int, error) {
	k := koanf.New(levels)
	if name == "" {
		return k, nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, usagef("--config: %s", err)
	}
	var document node.Node
	if err := node.Unmarshal(text, &document); err != nil {
		return nil, nil, usagef("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	lines := map[string]int{}
	if len(document.Content) == 0 {
		return k, lines, nil // nothing but comments
	}
	top := document.Content[0]
	if top.Kind != node.MappingNode {
		return nil, nil, usagef("%s:%d: the file must be a list of \"key: value\"", name, top.Line)
	}
	for i := 0; i < len(top.Content); i += 2 {
		key := top.Content[i]
		if !slices.Contains(known, key.Value) {
			return nil, nil, usagef("%s:%d: unknown key %q", name, key.Line, key.Value).
				withHint(nearest(key.Value, known))
		}
		lines[key.Value] = key.Line
	}
	var values map[string]any
	if err := top.Decode(&values); err != nil {
		return nil, nil, usagef("%s: %s", name, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := k.Load(confmap.Provider(values, levels), nil); err != nil {
		return nil, nil, usagef("%s: %s", name, err)
	}
	return k, lines, nil
}

// flagsOfAll are the flags of every command: one file serves them all.
func flagsOfAll(root *cobra.Command) []string {
	names := map[string]struct{}{}
	for _, c := range allCommands(root) {
		for _, f := range flagNames(c) {
			names[f] = struct{}{}
		}
	}
	delete(names, "help")
	delete(names, "config")
	return slices.Sorted(maps.Keys(names))
}
