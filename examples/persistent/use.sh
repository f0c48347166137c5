#!/bin/sh
# Counts how often it was run, in storage that an earlier job created.
#DW persistentdw name=counter
#DW copy_out source=$DW_PERSISTENT_counter/runs.txt destination=/proc/self/cwd/target/longshore-examples/runs.txt

set -eu
date >> "$DW_PERSISTENT_counter/runs.txt"
echo "run $(wc -l < "$DW_PERSISTENT_counter/runs.txt") of this job"
