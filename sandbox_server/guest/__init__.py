"""What runs inside the jail. Standard library only; nothing here may import the rest of the package.

The folder is mounted read-only in every jail. It runs on the runtime's interpreter (CPython 3.11 or newer), which need
not be the server's.
"""
