"""Return what a program left in its working directory. Runs when its last process is dead, so nothing moves any more.

Every file is opened relative to the tmpfs' own descriptor with openat2, through no link and onto no other file system,
and only regular files are read: a name can lead nowhere else, whatever the program made of it.
"""

import fnmatch
import os
import stat

from . import kernel, wire

_MAX_ENTRIES = 20_000
_MAX_DEPTH = 32
_MAX_FILES = 1_000
_MAX_REFUSED = 100
MAX_BYTES = 64 << 20
_CHUNK = 1 << 16


def main(box: int, request_fd: int, out: int) -> None:
    """Write one frame to `out`: ``files`` (path, executable) with their contents as blobs, and ``refused``."""
    size = os.fstat(request_fd).st_size
    header, _ = wire.unpack(os.pread(request_fd, size, 0))
    work = kernel.open_beneath(box, b"work", os.O_RDONLY | os.O_DIRECTORY)
    files, refused = choose(work, header["collect"])
    listed = [(name, executable) for name, executable, _ in files]
    _write_all(out, wire.pack_head({"files": listed, "refused": refused}, [size for _, _, size in files]))
    # One after another: a copy of them all would be charged to the program's memory.
    for name, _, size in files:
        fd = kernel.open_beneath(work, name.encode(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        while size:
            part = os.read(fd, min(size, _CHUNK))
            if not part:
                raise EOFError(name)
            _write_all(out, part)
            size -= len(part)
        os.close(fd)
    os._exit(0)


def choose(work: int, globs: "list[str]") -> "tuple[list[tuple[str, bool, int]], list[str]]":
    """Find the files below the descriptor `work` that match one of `globs`.

    Returns:
        Path, executable, size in bytes of each; and for those that cannot be returned the path with the reason.
    """
    patterns = [glob.split("/") for glob in globs]
    files: list[tuple[str, bool, int]] = []
    refused: list[str] = []
    budget = MAX_BYTES
    for path in sorted(_walk(work)):
        try:
            name = path.decode()
        except UnicodeDecodeError:
            refused.append(f"{path.decode(errors='backslashreplace')}: its name is not UTF-8")
            continue
        if not any(matches(name.split("/"), pattern) for pattern in patterns):
            continue
        problem = ""
        size, mode = 0, 0
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for its other end.
            fd = kernel.open_beneath(work, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                state = os.fstat(fd)
                size, mode = state.st_size, state.st_mode
                if not stat.S_ISREG(mode):
                    problem = "not a regular file"
                elif size > budget or len(files) >= _MAX_FILES:
                    problem = "too large" if size > budget else "too many files"
            finally:
                os.close(fd)
        except OSError as error:
            problem = "not a regular file" if error.errno in _NOT_REGULAR else str(error.strerror)
        if problem:
            refused.append(f"{name}: {problem}")
        else:
            budget -= size
            files.append((name, bool(mode & 0o100), size))
    if len(refused) > _MAX_REFUSED:
        refused[_MAX_REFUSED:] = [f"and {len(refused) - _MAX_REFUSED} more"]
    return files, refused


_NOT_REGULAR = (6, 18, 40)  # ENXIO: a socket or a device; EXDEV and ELOOP: a link


def matches(path: "list[str]", pattern: "list[str]") -> bool:
    """Does a path match a glob, both split at their slashes? ``**`` stands for any number of folders.

    Follows all places in the pattern at once: trying them one after another takes for ever with many ``**``.
    """
    places = _past_stars({0}, pattern)
    for part in path:
        here = {place for place in places if place < len(pattern)}
        stay = {place for place in here if pattern[place] == "**"}
        go_on = {place + 1 for place in here - stay if fnmatch.fnmatchcase(part, pattern[place])}
        places = _past_stars(stay | go_on, pattern)
    return len(pattern) in places


def _past_stars(places: "set[int]", pattern: "list[str]") -> "set[int]":
    for place, part in enumerate(pattern):
        if part == "**" and place in places:
            places.add(place + 1)
    return places


def _walk(work: int) -> "list[bytes]":
    """Paths of all that is no folder, breadth first, bounded in number and depth."""
    found: list[bytes] = []
    folders = [(b"", 0)]
    seen = 0
    for prefix, depth in folders:
        try:
            fd = kernel.open_beneath(work, prefix or b".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            names = os.listdir(fd)
            for text in names:
                seen += 1
                if seen > _MAX_ENTRIES:
                    return found
                name = os.fsencode(text)
                path = prefix + b"/" + name if prefix else name
                mode = os.stat(text, dir_fd=fd, follow_symlinks=False).st_mode
                if not stat.S_ISDIR(mode):
                    found.append(path)
                elif depth < _MAX_DEPTH:
                    folders.append((path, depth + 1))
        finally:
            os.close(fd)
    return found


def _write_all(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]
