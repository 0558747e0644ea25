"""Put the interpreter's code into huge pages before programs are forked from it.

A fork inherits no page tables of a file's pages: each program finds the interpreter's code again by some 50 page faults
of 16 pages, which its end takes apart again. A huge page of our own is one entry, which the fork copies. What Node.js
does for itself with ``--use-largepages``; here it is the forks that gain.
"""

import ctypes
import os

_HUGE_BYTES = 2 << 20
_ON_X86 = os.uname().machine == "x86_64"  # elsewhere huge pages have other sizes, and code copied must be announced
# Not from the module mmap: its library would be one more for every fork to copy.
_READ, _WRITE, _EXECUTE = 1, 2, 4
_PRIVATE, _ANONYMOUS = 0x02, 0x20
_MAYMOVE, _FIXED = 1, 2
_MADV_HUGEPAGE = 14
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None)
_libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *3 * (ctypes.c_int,), ctypes.c_long)
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
_libc.madvise.argtypes = _libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def move_code() -> int:
    """Replace what can be replaced of the interpreter's code by a copy in huge pages; all else stays as it is.

    Where the host gives no huge page, or its policy no memory that is executed, nothing changes.

    Returns:
        The huge pages that hold code now.
    """
    moved = 0
    if _ON_X86:
        begin, end = _code()
        for place in range(-(-begin // _HUGE_BYTES) * _HUGE_BYTES, end - _HUGE_BYTES + 1, _HUGE_BYTES):
            moved += _move(place)
    return moved


def _code() -> tuple[int, int]:
    """Where the file that holds the interpreter is mapped without a gap, and not to be written."""
    inside = ctypes.cast(ctypes.pythonapi.Py_GetVersion, ctypes.c_void_p).value or 0
    begin = end = 0
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, mode, _, _, inode, *_ = line.split()
            low, high = (int(place, 16) for place in span.split("-"))
            if inode == "0" or mode[:2] != "r-":
                if begin <= inside < end:
                    break
                continue
            if low != end:
                begin = low
            end = high
    return begin, end


def _move(place: int) -> bool:
    """Have a huge page's worth of code at `place` be in one."""
    # Twice as much holds a huge page wherever it begins.
    around = _libc.mmap(None, 2 * _HUGE_BYTES, _READ | _WRITE, _PRIVATE | _ANONYMOUS, -1, 0)
    if around == _FAILED:
        return False
    copy = -(-around // _HUGE_BYTES) * _HUGE_BYTES
    _libc.madvise(copy, _HUGE_BYTES, _MADV_HUGEPAGE)
    ctypes.memmove(copy, place, _HUGE_BYTES)
    # One call puts the copy in the original's place: at no time is neither there.
    moved: bool = (
        _is_huge(copy)
        and _libc.mprotect(copy, _HUGE_BYTES, _READ | _EXECUTE) == 0
        and _libc.mremap(copy, _HUGE_BYTES, _HUGE_BYTES, _MAYMOVE | _FIXED, place) == place
    )
    _libc.munmap(around, 2 * _HUGE_BYTES)  # what of it is still there
    return moved


def _is_huge(place: int) -> bool:
    with open("/proc/self/smaps") as maps:
        for line in maps:
            if line.startswith(f"{place:x}-"):
                huge = next((line for line in maps if line.startswith("AnonHugePages:")), "AnonHugePages: 0 kB")
                return int(huge.split()[1]) << 10 == _HUGE_BYTES
    return False
