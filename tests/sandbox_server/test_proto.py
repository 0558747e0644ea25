"""The checked-in gRPC code is what the pinned generator makes of proto/."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from sandbox_server.v1 import sandbox_pb2 as pb

ROOT = Path(__file__).parents[2]
GENERATED = Path("sandbox_server/v1")


@pytest.mark.timeout(600)  # the first run makes the generator's environment
def test_the_checked_in_code_is_what_the_generator_makes(tmp_path) -> None:
    made = subprocess.run([ROOT / "scripts/generate_proto.sh", tmp_path], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    names = sorted(path.name for path in (tmp_path / GENERATED).iterdir())
    assert names == ["sandbox_pb2.py", "sandbox_pb2.pyi", "sandbox_pb2_grpc.py"]
    for name in names:
        same = (tmp_path / GENERATED / name).read_bytes() == (ROOT / GENERATED / name).read_bytes()
        assert same, f"{GENERATED / name} is not what proto/ says: run scripts/generate_proto.sh"


def test_numbers_of_fields_are_never_reused() -> None:
    """A number that once meant something else would be read wrongly by clients of before; add, never renumber."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    numbers = {f"{message.name}.{field.name}": field.number for message in file.message_type for field in message.field}
    lines = (Path(__file__).parent / "field_numbers.txt").read_text().splitlines()
    published = {name: int(number) for name, number in map(str.split, lines)}
    assert {name: numbers.get(name) for name in published} == published
    assert numbers.keys() == published.keys(), "add the new fields to field_numbers.txt"
