"""What can be measured: a table of the bundle and a place in it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Table(StrEnum):
    """A table, with the coordinates of its shots in `AXES`."""

    DENSE = "dense"
    PER_SEQUENCE = "per_sequence"
    DECODE = "decode"
    PREFILL = "prefill"
    MIXED = "mixed"
    MOE = "moe"
    SKEW = "skew"
    STEP = "step"


AXES: Mapping[Table, tuple[str, ...]] = {
    Table.DENSE: ("tokens",),
    Table.PER_SEQUENCE: ("sequences",),
    Table.DECODE: ("sequences", "kv"),
    Table.PREFILL: ("chunks", "chunk", "context"),
    Table.MIXED: ("chunk", "context", "decodes", "kv"),
    Table.MOE: ("activated_experts", "tokens"),
    Table.SKEW: ("sequences", "long_sequences", "long_kv", "kv"),
    Table.STEP: ("sequences", "kv"),
}
"""Names of the coordinates. A KV length counts the new token of a decode, a context what stood before a chunk."""


class Shot(NamedTuple):
    """One measurement: ``table`` at the coordinates ``at``, in the order of `AXES`."""

    table: Table
    at: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """New tokens of the batch."""
        match self.table:
            case Table.PREFILL:
                return self.at[0] * self.at[1]
            case Table.MIXED:
                return self.at[0] + self.at[2]
            case Table.MOE:
                return self.at[1]
            case _:
                return self.at[0]

    def __str__(self) -> str:
        places = ", ".join(f"{name} {value}" for name, value in zip(AXES[self.table], self.at, strict=True))
        return f"{self.table}: {places}"
