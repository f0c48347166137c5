#!/usr/bin/env bash
# Builds the control plane that the tests talk to (kube-apiserver, etcd, kube-controller-manager) from
# its Go modules, once, into a cache outside the checkout, and prints the folder of the programs.
# It starts nothing. Several at once are safe: the first builds, the others wait for it.
#
# KUBEBUILDER_ASSETS names a folder that has them already. Exit codes: 0 the folder is on standard
# output; 3 they are not there and cannot be built on this machine (the reason is on standard error);
# anything else: the build failed, and its output is on standard error.
set -euo pipefail
cd "$(dirname "$0")"

programs=(kube-apiserver etcd kube-controller-manager)

complete() { # Whether a folder has all of them.
    local program
    for program in "${programs[@]}"; do
        [ -x "$1/$program" ] || return 1
    done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    if complete "$KUBEBUILDER_ASSETS"; then
        echo "$KUBEBUILDER_ASSETS"
        exit 0
    fi
    echo "KUBEBUILDER_ASSETS lacks one of: ${programs[*]}; building them" >&2
fi

# What is pinned decides what is built, so another version never meets an older build.
pinned=$(cat go.mod go.sum | sha256sum | cut -c 1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/longshore/control-plane"
built="$cache/$pinned"
if complete "$built"; then
    echo "$built"
    exit 0
fi

if ! command -v go > /dev/null; then
    echo "go is not installed, and KUBEBUILDER_ASSETS names no control plane" >&2
    exit 3
fi
if ! refusal=$(go list -m 2>&1 > /dev/null); then
    echo "this go cannot build the control plane: $(head -n 1 <<< "$refusal")" >&2
    exit 3
fi

mkdir -p "$cache"
exec 9> "$cache/$pinned.lock"
flock 9
if ! complete "$built"; then
    echo "building the control plane for the tests; this takes about ten minutes, once" >&2
    partial=$(mktemp -d "$cache/$pinned.partial-XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    # Neither debugging information nor paths: a third smaller, and equal wherever it is built.
    build=(nice go build -trimpath -ldflags "-s -w" -o)
    export CGO_ENABLED=0
    "${build[@]}" "$partial/etcd" go.etcd.io/etcd/server/v3 >&2
    "${build[@]}" "$partial/" k8s.io/kubernetes/cmd/kube-apiserver \
        k8s.io/kubernetes/cmd/kube-controller-manager >&2
    # One rename, so that nobody ever sees a part of it.
    mkdir -p "$built"
    mv -T "$partial" "$built"
fi
echo "$built"
