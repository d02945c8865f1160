// Package cli is the command line of Millrace. Main runs one command line and
// gives its exit code; cmd/millrace is that and os.Exit.
//
// One file is one command, and all have one shape: an options struct, a
// constructor newXCmd that declares flags and parses arguments into it, and a
// method run that does the work. Everything a command gets from outside comes
// through [Environment], so that tests run commands in process.
//
// # Contract
//
//   - Data goes to standard output, everything else to standard error.
//   - --format json and yaml give one document whose fields may be added to, never
//     renamed; produce and consume give and take one object a record.
//   - Exit codes: 0 done, 1 error (also: any item of several failed), 2 wrong
//     usage, 3 nobody reachable or no answer in time, 4 denied, 130 interrupted.
//     exit.go is the only place that knows them.
//   - Errors are two lines, "error: what" and "hint: what next".
//   - Nothing prompts when standard input is not a terminal; what destroys data
//     then needs -y.
//   - Each flag is also an environment variable MILLRACE_FLAG_NAME and a key of
//     the file named by --config: flag, then environment, then file, then default.
package cli
