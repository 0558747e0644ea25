"""Local, read-only pages over a database, and the same as one file."""
