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
import struct
import sys
import time
import types
from _blake2 import blake2b  # hashlib would load OpenSSL in each run
from json.encoder import encode_basestring
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
_LEAST_NS = 1_000_000  # a timer of 0 is none
_NUMBERS = frozenset({int, float, bool})
_SHORT_INT_BITS = 2_000  # in decimal, fewer digits than the lowest limit on them that a program can set
_EXACT_IN_A_DOUBLE = 1 << 53

# Bound before the program can replace them.
_exit, _getpid, _write = os._exit, os.getpid, os.write
_cpu_ns, _setitimer, _hash, _dumps = time.process_time_ns, signal.setitimer, blake2b, marshal.dumps
_quote, _pack = encode_basestring, struct.pack


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


class _Timer:
    """Raises `_TimeUp` in a call whose CPU time is used up.

    One timer serves many calls: to set it for each and to clear it again takes longer than most calls do. When it
    rings, it is set again for what the call that runs then has left.
    """

    def __init__(self) -> None:
        self.due_ns = 0  # when the time of the running call is up, in the process's CPU time; 0 between calls
        self._rings_ns = 0
        signal.signal(signal.SIGPROF, self._ring)

    def start(self, now_ns: int, limit_ns: int) -> None:
        self.due_ns = due_ns = now_ns + limit_ns
        if not now_ns < self._rings_ns <= due_ns:
            self._set(now_ns, limit_ns)

    def _set(self, now_ns: int, left_ns: int) -> None:
        self._rings_ns = now_ns + left_ns
        _setitimer(signal.ITIMER_PROF, left_ns / 1e9, _AGAIN_S)

    def _ring(self, number: int, frame: Any) -> None:
        now_ns, due_ns = _cpu_ns(), self.due_ns
        if not due_ns:
            self._rings_ns = 0  # the next call sets it
        elif now_ns >= due_ns:
            raise _TimeUp
        else:
            self._set(now_ns, max(due_ns - now_ns, _LEAST_NS))


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
        line = _short_line(value, largest)
        if line is not None:
            return line
        kind = type(value)
        if (kind is str and len(value) > largest) or (kind in (list, tuple) and len(value) > _MANY):
            return _Plain(2).dumps(["#", *_digest(value)])
        codec = _Plain(2)
        data = codec.dumps(["=", codec.encode(value)])
        return data if len(data) <= largest else _Plain(2).dumps(["#", _hash(data).hexdigest(), len(data)])
    except (CannotCross, RecursionError, ValueError):
        return _Plain(2).dumps(["x", _name(value)])


def _short_line(value: Any, largest: int) -> "bytes | None":
    """The same line that the codec writes, of what most calls return, without a codec; None for all else."""
    kind = type(value)
    if kind is int:
        return b'["=",%d]' % value if value.bit_length() <= _SHORT_INT_BITS else None
    if kind is bool:
        return b'["=",true]' if value else b'["=",false]'
    if value is None:
        return b'["=",null]'
    if kind is str and len(value) <= largest >> 3:  # a character takes six bytes at most
        return b'["=",%b]' % _quote(value).encode("utf-8", "surrogatepass")
    if kind is float and value - value == 0:
        return b'["=",%b]' % repr(value).encode()
    return None


def _digest(value: "str | list[Any] | tuple[Any, ...]") -> "tuple[str, int]":
    """Hash and length of a sequence, piece by piece: some outputs fill most of the memory.

    Equal numbers have equal hashes, whether int or float, as far as a double holds them (but for 0.0 and -0.0). Of all
    else equal values of equal types have equal hashes, because version 2 of marshal writes neither references nor what
    is interned.
    """
    digest = _hash(type(value).__name__.encode())
    for start in range(0, len(value), _PIECE):
        piece = value[start : start + _PIECE]
        if isinstance(piece, str):
            digest.update(piece.encode("utf-8", "surrogatepass"))
        elif _fits_doubles(piece):
            digest.update(_pack(f"{len(piece)}d", *piece))
        else:
            digest.update(_dumps(piece, 2))
    return digest.hexdigest(), len(value)


def _fits_doubles(items: "list[Any] | tuple[Any, ...]") -> bool:
    kinds = set(map(type, items))
    if not kinds <= _NUMBERS:
        return False
    return int not in kinds or (max(items) <= _EXACT_IN_A_DOUBLE and min(items) >= -_EXACT_IN_A_DOUBLE)


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
    timer = _Timer()
    base, typed, largest = settings["base"], settings["typed"], settings["max_line_bytes"]
    pause_ns, pause_at = 1_000_000 * settings["pause_after_ms"], settings["pause_at"]
    began = flushed = _cpu_ns()
    used = []
    for index, (given, limit_ms) in enumerate(zip(settings["inputs"], settings["cpu_limits_ms"], strict=True)):
        arguments = _Plain(2).decode(given) if typed else given
        started = _cpu_ns()
        limit_ns = 1_000_000 * limit_ms
        try:
            timer.start(started, limit_ns)
            value = function(*arguments)
            timer.due_ns = 0
        except _TimeUp:
            answers.add("time")
            return
        except BaseException as error:
            timer.due_ns = 0
            answers.add("!", _name(error), _message(error))
            return
        ended = _cpu_ns()
        used.append((ended - started) // 1_000)
        if ended - started > limit_ns:  # it swallowed the word
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
