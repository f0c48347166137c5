#!/bin/sh
# Compresses this repository's sources with one worker for each allocation.
#
#   cargo run --release -- run --allocations 4 examples/allocations.sh
#
# Every allocation of an xfs or gfs2 storage gets all of the input. Each worker takes its share of
# the files, and the results of each arrive in an index directory of their own.
#
#DW jobdw type=gfs2 capacity=1GiB name=work-space
#DW copy_in  source=/proc/self/cwd/src            destination=$DW_JOB_work_space/
#DW copy_out source=$DW_JOB_work_space/compressed/ destination=/proc/self/cwd/target/longshore-examples/allocations

set -eu

# $DW_JOB_work_space is the first allocation; all of them are in this list, separated by colons.
count=$(echo "$LONGSHORE_ALLOCATIONS_work_space" | tr ':' '\n' | wc -l)

worker() { # directory index
    cd "$1"
    mkdir -p compressed
    number=0
    find src -name '*.rs' | sort | while read -r file; do
        if [ $((number % count)) -eq "$2" ]; then
            gzip -c "$file" > "compressed/$(echo "$file" | tr '/' '-').gz"
        fi
        number=$((number + 1))
    done
}

index=0
workers=
IFS=:
for directory in $LONGSHORE_ALLOCATIONS_work_space; do
    worker "$directory" "$index" &
    workers="$workers:$!"
    index=$((index + 1))
done
for pid in ${workers#:}; do
    wait "$pid" # ends with the worker's exit code, so that a failed one fails the job
done
echo "$count workers have compressed the sources"
