package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (see the Makefile); go install leaves it empty.
var version string

type versionOptions struct{ app *app }

// versionOutput is the JSON of millrace version.
type versionOutput struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCmd(a *app) *cobra.Command {
	o := versionOptions{app: a}
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Example: `  millrace version
  millrace version --format json`,
		Args: exactly(0, "no argument"),
		RunE: func(*cobra.Command, []string) error { return o.run() },
	}
}

func (o *versionOptions) run() error {
	out := versionOutput{Version(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	return o.app.print(out, func(w io.Writer) {
		fmt.Fprintln(w, versionLine())
	})
}

// versionLine is the version for people, as --version shows it, too.
func versionLine() string {
	return fmt.Sprintf("millrace %s (%s, %s/%s)", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Version is what the linker was told, or what Go noted while building.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
