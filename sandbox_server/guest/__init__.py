"""What runs inside the jail. Standard library only; nothing here may import the rest of the package.

The folder is mounted read-only in every jail. It runs on the runtime's interpreter (CPython 3.11 or newer), which need
not be the server's.

What still runs after a program has begun must not be made of what the program can replace. Such modules take their
built-in functions from `BUILTINS` (a function looks them up where its module's ``__builtins__`` pointed when it was
made), and bind what they need of other modules when they are imported.
"""

import builtins

BUILTINS = dict(vars(builtins))
