#!/usr/bin/env bash
# Runs what is deployed on a real node: kubelet, containerd and a control plane are started in namespaces of
# their own, the manager and the workers are their pods. It takes a minute or two, and once fifteen
# more, in which the programs of the node are built. It needs root, Go and cgroup version 1, and installs
# what else is missing where there is apt; a machine that cannot run it is told why, and that is no failure.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    missing=()
    while read -r file package; do
        [ -e "$file" ] || missing+=("$package")
    done << 'FILES'
/usr/sbin/runc runc
/usr/lib/cni/bridge containernetworking-plugins
/usr/bin/strip binutils
/usr/bin/setpriv util-linux
/usr/sbin/ip iproute2
FILES
    if [ ${#missing[@]} -gt 0 ]; then
        echo "installing for the node: ${missing[*]}"
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null; } ||
            echo "not installed; the test says what it lacks"
    fi
fi

export LONGSHORE_REAL_NODE=yes
# Their programs are in the images.
cargo build --workspace --bins
cargo test --workspace --test real_node
