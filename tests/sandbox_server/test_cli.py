"""The commands, run as a user runs them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from sandbox_server import host
from sandbox_server.cli import sandbox

PASSING = "def f(x):\n    return x + 1\n"


def invoke(*arguments: str):
    return CliRunner().invoke(sandbox, arguments)


@pytest.fixture
def program(tmp_path):
    (tmp_path / "a.py").write_text(PASSING)
    (tmp_path / "good.py").write_text("assert f(1) == 2\n")
    (tmp_path / "bad.py").write_text("assert f(1) == 3, 'off by one'\n")
    return tmp_path


@contextlib.contextmanager
def serving(folder, *options: str):
    """A `serve` process; yields it and its address."""
    address = f"unix:{folder}/s.sock"
    command = [sys.executable, "-m", "sandbox_server", "serve", "--address", address, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving on {address}\n"
        yield process, address
        process.kill()


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path) as started:
        yield started


@pytest.mark.nsjail
def test_run_tells_how_a_program_ended(program) -> None:
    passed = invoke("run", f"{program}/a.py", "--tests", f"{program}/good.py")
    assert passed.exit_code == 0
    assert passed.stderr.startswith("PASSED  1/1  exit code 0  ")
    failed = invoke("run", f"{program}/a.py", "--tests", f"{program}/bad.py")
    assert failed.exit_code == 1
    assert "FAILED  0/1" in failed.stderr
    assert "line 1: assert f(1) == 3" in failed.stderr
    assert "2 == 3 does not hold" in failed.stderr
    assert "off by one" in failed.stderr


@pytest.mark.nsjail
def test_run_keeps_the_programs_output_apart(program) -> None:
    (program / "loud.py").write_text("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    told = invoke("run", f"{program}/loud.py")
    assert told.stdout == "out\n"
    assert told.stderr.startswith("err\nEXITED  exit code 3")
    assert told.exit_code == 1


@pytest.mark.nsjail
def test_what_the_caller_ignores_the_program_does_not(tmp_path) -> None:
    """Also the signals that the C library keeps to itself, which only the system call can ignore or reset."""
    show = tmp_path / "show.py"
    show.write_text("print([line for line in open('/proc/self/status') if line.startswith('SigIgn')])\n")
    ignore_all = """
import ctypes, os, sys
for number in set(range(1, 65)) - {9, 19}:
    ctypes.CDLL(None).syscall(13 if os.uname().machine == "x86_64" else 134, number, b"\\1" + bytes(31), None, 8)
os.execv(sys.executable, [sys.executable, "-m", "sandbox_server", "run", *sys.argv[1:]])
"""
    done = subprocess.run([sys.executable, "-c", ignore_all, show], capture_output=True, text=True, timeout=60)
    sigpipe_and_sigxfsz = 1 << 12 | 1 << 24
    assert f"SigIgn:\\t{sigpipe_and_sigxfsz:016x}" in done.stdout, done


def test_run_as_json_is_the_whole_outcome(program) -> None:
    told = invoke("run", f"{program}/a.py", "--tests", f"{program}/good.py", "--json")
    outcome = json.loads(told.stdout)
    assert (outcome["verdict"], outcome["tests"]["assertions_run"]) == ("PASSED", 1)


@pytest.mark.nsjail
def test_info_shows_what_is_in_force() -> None:
    text = invoke("info").stdout
    assert "runtime     python: CPython 3" in text
    assert "namespaces  " in text
    shown = json.loads(invoke("info", "--json").stdout)
    assert shown["slots"] == 1
    assert shown["isolation"]["seccomp"] is True


@pytest.mark.nsjail
def test_check_says_that_this_host_will_do() -> None:
    told = invoke("check")
    assert told.exit_code == 0, told.stdout
    assert "ok       namespaces: " in told.stdout
    assert {one["name"] for one in json.loads(invoke("check", "--json").stdout)} >= {"nsjail", "namespaces", "seccomp"}


def test_check_names_the_remedy_of_what_is_missing(monkeypatch) -> None:
    needs = [host.HostCheck("nsjail", False, "no binary", "install it"), host.HostCheck("x", False, "f", "r", False)]
    monkeypatch.setattr(host, "check_host", lambda: needs)
    told = invoke("check")
    assert told.exit_code == 1
    assert "missing  nsjail: no binary\n         -> install it\nweaker   x: f\n" in told.stdout


@pytest.mark.nsjail
def test_a_server_is_reached_by_its_address_and_stops_when_told(server, program) -> None:
    process, address = server
    passed = invoke("run", f"{program}/a.py", "--tests", f"{program}/good.py", "--address", address)
    assert passed.exit_code == 0, passed.stderr
    assert json.loads(invoke("info", "--address", address, "--json").stdout)["slots"] == os.cpu_count()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    log = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert [entry["message"] for entry in log][-1] == "stopped"


@pytest.mark.nsjail
def test_a_server_that_wants_a_token_gets_it_from_the_environment(tmp_path, program, monkeypatch) -> None:
    (tmp_path / "token").write_text("tig3r\n")
    with serving(tmp_path, "--set", f"token_file={tmp_path}/token") as (_, address):
        monkeypatch.delenv("SELFALIGN_TOKEN", raising=False)
        refused = invoke("info", "--address", address)
        assert refused.exit_code == 1
        assert "wants a token" in refused.stderr
        assert refused.stderr.endswith("; the token is read from $SELFALIGN_TOKEN\n")
        monkeypatch.setenv("SELFALIGN_TOKEN", "tig3r")
        told = invoke("run", f"{program}/a.py", "--tests", f"{program}/good.py", "--address", address)
        assert told.exit_code == 0, told.stderr


@pytest.mark.nsjail
def test_a_second_signal_does_not_wait_for_runs(tmp_path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{probe.getsockname()[1]}"
    (tmp_path / "slow.py").write_text("import time; time.sleep(15)")
    with serving(tmp_path, "--set", f"metrics_address={metrics}") as (process, address):
        command = [sys.executable, "-m", "sandbox_server", "run", f"{tmp_path}/slow.py", "--address", address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            while b"sandbox_running 1.0" not in urllib.request.urlopen(f"http://{metrics}/metrics").read():
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert process.poll() is None  # it waits for the run
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            client.kill()


@pytest.mark.nsjail
def test_a_closed_terminal_stops_a_server_as_sigterm_does_and_nohup_keeps_it(tmp_path) -> None:
    former = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a child inherits only this and to be ignored
        with serving(tmp_path) as (process, _):
            process.send_signal(signal.SIGHUP)
            assert process.wait(20) == 0
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with serving(tmp_path) as (process, address):
            process.send_signal(signal.SIGHUP)
            assert invoke("info", "--address", address).exit_code == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    finally:
        signal.signal(signal.SIGHUP, former)


def serves_a_run_and_ends(process, program, address: str) -> None:
    """A server answers once its socket is there, which it is before it is healthy, and SIGTERM ends it."""
    deadline = time.monotonic() + 60
    while not Path(address.removeprefix("unix:")).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    passed = invoke("run", f"{program}/a.py", "--tests", f"{program}/good.py", "--address", address)
    assert passed.exit_code == 0, passed.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


@pytest.mark.nsjail
def test_a_server_without_standard_streams_serves_and_ends_in_good_order(tmp_path, program) -> None:
    """Nothing of its own takes their numbers, which are given to every jail anew."""
    address = f"unix:{tmp_path}/s.sock"
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "sandbox_server"]
    with subprocess.Popen([*command, "serve", "--address", address]) as process:
        try:
            serves_a_run_and_ends(process, program, address)
        finally:
            process.kill()


@pytest.mark.nsjail
def test_a_server_whose_log_nobody_reads_serves_and_ends(tmp_path, program) -> None:
    """Standard error is a pipe that is full, and every run is logged: no run waits for the log."""
    address = f"unix:{tmp_path}/s.sock"
    command = [sys.executable, "-m", "sandbox_server", "serve", "--address", address, "--set", "log_runs=true"]
    unread, written = os.pipe2(os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(written, b"x" * 4096)
    os.set_blocking(written, True)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=written) as process:
        try:
            serves_a_run_and_ends(process, program, address)
        finally:
            process.kill()
            os.close(unread)
            os.close(written)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--address", "0.0.0.0:1"], "set tls.certificate and tls.key, or bind 127.0.0.1"),
        (["serve", "--config", "/nonexistent.toml"], "/nonexistent.toml: no such file"),
        (["serve", "--set", "nonsense=1"], "unknown key 'nonsense'"),
        (["run", "/nonexistent.py"], "does not exist"),
        (["info", "--address", "http://localhost:1"], "'http://localhost:1' is no address; expected host:port"),
        (["info", "--address", "localhost"], "'localhost' is no address; expected host:port"),
        (["info", "--address", "::1:50061"], "'::1:50061' is no address; expected host:port, [ipv6]:port"),
        (["info", "--certificate", __file__], "--certificate and --key go together"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(arguments, message) -> None:
    told = invoke(*arguments)
    assert told.exit_code in (1, 2)
    assert message in told.stderr
    assert "Traceback" not in told.stderr


def test_a_file_that_is_no_text_is_refused(tmp_path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff")
    told = invoke("run", f"{tmp_path}/a.py")
    assert told.exit_code == 1
    assert "cannot be read as UTF-8 text" in told.stderr
