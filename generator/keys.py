"""Row keys: a hash of all causes, equal wherever and whenever the same work is meant."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def key_of(kind: str, *causes: Any) -> str:
    """Hash JSON-able causes into 32 hexadecimal digits.

    Args:
        kind: what the key is for; keys of different kinds never meet.
        causes: everything that changes the result, in a fixed order. Mappings are hashed by sorted key.
    """
    return hashlib.blake2b(_encode([kind, *causes]).encode(), digest_size=16).hexdigest()


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode
