package replication

import (
	"os"
	"strings"

	"github.com/millrace/millrace/segment/vfs"
)

// bootIDFile has a random id that Linux draws at each boot.
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// bootID names the present boot of the machine that the file system lives on;
// empty if it cannot be known, which counts as another boot. A file system that
// is not the machine's own (one that can crash, in tests) may name its boots
// itself.
func bootID(fsys vfs.FS) string {
	if own, ok := fsys.(interface{ BootID() string }); ok {
		return own.BootID()
	}
	if fsys != vfs.OS() {
		return ""
	}
	data, err := os.ReadFile(bootIDFile) // absent on other systems than Linux
	if err != nil || len(data) > maxBootID {
		return ""
	}
	return strings.TrimSpace(string(data))
}
