#!/usr/bin/env bash
# Write the versions that are installed now into constraints.txt: what CI runs and `make demo` installs.
set -euo pipefail
cd "$(dirname "$0")/.."
{
    echo "# Exact versions that the tests ran with; scripts/freeze.sh writes this file."
    "${VENV:-.venv}/bin/python" -m pip --disable-pip-version-check freeze --exclude-editable --exclude pip --exclude setuptools |
        sed -E 's/\+cpu$//' | grep -v -E '^-|@ '
} > constraints.txt
