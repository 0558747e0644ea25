#!/usr/bin/env bash
# The whole pipeline, a line a stage: recorded completions, everything else for real. `make demo` runs this after its set-up.
set -euo pipefail
cd "$(dirname "$0")/.."

recipe=${1:-recipes/demo.toml}
PATH=$PWD/${VENV:-.venv}/bin:$PATH
export TOKENIZERS_PARALLELISM=false

step() {
    printf '\n\033[1m$ selfalign %s\033[0m\n' "$*"
    selfalign "$@"
}

step db upgrade --recipe "$recipe"   # make the tables
step seeds --recipe "$recipe"        # functions with docstrings, from permissively licensed packages
step plan --recipe "$recipe"         # what is missing, before anything runs
step build --recipe "$recipe"        # concepts, instructions, responses, executions, selection, a snapshot
step train --recipe "$recipe"        # fine-tune on the stream from the database
step eval --recipe "$recipe"         # score through the same sandbox
step status --recipe "$recipe"       # the funnel

cat <<END

Next, after '. ${VENV:-.venv}/bin/activate' (docs/sql.md has more questions, docs/viewing.md pictures):
  selfalign db query --recipe $recipe "SELECT licence, count(*) FROM seeds GROUP BY licence"
  selfalign db query --recipe $recipe "SELECT reason, count(*) FROM rejected_pairs GROUP BY 1 ORDER BY 2 DESC"
  selfalign view --recipe $recipe                # the same in a browser
  selfalign export --recipe $recipe --output pairs.jsonl
  selfalign sandbox run --expect-tests examples/hello.py   # one program through the sandbox
  make demo                                                # again: nothing is drawn, run or trained twice
END
