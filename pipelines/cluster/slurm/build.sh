#!/usr/bin/env bash
# Build a store with an array of SLURM jobs: plan here, tokenize in STRIPES tasks, finish in one.
#
#   pipelines/cluster/slurm/build.sh INPUT STORE STRIPES [OPTIONS of tokenstore plan ...]
#   pipelines/cluster/slurm/build.sh imagenet21k in21k.tokenstore 100 --tokenizer vit-vqgan --device cuda
#
# SBATCH_OPTIONS goes to each sbatch, such as "--partition=gpu --account=me". INPUT, STORE and the folder
# STORE.building must be the same paths on all nodes. The same line again continues what was
# interrupted: parts that are done are kept. Prints the number of the last job.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 INPUT STORE STRIPES [OPTIONS of tokenstore plan ...]" >&2
    exit 2
fi
input=$1 store=$2 stripes=$3
here=$(cd "$(dirname "$0")" && pwd)
read -r -a site <<<"${SBATCH_OPTIONS:-}"

tokenstore plan "$input" -o "$store" "${@:4}" >&2
array=$(sbatch --parsable ${site[@]+"${site[@]}"} --array="0-$((stripes - 1))" \
    "$here/tokenize.sbatch" "$@")
echo "tokenizing in job $array; look with: tokenstore status $store" >&2
sbatch --parsable ${site[@]+"${site[@]}"} --gres=none --dependency="afterok:$array" --kill-on-invalid-dep=yes \
    "$here/finish.sbatch" "$store"
