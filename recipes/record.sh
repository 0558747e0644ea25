#!/usr/bin/env bash
# Remake the recorded completions that are missing: serve the real model, ask it the demo's prompts. `make record` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${VENV:-.venv}/bin/python
port=${PORT:-8077}

exec "$python" scripts/serve_model.py --port "$port" -- \
    "$python" scripts/record.py recipes/demo.toml --base-url "http://127.0.0.1:$port/v1"
