#!/usr/bin/env bash
# Says where the programs of a real node are that the control plane lacks: kubelet, kube-scheduler, containerd,
# its shim and ctr. What is not in the cache yet is built there, once, from the two Go modules here (Kubernetes
# has the version of the control plane's). The folder is the last line of standard output. Exit status 3: this
# machine cannot build them (the reason is on standard error); anything else: the build failed, and its output
# is on standard error.
set -euo pipefail
cd "$(dirname "$0")"

programs=(kubelet kube-scheduler containerd containerd-shim-runc-v2 ctr)

complete() { # Whether a folder has all of them.
    local program
    for program in "${programs[@]}"; do
        [ -x "$1/$program" ] || return 1
    done
}

# What is pinned decides what is built, so another version never meets an older build.
pinned=$(cat {kubernetes,containerd}/go.{mod,sum} | sha256sum | cut -c 1-16)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/longshore/node-programs"
built="$cache/$pinned"
if complete "$built"; then
    echo "$built"
    exit 0
fi

if ! command -v go > /dev/null; then
    echo "go is not installed" >&2
    exit 3
fi
for module in kubernetes containerd; do
    if ! refusal=$(go -C "$module" list -m 2>&1 > /dev/null); then
        echo "this go cannot build the programs of a node: $(head -n 1 <<< "$refusal")" >&2
        exit 3
    fi
done

mkdir -p "$cache"
exec 9> "$cache/$pinned.lock"
flock 9
if ! complete "$built"; then
    echo "building the programs of a node for the tests; this takes about ten minutes, once" >&2
    partial=$(mktemp -d "$cache/$pinned.partial-XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    # Neither debugging information nor paths: a third smaller, and equal wherever it is built.
    build=(build -trimpath -ldflags "-s -w" -o "$partial/")
    export CGO_ENABLED=0
    nice go -C kubernetes "${build[@]}" k8s.io/kubernetes/cmd/kubelet \
        k8s.io/kubernetes/cmd/kube-scheduler >&2
    nice go -C containerd "${build[@]}" github.com/containerd/containerd/v2/cmd/containerd \
        github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
        github.com/containerd/containerd/v2/cmd/ctr >&2
    # One rename, so that nobody ever sees a part of it.
    mkdir -p "$built"
    mv -T "$partial" "$built"
fi
echo "$built"
