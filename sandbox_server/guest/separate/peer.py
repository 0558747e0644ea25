"""Requests and answers over one stream, nested: while a call waits for its answer, the other side may call back.

A message is a list: its kind, its news (the changes of shared mutable values and the handles that are held no longer,
or null for none), then

    ?  operation, arguments...      asks for something
    =  value                        the answer
    !  exception                    the answer: this was raised
    x  reason                       the answer: it cannot cross; the judgement ends there

One side speaks at a time, so the changes that a message carries are applied in the order in which they were made.
"""

from __future__ import annotations

import os
from _thread import get_ident
from typing import Any

from .values import MAX_MESSAGE_BYTES, CannotCross, Codec, Malformed

_LENGTH_BYTES = 4
_USUAL_BYTES = 1 << 16

# Bound before a program can replace them in their module.
_read, _write, _get_ident = os.read, os.write, get_ident


class Gone(BaseException):
    """The other side ended, or sent nonsense. Not an Exception: a test that catches those must not swallow it."""


class Peer(Codec):
    """One side of the connection.

    Args:
        fd: the stream.
        first_handle: see `Codec`.
    """

    def __init__(self, fd: int, first_handle: int) -> None:
        super().__init__(first_handle)
        self._fd = fd
        self._thread = _get_ident()

    # What the sides add.

    def answer(self, operation: str, arguments: list[Any]) -> Any:
        """Do what the other side asks; returns or raises."""
        raise Malformed(f"unknown operation {operation[:20]!r}")

    def encode_exception(self, error: BaseException) -> Any:
        """The node of an exception that goes to the other side."""
        raise CannotCross(f"an exception {type(error).__name__}")

    def decode_exception(self, node: Any) -> BaseException:
        """The exception of a node."""
        raise Malformed("an exception")

    def gone(self) -> list[int]:
        """Handles that the other side need not keep."""
        return []

    def release(self, handles: Any) -> None:
        """The other side holds these no longer."""
        if handles != []:
            raise Malformed("handles")

    def cannot_cross(self, reason: str) -> BaseException:
        """What to raise here when something cannot cross."""
        return CannotCross(reason)

    # Speaking

    def request(self, operation: str, *arguments: Any) -> Any:
        """Ask the other side, and serve it until it answers.

        Returns:
            The answer's value.

        Raises:
            Gone: there is no other side any more.
            BaseException: what the other side raised.
        """
        if _get_ident() != self._thread:
            raise self.cannot_cross("a call from a thread of its own")
        try:
            news = self._news()  # first: what follows may speak of what they introduce
            data = self.dumps(["?", news, operation, *[self.encode(argument) for argument in arguments]])
        except CannotCross as problem:
            raise self.cannot_cross(str(problem)) from None
        self._send(data)
        while True:
            message = self._receive()
            kind = message[0]
            if kind == "?":
                self._serve(message)
                continue
            try:
                if kind == "=":
                    return self.decode(message[2])
                if kind == "!":
                    error = self.decode_exception(message[2])
                elif kind == "x":
                    error = self.cannot_cross(str(message[2])[:500])
                else:
                    raise Malformed("neither question nor answer")
            except (Malformed, IndexError, RecursionError) as problem:
                raise self._lost(f"sent what cannot be read: {problem}") from None
            raise error

    def serve_one(self) -> None:
        """Wait for a question and answer it.

        Raises:
            Gone: there is no other side any more.
        """
        message = self._receive()
        if message[0] != "?":
            raise self._lost("answers what nobody asked")
        self._serve(message)

    def _serve(self, message: list[Any]) -> None:
        try:
            if len(message) < 3 or type(message[2]) is not str:
                raise Malformed("no operation")
            arguments = self.values(message[3:], 0)
        except (Malformed, RecursionError) as problem:
            raise self._lost(f"sent what cannot be read: {problem}") from None
        try:
            try:
                kind, result = "=", self.answer(message[2], arguments)
            except (CannotCross, Gone, Malformed):
                raise
            except BaseException as error:
                kind, result = "!", error
            changes = self.changes()
            news = [changes, []] if changes else None
            node = self.encode(result) if kind == "=" else self.encode_exception(result)
            data = self.dumps([kind, news, node])
        except CannotCross as problem:
            data = self.dumps(["x", None, str(problem)])
        except Malformed as problem:
            raise self._lost(f"asks for what there is not: {problem}") from None
        self._send(data)

    def _news(self) -> list[Any] | None:
        if not self._mirrors:
            return None
        changes, gone = self.changes(), self.gone()
        return [changes, gone] if changes or gone else None

    def _receive(self) -> list[Any]:
        try:
            message = self.loads(self._read_message())
            news = message[1] if len(message) > 1 else ()
            if news is not None:
                if type(news) is not list or len(news) != 2:
                    raise Malformed("no news")
                self.apply(news[0])
                self.release(news[1])  # after: what was let go of may have changed just before
        except (Malformed, ValueError, RecursionError) as problem:
            raise self._lost(f"sent what cannot be read: {problem}") from None
        return message

    def _lost(self, why: str) -> Gone:
        return Gone(why)

    # Bytes

    def _send(self, data: bytes) -> None:
        data = len(data).to_bytes(_LENGTH_BYTES, "big") + data
        try:
            sent = _write(self._fd, data)
            if sent < len(data):
                view = memoryview(data)[sent:]
                while view:
                    view = view[_write(self._fd, view) :]
        except OSError:
            raise self._lost("ended") from None

    def _read_message(self) -> bytes:
        """The next message. One read fetches all of a short one, and nothing beyond it: one side speaks at a time."""
        data = self._read_some(_USUAL_BYTES)
        while len(data) < _LENGTH_BYTES:
            data += self._read_some(_LENGTH_BYTES - len(data))
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        if length > MAX_MESSAGE_BYTES:
            raise Malformed("a message without end")
        data = data[_LENGTH_BYTES:]
        if len(data) < length:
            parts, missing = [data], length - len(data)
            while missing > 0:
                part = self._read_some(max(missing, _USUAL_BYTES))
                parts.append(part)
                missing -= len(part)
            data = b"".join(parts)
        if len(data) != length:
            raise Malformed("more than a message")
        return data

    def _read_some(self, most: int) -> bytes:
        try:
            part = _read(self._fd, most)
        except OSError:
            part = b""
        if not part:
            raise self._lost("ended")
        return part
