#!/bin/sh
# How a test program is run by all.sh (cargo's `runner`): those of the cluster mostly wait, for rollouts, Leases
# and deadlines, so more of them run side by side than there are processors; all others measure times.
case "${PWD##*/}-${1##*/}" in
dm-manager-movement_scale-*) ;;
dm-manager-* | dm-worker-*) export RUST_TEST_THREADS=4 ;;
esac
exec "$@"
