"""Call a program's function with many inputs, and write down what comes back. Runs in the sandbox.

Files in the working directory: `PROGRAM`, `CALLS` (settings, with the inputs), this module and the codec; they are gone
before the program starts. Answers go to `ANSWERS`, a JSON list on each line:

    ["loaded"]                  the program ran to its end and has the function
    ["=", value]                what a call returned, as the codec writes it
    ["#", hash, length]         it returned a value that is too long to write: a hash of it, and its length
    ["x", type]                 it returned something that has no form outside, of this type
    ["!", type, message]        this was raised, by the call or by the program itself; nothing follows
    ["syntax", message, line]   the program does not compile
    ["time"]                    the call used up its CPU time; nothing follows
    ["pause"]                   it takes long, or will: let what is here be looked at first; nothing follows
    ["done", cpu_us...]         every input was answered

All of it comes from the program's own interpreter, so it is a claim and no more: whoever reads it compares the values
with ones that were never here.
"""

# ruff: noqa: PTH108, PTH123, PTH208, S102
# (pathlib would be one more import in each run, and to execute the program is the point)

import json
import marshal
import os
import signal
import sys
import time
import types
from _blake2 import blake2b  # hashlib would load OpenSSL in each run
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from sandbox_server.guest.separate.values import CannotCross, Codec
else:  # in the sandbox, where the codec lies beside this file
    from _selfalign_values import CannotCross, Codec

PROGRAM, CALLS, ANSWERS = "_selfalign_program.py", "_selfalign_calls.json", "_selfalign_answers"
DRIVER, CODEC = "_selfalign_driver", "_selfalign_values"

_FLUSH_NS = 100_000_000
_MANY, _PIECE = 50_000, 10_000  # items
_AGAIN_S = 0.05  # a program may swallow the first word that its time is up

# Bound before the program can replace them.
_exit, _getpid, _write = os._exit, os.getpid, os.write
_cpu_ns, _setitimer, _hash, _dumps = time.process_time_ns, signal.setitimer, blake2b, marshal.dumps


class _TimeUp(BaseException):
    """The CPU time of one call is used up."""


class _Plain(Codec):
    """The codec, with instances of subclasses of plain types as what they hold: equality looks at nothing else.

    This side's handles are the even ones.
    """

    def encode_other(self, value: Any, depth: int) -> Any:
        for kind, plain in _PLAIN:
            if isinstance(value, kind):
                return self.encode(plain(value), depth)
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            return self.encode(value.item(), depth)
        raise CannotCross(type(value).__name__)


_PLAIN: "tuple[tuple[type, Any], ...]" = (
    (int, lambda value: int.__add__(value, 0)),
    (float, float.__pos__),
    (complex, complex.__pos__),
    (str, str.__str__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
    (tuple, lambda value: tuple.__getitem__(value, slice(None))),
    (list, list.copy),
    (dict, dict.copy),
    (set, lambda value: set().union(value)),
    (frozenset, lambda value: frozenset().union(value)),
)


class _Answers:
    """The answers' file, written in large pieces."""

    def __init__(self) -> None:
        self._fd = os.open(ANSWERS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._pid = _getpid()
        self._lines: list[bytes] = []

    def add(self, *items: Any) -> None:
        self.add_line(_Plain(2).dumps(list(items)))

    def add_line(self, line: bytes) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        if _getpid() != self._pid:
            _exit(0)  # a fork of the program that came back
        view = memoryview(b"\n".join([*self._lines, b""]))
        self._lines.clear()
        while view:
            view = view[_write(self._fd, view) :]


def _stop(number: int, frame: Any) -> None:
    raise _TimeUp


def _name(value: Any) -> str:
    return str(type(value).__name__)[:200]


def _message(error: BaseException) -> str:
    try:
        return str(error)[:500]
    except BaseException:
        return "<its __str__ failed>"


def _line(value: Any, largest: int) -> bytes:
    """The line of a value."""
    try:
        if type(value) in (list, tuple) and len(value) > _MANY:
            return _Plain(2).dumps(["#", *_digest(value)])
        codec = _Plain(2)
        data = codec.dumps(["=", codec.encode(value)])
        return data if len(data) <= largest else _Plain(2).dumps(["#", _hash(data).hexdigest(), len(data)])
    except (CannotCross, RecursionError, ValueError):
        return _Plain(2).dumps(["x", _name(value)])


def _digest(value: "list[Any] | tuple[Any, ...]") -> "tuple[str, int]":
    """Hash and length of a sequence, piece by piece: some outputs fill most of the memory.

    Equal values have equal hashes, because version 0 of marshal writes neither references nor what is interned.
    """
    digest = _hash(type(value).__name__.encode())
    for start in range(0, len(value), _PIECE):
        digest.update(_dumps(value[start : start + _PIECE], 0))
    return digest.hexdigest(), len(value)


def _run(answers: _Answers, settings: "dict[str, Any]", program: str) -> None:
    try:
        code = compile(program, "solution.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        answers.add("syntax", _message(error), getattr(error, "lineno", None) or 0)
        return
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        answers.add("!", _name(error), _message(error))
        return
    name = settings["entry_point"]
    if name not in module.__dict__:
        answers.add("!", "NameError", f"name {name!r} is not defined")
        return
    function = module.__dict__[name]
    answers.add("loaded")
    signal.signal(signal.SIGPROF, _stop)
    base, typed, largest = settings["base"], settings["typed"], settings["max_line_bytes"]
    pause_ns, pause_at = 1_000_000 * settings["pause_after_ms"], settings["pause_at"]
    began = flushed = _cpu_ns()
    used = []
    for index, (given, limit_ms) in enumerate(zip(settings["inputs"], settings["cpu_limits_ms"], strict=True)):
        arguments = _Plain(2).decode(given) if typed else given
        started = _cpu_ns()
        try:
            try:
                _setitimer(signal.ITIMER_PROF, limit_ms / 1000, _AGAIN_S)
                value = function(*arguments)
            finally:
                _setitimer(signal.ITIMER_PROF, 0)
        except _TimeUp:
            answers.add("time")
            return
        except BaseException as error:
            answers.add("!", _name(error), _message(error))
            return
        ended = _cpu_ns()
        used.append((ended - started) // 1_000)
        if used[-1] > 1_000 * limit_ms:  # it swallowed the word
            answers.add("time")
            return
        answers.add_line(_line(value, largest))
        del value
        if index + 1 == pause_at or (pause_ns and ended - began > pause_ns):
            answers.add("pause")
            return
        if index + 1 == base or ended - flushed > _FLUSH_NS:
            answers.flush()
            flushed = ended
    answers.add("done", *used)


def main() -> None:
    """Answer every call, and end the process whatever the program left running."""
    with open(CALLS, "rb") as file:
        settings = json.load(file)
    with open(PROGRAM, encoding="utf-8", errors="surrogatepass") as file:
        program = file.read()
    for name in os.listdir("."):
        os.unlink(name)
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    answers = _Answers()
    try:
        _run(answers, settings, program)
    except _TimeUp:  # the word came when the call had just ended
        answers.add("time")
    answers.flush()
    _exit(0)
