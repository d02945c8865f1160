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

// questions are the flags that are no settings: MILLRACE_VERSION is a likely name for
// the version that somebody wants to deploy.
var questions = []string{"help", "version"}

// settings are the layers under the command line, the strongest first.
type settings struct{ layers []layer }

// layer is the values of the environment or of the file, by the names of flags.
type layer struct {
	values *koanf.Koanf
	source map[string]string // where each came from, for messages
}

// loadSettings gives every flag that the command line left out its value from the
// environment or, failing that, from the file. A flag of pairs takes each key from
// the strongest layer that has it.
func (a *app) loadSettings(cmd *cobra.Command) (*settings, error) {
	environment, err := a.environment()
	if err != nil {
		return nil, err
	}
	name := a.config
	if !cmd.Flags().Changed("config") && environment.Exists("config") {
		name = environment.String("config")
	}
	file, lines, err := readFile(name, flagsOfAll(cmd.Root()))
	if err != nil {
		return nil, err
	}
	above, below := layer{environment, map[string]string{}}, layer{file, map[string]string{}}
	for _, key := range environment.MapKeys("") {
		above.source[key] = envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
	}
	for _, key := range file.MapKeys("") {
		below.source[key] = fmt.Sprintf("%s:%d: %s", name, lines[key], key)
	}
	s := &settings{layers: []layer{above, below}}
	return s, s.apply(cmd)
}

// apply sets what the command line did not.
func (s *settings) apply(cmd *cobra.Command) error {
	var fault error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if fault != nil || slices.Contains(questions, f.Name) {
			return
		}
		several, isPairs := f.Value.(*pairs)
		for _, l := range s.layers {
			if f.Changed && !isPairs || !l.values.Exists(f.Name) {
				continue
			}
			set := f.Value.Set
			if isPairs {
				set = several.below()
			}
			if fault = l.set(f.Name, set); fault != nil {
				return
			}
			f.Changed = true
		}
	})
	return fault
}

// set hands the layer's values for a flag to a parser.
func (l layer) set(name string, set func(string) error) error {
	for _, value := range flagValues(l.values.Get(name)) {
		if err := set(value); err != nil {
			return usagef("%s: %q: %s", l.source[name], value, plain(err))
		}
	}
	return nil
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
	for _, question := range questions {
		delete(names, question)
	}
	delete(names, "config")
	return slices.Sorted(maps.Keys(names))
}
