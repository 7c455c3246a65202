"""Matrix products measured over (rows, output width, input width)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ProfileError

Floats = NDArray[np.float64]

_LEVER = 4.0
"""Beyond the widest product the line goes on that comes from one this many times narrower."""


class GemmTable:
    """Times of ``[m, k] x [k, n]`` products, linear in n and k between measured widths.

    Both what a product reads and what it computes are linear in each width. Left out in turn, widths of 1,024 and more
    are met within 4.1 to 4.9 % on average (H100, H200, B200, RTX PRO 6000; their own scatter included); forms that
    follow a roofline or the logarithms of the widths are no better. Beyond the widest the line from a quarter of it
    goes on, and below the narrowest its time holds.

    Args:
        m, n, k: Of the measured products, shape ``[points]``.
        times: In any unit.
        what: For messages.

    Attributes:
        rows: Numbers of rows that were measured.
        fastest: Least time of all products.

    Raises:
        ProfileError: If there are none.
    """

    def __init__(self, m: Floats, n: Floats, k: Floats, times: Floats, what: str) -> None:
        if not len(times):
            raise ProfileError(f"{what}: no matrix product was measured")
        self.rows, self._n, self._k = np.unique(m), np.unique(n), np.unique(k)
        cube = np.full((len(self._n), len(self._k), len(self.rows)), np.nan)
        cube[np.searchsorted(self._n, n), np.searchsorted(self._k, k), np.searchsorted(self.rows, m)] = times
        self._cube = cube
        self.fastest = float(np.min(times))

    def times(self, n: float, k: float) -> tuple[Sequence[float], Sequence[float]]:
        """Return the numbers of rows that are known for a product of these widths, and their times."""
        total = np.zeros(len(self.rows))
        for at_n, share_n in _around(self._n, n):
            for at_k, share_k in _around(self._k, k):
                total += share_n * share_k * self._cube[at_n, at_k]
        known = np.isfinite(total) & (total > 0)
        if not known.any():
            raise ProfileError(f"no product with widths near n {n:.0f}, k {k:.0f} was measured")
        return self.rows[known].tolist(), total[known].tolist()

    def covers(self, n: float, k: float) -> bool:
        """Whether the widths lie within the measured ones."""
        return bool(self._n[0] <= n <= self._n[-1] and self._k[0] <= k <= self._k[-1])


def _around(axis: Floats, value: float) -> list[tuple[int, float]]:
    """Return the points of an axis that a value lies between, and their shares."""
    if len(axis) == 1 or value <= axis[0]:
        return [(0, 1.0)]
    high = min(int(np.searchsorted(axis, value)), len(axis) - 1)
    if axis[high] == value:
        return [(high, 1.0)]
    low = high - 1
    if value > axis[high]:  # two neighbours would give the scatter of measurement a long lever
        low = min(low, max(0, int(np.searchsorted(axis, axis[high] / _LEVER, side="right")) - 1))
    share = float((value - axis[low]) / (axis[high] - axis[low]))
    return [(low, 1.0 - share), (high, share)]
