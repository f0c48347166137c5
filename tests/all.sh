#!/usr/bin/env bash
# Runs every check that the project has: format, lints, tests. It installs what the tests need and the
# machine lacks, when it is root on a machine with apt; without them the tests concerned skip
# themselves, and their names are printed at the end.
#
#   bash tests/all.sh                         everything
#   LONGSHORE_SCALE=full bash tests/all.sh    also a million files (needs 16 GiB of memory)
#   LONGSHORE_SEED=N bash tests/all.sh        the random trees and faults of an earlier run
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    missing=()
    while read -r program package; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" > /dev/null || missing+=("$package")
    done << 'PROGRAMS'
cc gcc
mkfs.ext4 e2fsprogs
mkfs.xfs xfsprogs
mkfs.btrfs btrfs-progs
setfacl acl
setfattr attr
setcap libcap2-bin
setquota quota
fusermount3 fuse3
setpriv util-linux
PROGRAMS
    if [ ${#missing[@]} -gt 0 ]; then
        echo "installing for the tests: ${missing[*]}"
        # Without them tests are skipped, by name: no reason to stop here.
        { apt-get update -qq && apt-get install -y -qq "${missing[@]}" > /dev/null; } ||
            echo "not installed; the tests that need them will be skipped"
    fi
fi

# Of Debian's package prometheus (19 MB) only the linter is wanted: installed, it would start a server.
promtool="${XDG_CACHE_HOME:-$HOME/.cache}/longshore/promtool"
if ! PATH="$PATH:$promtool" command -v promtool > /dev/null && command -v apt-get > /dev/null; then
    echo "fetching promtool for the tests"
    mkdir -p "$promtool"
    get=(apt-get download -qq prometheus)
    (
        cd "$promtool" && { "${get[@]}" 2> /dev/null || { apt-get update -qq && "${get[@]}"; }; } &&
            dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components 3 ./usr/bin/promtool &&
            rm prometheus_*.deb
    ) || echo "not fetched; the test that needs it will be skipped"
fi

# The control plane that some tests talk to takes ten minutes to build where it is not built yet: it is
# built while everything else is compiled, and the tests that need it wait for it.
test-cluster/control-plane/build.sh > /dev/null &

skips="$PWD/target/skipped-tests.txt"
mkdir -p target
: > "$skips"
export LONGSHORE_SKIPS="$skips"

if cargo fmt --version > /dev/null 2>&1; then
    cargo fmt --all --check
else
    echo "format: not checked, cargo fmt is not installed" >> "$skips"
fi
if cargo clippy --version > /dev/null 2>&1; then
    cargo clippy --workspace --all-targets -- -D warnings
else
    echo "lints: not checked, cargo clippy is not installed" >> "$skips"
fi

status=0
host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
env "CARGO_TARGET_${host}_RUNNER=$PWD/tests/runner.sh" cargo test --workspace --no-fail-fast || status=$?

# The first command of README, as it stands there but for the build profile.
storage=$(mktemp -d)
cargo run --quiet -- run --storage "$storage" examples/wordcount.sh || status=$?
rm -r "$storage"

echo
if [ -s "$skips" ]; then
    echo "left out on this machine:"
    sort -u "$skips" | sed 's/^/  /'
else
    echo "nothing was left out on this machine"
fi
exit "$status"
