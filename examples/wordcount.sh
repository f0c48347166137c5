#!/bin/sh
# Counts the words of this repository's sources.
#
#   cargo run --release -- run examples/wordcount.sh
#
# The input is staged into storage of the job's own, the results are staged out when it ends.
#
#DW jobdw type=xfs capacity=1GiB name=scratch
#DW copy_in  source=/proc/self/cwd/src/  destination=$DW_JOB_scratch/in
#DW copy_out source=$DW_JOB_scratch/out/ destination=/proc/self/cwd/target/longshore-examples/wordcount

set -eu
cd "$DW_JOB_scratch"
mkdir -p out

# One word a line, counted; the most frequent first.
find in -name '*.rs' -exec cat {} + | tr -cs 'A-Za-z' '\n' | tr 'A-Z' 'a-z' |
    sed '/^$/d' | sort | uniq -c | sort -rn > out/words.txt
find in -name '*.rs' -exec wc -l {} + | sort -rn > out/lines.txt
gzip -kf out/words.txt

echo "the five most frequent of $(wc -l < out/words.txt) words:"
head -n 5 out/words.txt
