#!/usr/bin/env bash
# Installs the copy tools that the bench compares with, as far as package registries have them: rsync,
# rclone and fpsync from Debian, xcp from crates.io. dcp is in neither; the bench takes it when it is there.
# Only this script installs anything for the bench: cargo bench --bench against_peers -- --set-up
set -euo pipefail

if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    apt-get install -y -qq rsync rclone fpart e2fsprogs xfsprogs > /dev/null
else
    echo "rsync, rclone, fpart: not root, or no apt; install them as this system does"
fi
command -v xcp > /dev/null || cargo install --locked xcp

for program in cp rsync tar xcp rclone fpsync dcp; do
    printf '%-8s %s\n' "$program" "$(command -v "$program" || echo 'not installed')"
done
