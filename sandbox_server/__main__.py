"""`python -m sandbox_server`: the commands of this floor alone, for a host that has nothing else."""

from __future__ import annotations

from sandbox_server.cli import sandbox

if __name__ == "__main__":
    sandbox(prog_name="python -m sandbox_server")
