"""`selfalign` with FSDP2 on the CPU. Accelerate shards on accelerators alone and leaves a CPU with data parallelism.

Started by `accelerate launch`; what accelerate would decide on a GPU is decided here, and the rest is its own code.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

_begin = AcceleratorState.__init__


def _begin_sharded(self: Any, *arguments: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _begin(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _begin_sharded

if __name__ == "__main__":
    from selfalign import main

    main()
