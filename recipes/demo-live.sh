#!/usr/bin/env bash
# The demo with a live model: fetch it, check its hash, serve it on the CPU, run everything. `make demo-live` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

exec "${VENV:-.venv}/bin/python" scripts/serve_model.py --port 8077 -- recipes/demo.sh recipes/demo-live.toml
