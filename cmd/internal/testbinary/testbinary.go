// Package testbinary builds the millrace executable for tests that run whole
// broker processes.
package testbinary

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Build builds cmd/millrace into a folder of the test and gives its path.
func Build(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "millrace")
	out, err := exec.Command("go", "build", "-o", file, "github.com/millrace/millrace/cmd/millrace").CombinedOutput()
	if err != nil {
		t.Fatalf("build millrace: %v\n%s", err, out)
	}
	return file
}
