#!/usr/bin/env bash
# Write the gRPC code of proto/ below a folder: scripts/generate_proto.sh [FOLDER]. Without one, over the checked-in code.
# The generator is pinned and older than the runtime on purpose (docs/decisions/0002-generated-code.md), so it lives in an
# environment of its own; this script makes that once.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-.}
# setuptools 82 no longer has pkg_resources, which this grpcio-tools imports.
pins=(grpcio-tools==1.71.2 grpcio==1.71.2 protobuf==5.29.6 "setuptools<82")
tools=.selfalign/proto-tools
if [[ ! -f $tools/complete ]] || [[ $(<"$tools/complete") != "${pins[*]}" ]]; then
    rm -rf "$tools"
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/python" -m pip --quiet --disable-pip-version-check install --only-binary :all: "${pins[@]}"
    echo "${pins[*]}" >"$tools/complete"
fi
mkdir -p "$output"
"$tools/bin/python" -W ignore -m grpc_tools.protoc -I proto \
    --python_out="$output" --pyi_out="$output" --grpc_python_out="$output" \
    proto/sandbox_server/v1/sandbox.proto
