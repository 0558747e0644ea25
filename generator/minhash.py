"""Near-duplicates of texts: band keys that similar texts are likely to share, and the similarity itself.

A text is the set of its runs of five words. Its MinHash signature (Broder 1997) is cut into bands, and texts that share
a band are compared by their true Jaccard similarity: bands propose, similarity decides. So the only errors are pairs
that share no band, half of those at the threshold itself and ever fewer above it.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import rensa

from generator.alike import Likeness

PERMUTATIONS = 128
WORDS = 5
SEED = 3407
VERSION = f"{rensa.RMinHash.ALGORITHM_VERSION}.2"
"""Of the signature, and of the way in which keys are made of it."""

_U32_BYTES = 4
# Words are letters, digits, underscores and all that is not ASCII. In bytes, this takes a third of a regular
# expression's time, which was most of all the time there is.
_SPACED = bytes(code if code >= 128 or chr(code).isalnum() or chr(code) == "_" else ord(" ") for code in range(256))


def shingles(text: str) -> list[bytes]:
    """The runs of five words of a text, in lower case, in their order; a shorter text is one run."""
    words = text.lower().encode("utf-8", "surrogatepass").translate(_SPACED).split()
    if len(words) < WORDS:
        return [b" ".join(words)]
    return list(map(b" ".join, zip(*(words[start:] for start in range(WORDS)), strict=False)))


def similarity(one: str, other: str) -> float:
    """The Jaccard similarity of two texts, from 0 to 1."""
    mine, theirs = set(shingles(one)), set(shingles(other))
    return len(mine & theirs) / len(mine | theirs)


@dataclass(frozen=True, slots=True)
class Bands:
    """How signatures are cut: `count` bands of `rows` numbers each."""

    count: int
    rows: int

    @classmethod
    def at(cls, threshold: float) -> Bands:
        """The cut whose chance to find a pair is nearest to one half at this similarity."""
        cuts = (cls(PERMUTATIONS // rows, rows) for rows in range(1, PERMUTATIONS + 1))
        return min(cuts, key=lambda cut: abs(0.5 - cut.chance(threshold)))

    def chance(self, similarity: float) -> float:
        """How likely two texts of this similarity share a band."""
        return float(1 - (1 - similarity**self.rows) ** self.count)

    def keys(self, text: str, name: str) -> Iterator[int]:
        """The band keys of a text: 64 bits, signed; those of different `name` do not meet."""
        sketch = rensa.RMinHash(PERMUTATIONS, SEED)
        sketch.update(shingles(text))
        signature = array("I", sketch.digest()).tobytes()
        size = self.rows * _U32_BYTES
        # A check sum tells enough: whoever shares a key is compared.
        for band, tag in enumerate(_tags(name, self)):
            yield tag | zlib.crc32(signature[band * size : (band + 1) * size])


def likeness(name: str, reason: str, text: Callable[[Any], str], threshold: float) -> Likeness[Any]:
    """Being alike in a text, from a similarity on."""
    bands = Bands.at(threshold)
    return Likeness(
        name,
        f"{VERSION} {threshold:g}",
        lambda row: bands.keys(text(row), name),
        reason,
        lambda one, other: similarity(text(one), text(other)) >= threshold,
    )


_TAGS: dict[tuple[str, Bands], list[int]] = {}


def _tags(name: str, bands: Bands) -> list[int]:
    """The upper half of each band's keys."""
    known = _TAGS.get((name, bands))
    if known is None:
        digests = (
            hashlib.blake2b(repr((name, bands.rows, band)).encode(), digest_size=4) for band in range(bands.count)
        )
        known = _TAGS[name, bands] = [int.from_bytes(digest.digest(), signed=True) << 32 for digest in digests]
    return known
