#!/bin/sh
# Packs two inputs into one archive, and stages the archive out under a new name.
#
#   cargo run --release -- run examples/archive.sh -- "made by hand"
#
# A lustre storage is one place for all computes, so that nothing gets an index directory. The
# copies of one state run side by side.
#
#DW jobdw type=lustre capacity=1GiB name=pack
#DW copy_in  source=/proc/self/cwd/src     destination=$DW_JOB_pack/tree/
#DW copy_in  source=/proc/self/cwd/LICENSE destination=$DW_JOB_pack/tree/COPYING
#DW copy_out source=$DW_JOB_pack/tree.tar.gz   destination=/proc/self/cwd/target/longshore-examples/archive.tar.gz
#DW copy_out source=$DW_JOB_pack/tree.tar.gz.sum destination=/proc/self/cwd/target/longshore-examples/archive.tar.gz.sum

set -eu
cd "$DW_JOB_LUSTRE"
echo "${1:-made by $DW_WORKFLOW_NAME}" > tree/NOTE
tar -czf tree.tar.gz tree
cksum tree.tar.gz > tree.tar.gz.sum
tar -tzf tree.tar.gz | wc -l | sed 's/$/ entries are in the archive/'
