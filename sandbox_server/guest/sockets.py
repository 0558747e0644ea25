"""No socket outlives its program.

Sockets that were sent over each other and then closed hold each other in the kernel, with every other file that went
the same way, until it happens to look for such rings: a listener among them kept its name, and the slot's next program
could connect to it. So the first process counts the sockets of the jail's network namespace after each run, and has
the kernel look when one is left.
"""

import _socket
import os
import struct
import time

_COUNT = "/proc/self/net/sockstat"  # "sockets: used N" in its first line: those that programs made, of every family
_NONE = b"sockets: used 0\n"
_ROUNDS = 3
_WAIT_S = 2.0  # in all; the kernel takes 5 to 20 ms a round
_PAUSE_S = 0.001


class Sockets:
    """The sockets of this process's network namespace, in which programs run one after another."""

    def __init__(self) -> None:
        self._count = os.open(_COUNT, os.O_RDONLY | os.O_CLOEXEC)

    def are_gone(self) -> bool:
        """Have the kernel collect what the last program left. Answers False when something of it stays."""
        if self._none():
            return True
        deadline = time.monotonic() + _WAIT_S
        # The kernel ends the files of rings some time after it has found them, in batches. A ring of ours that is gone
        # says that those found before are being ended, a second that they are, a third that what was inside them is.
        try:
            return all(self._round(deadline) for _ in range(_ROUNDS))
        except OSError:  # the host has no room for our own
            return False

    def _none(self) -> bool:
        return os.pread(self._count, len(_NONE), 0) == _NONE

    def _round(self, deadline: float) -> bool:
        _make_ring()
        while True:
            for end in _socket.socketpair():
                end.close()  # the kernel looks for rings whenever a socket is closed
            time.sleep(_PAUSE_S)
            if self._none():
                return True
            if time.monotonic() > deadline:
                return False


def _make_ring() -> None:
    """Leave two sockets that hold each other."""
    ends = _socket.socketpair()
    rights = struct.pack("2i", *(end.fileno() for end in ends))
    ends[0].sendmsg((b"x",), ((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights),))
    for end in ends:
        end.close()
