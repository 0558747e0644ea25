"""An exact global shuffle that is never stored: a keyed permutation of positions.

A Feistel network over the smallest even number of bits that holds the size, walked until it lands inside (cycle
walking: Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), is a bijection whatever its round function,
so every position comes exactly once an epoch, in an order that is a pure function of seed and epoch, in constant
memory.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]

ROUNDS = 8


class Permutation:
    """A pseudo-random bijection of ``range(size)`` onto itself.

    Args:
        size: number of positions, from 1 to 2**62.
        key: integers that choose the permutation, e.g. seed and epoch.
    """

    def __init__(self, size: int, *key: int) -> None:
        if not 1 <= size <= 1 << 62:
            raise ValueError(f"size must be between 1 and 2**62, got {size}")
        self.size = size
        self._half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half_bits)) - 1)
        digest = hashlib.blake2b(repr((size, *key)).encode(), digest_size=8 * ROUNDS).digest()
        self._round_keys = np.frombuffer(digest, dtype="<u8")

    def __call__(self, indices: npt.ArrayLike) -> Positions:
        """Where each of `indices` goes; any shape, values in ``range(size)``."""
        values = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if values.size and (values.min() < 0 or values.max() >= self.size):
            raise IndexError(f"indices must lie in range({self.size})")
        images = self._network(values.astype(np.uint64))
        while (outside := images >= self.size).any():
            images[outside] = self._network(images[outside])
        return images.astype(np.int64)

    def _network(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = values >> self._half_bits, values & self._mask
        for key in self._round_keys:
            left, right = right, left ^ (_mix(right ^ key) & self._mask)
        return (left << self._half_bits) | right


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
