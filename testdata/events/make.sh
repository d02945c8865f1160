#!/bin/sh
# make.sh: make github.ndjson.gz anew from its npm package. Needs npm and Go.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
(cd "$dir" && npm pack --silent @octokit/webhooks-examples@7.6.1 >/dev/null && tar xzf octokit-webhooks-examples-7.6.1.tgz)
go run "$here/convert.go" "$dir/package/api.github.com/index.json" "$here/github.ndjson.gz"
