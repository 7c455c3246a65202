"""What a systolic array computes beside the product that was asked for.

A weight-stationary array of R rows and C columns holds a tile of R x C weights and lets rows of activations stream
through, one per cycle. A product of M rows, an inner size K and N columns takes

    ceil(K / R) * ceil(N / C) * max(M, L) cycles

because a tile at the edge is filled up with zeros, and because the next tile needs L cycles to come in beside the one
that computes. L is R where weights are shifted in row by row.

Sources: tiling as in SCALE-Sim (Samajdar et al., ISPASS 2020), double-buffered tiles as in Jouppi et al.,
"In-Datacenter Performance Analysis of a Tensor Processing Unit", ISCA 2017, section 2. Filling and draining the
pipeline once per product is left out, since tiles follow each other without a gap.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.model import OperatorCost


class SystolicArray(NamedTuple):
    """A device's array: how many rows and columns, and cycles until the next tile of weights is in."""

    rows: int
    columns: int
    load_cycles: int

    @classmethod
    def of(cls, accelerator: AcceleratorSpec) -> SystolicArray | None:
        """Return the array of a catalogue entry, None where it states none."""
        if accelerator.array_dims is None:
            return None
        rows, columns = accelerator.array_dims
        return cls(rows, columns, accelerator.array_load_cycles or rows)

    def padded(self, inner: int, columns: int) -> int:
        """Return how many weights the tiles of an ``inner x columns`` matrix hold, zeros included."""
        return _up(inner, self.rows) * _up(columns, self.columns)

    def product(self, cost: OperatorCost, rows: int, element_bytes: int) -> float:
        """Return the FLOPs of a product of so many rows, those on zeros and those lost to loading included.

        The product reads ``rows`` times its inner size and writes ``rows`` times its columns.
        """
        inner, columns = (size // (rows * element_bytes) for size in (cost.input_bytes, cost.output_bytes))
        zeros = self.padded(inner, columns) / (inner * columns)
        return cost.flops * zeros * max(rows, self.load_cycles) / rows

    def expert_pairs(
        self, model: ModelSpec, slices: int, pairs: NDArray[np.float64], experts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return as how many (token, expert) pairs those of so many activated experts count, each cut into slices."""
        hidden, width, wide = model.hidden_size, model.moe_intermediate_size // slices, 1 + model.gated_mlp
        tiles = self.padded(hidden, wide * width) + self.padded(width, hidden)
        zeros = tiles / ((1 + wide) * hidden * width)
        return np.asarray(np.maximum(pairs, experts * self.load_cycles) * zeros, dtype=np.float64)


def _up(size: int, tile: int) -> int:
    return -(-size // tile) * tile
