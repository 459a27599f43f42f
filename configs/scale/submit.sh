#!/bin/bash
# The six stages as Slurm jobs, each begun when the one before it has ended:
#
#   configs/scale/submit.sh CONFIG SHARDS
#
# After the shards of a stage one job by itself makes what a dead one has left; if that fails, too, the
# rest does not begin. Submit again to go on: what is finished is not made again.
set -euo pipefail

config=${1:?name the YAML file of settings}
shards=${2:?name the number of shards}
here=$(cd "$(dirname "$0")" && pwd)
job=

submit() { # submit CONDITION [OPTIONS OF sbatch] -- COMMAND
    local condition=$1 options=()
    shift
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    if [ -n "$job" ]; then options+=("--dependency=$condition:$job"); fi
    job=$(sbatch --parsable "${options[@]}" "$here/stage.sbatch" "$1" "$config")
    job=${job%%;*} # with several clusters, its cluster follows
    echo "$1: job $job"
}

for stage in prompts images experts; do
    submit afterok --array="1-$shards" -- "$stage"
    submit afterany -- "$stage"
done
submit afterok -- merge
submit afterok --array="1-$shards" -- score
submit afterany -- run
