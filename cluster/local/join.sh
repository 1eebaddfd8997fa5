#!/bin/bash
# Let this machine join a Ray cluster whose head runs elsewhere, until Ctrl-C.
#
#   on the head:      distgen cluster up --nodes 1 --host ADDRESS
#   on each machine:  cluster/local/join.sh ADDRESS:6379
#
# All machines need the same Python, distgen and paths, and the head's ~/.ray/auth_token.
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: $0 HEAD:PORT" >&2
    exit 2
fi
token="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [ ! -s "$token" ]; then
    echo "error: there is no token in $token" >&2
    echo "  try: mkdir -p $(dirname "$token") && scp ${1%:*}:.ray/auth_token $token && chmod 600 $token" >&2
    exit 2
fi
if [ -n "$(find "$token" -perm /077)" ]; then
    echo "error: others can read $token" >&2
    echo "  try: chmod 600 $token" >&2
    exit 2
fi
# Parts of Ray look for a cluster where they are told none, and refuse to choose between two.
export RAY_ADDRESS="$1" RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
exec ray start --block --address "$1"
