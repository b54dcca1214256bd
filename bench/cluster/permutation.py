"""A random order of 0 to n - 1, computed where it is needed instead of kept in a table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6


class Permutation:
    """A bijection of the integers 0 to n - 1, both ways.

    Parameters
    ----------
    n : int, 1 to 2^32
    seed : int, default 0

    Notes
    -----
    An alternating Feistel network is a bijection of 0 to 2^b - 1, the smallest power of two that is
    at least n: a number consists of two halves, and each of the rounds changes one half by a random
    function of the other, here a table of about 2^(b/2) entries. Where the result is n or more, the
    network is applied again (cycle walking), which keeps it a bijection of those below n [1]_.

    References
    ----------
    .. [1] Black, Rogaway. Ciphers with arbitrary finite domains. CT-RSA 2002.
    """

    def __init__(self, n: int, seed: int = 0) -> None:
        self.n = n
        bits = max(2, (n - 1).bit_length())
        # Bits of the upper half and of the lower one.
        self._halves = (bits - bits // 2, bits // 2)
        upper, lower = (1 << half for half in self._halves)
        rng = np.random.default_rng(seed)
        self._rounds = [
            (upwards, rng.integers(0, upper, lower) if upwards else rng.integers(0, lower, upper))
            for upwards in [place % 2 == 0 for place in range(_ROUNDS)]
        ]

    def __call__(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return where numbers (any shape) are sent to."""
        return self._walked(numbers, self._rounds)

    def inverse(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return the numbers that are sent to the given ones."""
        return self._walked(numbers, self._rounds[::-1])

    def _walked(
        self, numbers: NDArray[np.integer], rounds: list[tuple[bool, NDArray[np.int64]]]
    ) -> NDArray[np.int64]:
        out = self._network(np.asarray(numbers, np.int64).ravel(), rounds)
        outside = np.flatnonzero(out >= self.n)
        while len(outside):
            out[outside] = self._network(out[outside], rounds)
            outside = outside[out[outside] >= self.n]
        return out.reshape(np.shape(numbers))

    def _network(
        self, numbers: NDArray[np.int64], rounds: list[tuple[bool, NDArray[np.int64]]]
    ) -> NDArray[np.int64]:
        shift = self._halves[1]
        upper, lower = numbers >> shift, numbers & ((1 << shift) - 1)
        for upwards, table in rounds:
            if upwards:
                upper ^= table[lower]
            else:
                lower ^= table[upper]
        return (upper << shift) | lower
