#!/usr/bin/env bash
# Test the sandbox on other Pythons that this machine has: it needs no torch, so it serves on each of them.
# Each gets an environment of its own with what the sandbox and its tests need. Says which were not found.
#
#   scripts/test_pythons.sh [PYTEST-OPTION...]      PYTHONS="3.12 3.13" chooses them
#
# What fails is run once more, alone, as CI does with the other tests.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .selfalign
packages=(-e '.[http,metrics,tracing]' cryptography httpx2 hypothesis pytest pytest-asyncio pytest-timeout)

find_python() { # find_python 3.12: an interpreter that runs, on PATH or among pyenv's, the newest first
    local candidate
    while read -r candidate; do
        if "$candidate" -c '' 2> /dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done < <(
        type -P "python$1" || true
        printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$1".*/bin/python | sort -rV
    )
    return 1
}

for version in ${PYTHONS:-3.12 3.13}; do
    if ! python=$(find_python "$version"); then
        echo "Python $version: not on this machine, not tested"
        continue
    fi
    venv=.selfalign/python$version
    if [ ! -e "$venv/ready" ] || [ pyproject.toml -nt "$venv/ready" ] || [ "$0" -nt "$venv/ready" ]; then
        "$python" -m venv --clear "$venv"
        "$venv/bin/python" -m pip --disable-pip-version-check install -q -c constraints.txt "${packages[@]}" \
            > "$venv/setup.log" 2>&1 ||
            { tail -n 20 "$venv/setup.log" >&2; exit 1; }
        touch "$venv/ready"
    fi
    echo "Python $("$venv/bin/python" -c 'import platform; print(platform.python_version())'): the sandbox's tests"
    pytest=("$venv/bin/python" -m pytest -q -o "cache_dir=$venv/pytest-cache" "$@" tests/sandbox_server)
    "${pytest[@]}" || "${pytest[@]}" --last-failed --last-failed-no-failures none
done
