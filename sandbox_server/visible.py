"""Text that others wrote, made harmless to look at: what would steer a terminal or turn lines around is shown instead.

Programs and models write every kind of character: escape sequences that recolour, retitle or clear a terminal, and
direction marks with which code reads otherwise than it runs (Boucher and Anderson, "Trojan Source", 2021).
"""

from __future__ import annotations

from typing import Any

_DIRECTION = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_INVISIBLE = (0x00AD, 0x180E, 0x200B, 0x200C, *range(0x2060, 0x2065), 0xFEFF)
_SHOWN = (
    {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
    | {0x7F: "\u2421"}
    | {code: f"\u27e8U+{code:04X}\u27e9" for code in (*range(0x80, 0xA0), *_DIRECTION, *_INVISIBLE)}
)


def visible(text: str) -> str:
    """`text` with control, direction and invisible characters as symbols; tabs and line ends stay.

    A carriage return before a line end belongs to it and is left out.
    """
    return text.replace("\r\n", "\n").translate(_SHOWN)


def visible_in(value: Any) -> Any:
    """`value` with every text in it made visible, however deep in dicts and lists."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: visible_in(one) for key, one in value.items()}
    return [visible_in(one) for one in value] if isinstance(value, list) else value
