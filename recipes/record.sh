#!/usr/bin/env bash
# Remake the recorded completions that are missing: serve the real model, ask it the demo's prompts. `make record` runs this.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${VENV:-.venv}/bin/python
port=${PORT:-8077}

exec "$python" scripts/serve_model.py --port "$port" -- \
    "$python" scripts/record.py recipes/demo.toml --base-url "http://127.0.0.1:$port/v1" \
    --note "source=Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF, file qwen2.5-coder-1.5b-instruct-q4_k_m.gguf" \
    --note "sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046" \
    --note "licence=Apache-2.0"
