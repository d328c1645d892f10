#!/usr/bin/env bash
# Build a store on a running Ray cluster, as a job of its own.
#
#   RAY_DASHBOARD=http://head:8265 pipelines/cluster/ray/build.sh INPUT STORE [OPTIONS ...]
#
# All nodes need `tokenstore[build,ray]` in the same versions, and INPUT, STORE and STORE.building under
# the same paths, or as URLs. The same line again continues what was interrupted. Credentials for URLs
# are those of the nodes' environment.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: RAY_DASHBOARD=http://HEAD:8265 $0 INPUT STORE [OPTIONS of tokenstore build ...]" >&2
    exit 2
fi
input=$1 store=$2
ray job submit --address "${RAY_DASHBOARD:?is the URL of the dashboard of the Ray head}" -- \
    tokenstore build "$input" -o "$store" --engine ray "${@:3}"
