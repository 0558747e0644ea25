"""What runs inside the jail. Standard library only; nothing here may import the rest of the package.

The folder is mounted read-only in every jail. It runs on the runtime's interpreter (CPython 3.11 or newer), which need
not be the server's.

What still runs after a program has begun must not be made of what the program can replace. Such modules take their
built-in functions from `BUILTINS` (a function looks them up where its module's ``__builtins__`` pointed when it was
made), and bind what they need of other modules when they are imported.
"""

import builtins
import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

BUILTINS = dict(vars(builtins))

_hidden: dict[str, ModuleType] = {}


def hide() -> None:
    """Be nowhere that a program finds by a name. For the zygote, when all is imported."""
    for name in [name for name in sys.modules if name == __name__ or name.startswith(f"{__name__}.")]:
        _hidden[name] = sys.modules.pop(name)


@contextlib.contextmanager
def visible() -> Iterator[None]:
    """For an import of what few programs need, before the program runs."""
    sys.modules.update(_hidden)
    try:
        yield
    finally:
        hide()
