#!/usr/bin/env bash
# Test the sandbox on the other Pythons that this machine has: it needs no torch, so it serves on each of them.
# Each gets an environment of its own with the sandbox's dependencies only. Says which were not found.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() { # find_python 3.12: an interpreter that runs, on PATH or under pyenv
    if command -v "python$1" > /dev/null && "python$1" -c '' 2> /dev/null; then
        command -v "python$1"
    elif command -v pyenv > /dev/null; then
        local found
        found=$(pyenv versions --bare | grep -E "^${1//./\\.}\.[0-9]+$" | tail -n 1) || return 1
        printf '%s/bin/python\n' "$(pyenv prefix "$found")"
    else
        return 1
    fi
}

for version in 3.12 3.13; do
    if ! python=$(find_python "$version"); then
        echo "Python $version: not on this machine, not tested"
        continue
    fi
    venv=.selfalign/python$version
    if [ ! -x "$venv/bin/pytest" ] || [ pyproject.toml -nt "$venv/bin/pytest" ]; then
        "$python" -m venv --clear "$venv"
        "$venv/bin/python" -m pip --disable-pip-version-check install -q -c constraints.txt -e '.[dev]' \
            > .selfalign/setup.log 2>&1 ||
            { tail -n 20 .selfalign/setup.log >&2; exit 1; }
        touch "$venv/bin/pytest"
    fi
    echo "Python $("$venv/bin/python" -c 'import platform; print(platform.python_version())'): the sandbox's tests"
    "$venv/bin/pytest" -q "$@" tests/sandbox_server
done
