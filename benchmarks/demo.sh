#!/usr/bin/env bash
# Wall time of `make demo` as a new user meets it: in a fresh clone, set-up included, and again when all is there.
#
#   benchmarks/demo.sh
set -euo pipefail

source=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone -q "$source" "$folder/selfalign"
cd "$folder/selfalign"
# The environment that this was started from must not leak into the clone's.
unset VIRTUAL_ENV VENV
timed() {
    local started=$SECONDS
    make demo > "$folder/$1.log" 2>&1 || { tail -n 30 "$folder/$1.log" >&2; exit 1; }
    echo $((SECONDS - started))
}
setup_started=$SECONDS
scripts/setup.sh demo > "$folder/setup.log" 2>&1
setup=$((SECONDS - setup_started))
first=$(timed first)
second=$(timed second)
echo "conditions: $(nproc) processors, $(uname -sr), $(python3 --version), load $(cut -d' ' -f1 /proc/loadavg) at the end"
echo "set-up on a fresh clone: ${setup} s"
echo "make demo, first: ${first} s (with the set-up $((setup + first)) s)"
echo "make demo, again: ${second} s"
