"""The section of the run file that describes a table of operator times, such as a cycle-level simulator gives."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmservingsim.config.quantities import Count, QuantityError, check_quantities
from llmservingsim.units import parse_frequency


class ColumnNames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the columns of a table of operator times are called; columns beyond these are not read.

    Attributes:
        operator: Of the row.
        tokens: New tokens of the batch.
        sequences: Sequences of the batch; a table without attention may lack it, where ``lm_head`` and ``sampler`` then
            count in ``tokens``. An empty cell means 1.
        kv: KV length of each sequence, its new tokens included; a table without attention may lack it.
        time: Time or cycles.
    """

    operator: str = "operator"
    tokens: str = "tokens"
    sequences: str = "sequences"
    kv: str = "kv"
    time: str = "time"


class OperatorTableSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A CSV file with a row per operator and shape, for one rank. `docs/bring-your-own-latency.md` explains it.

    Attributes:
        path: Of the file, relative to the run file.
        columns: What its columns are called.
        unit: Of the column ``time``.
        clock: Of the device, as ``"940MHz"``; cycles need it.
        per: What a row times: one ``call`` of the operator, all of its calls in one ``layer`` (a block has two norms),
            or all of them in the ``model``.
        operators: For an operator of ours the names of the rows that make it up, whose times add up; none if a
            neighbour's rows hold it. An operator that does not stand here is looked up under its own name.
        tensor_parallel_size: Ranks that the table was made for; another size is refused.
        missing: What the table does not time comes from the ``roofline``, or is an ``error``.
    """

    path: str
    columns: ColumnNames = ColumnNames()
    unit: Literal["ns", "us", "ms", "s", "cycles"] = "us"
    clock: str | None = None
    per: Literal["call", "layer", "model"] = "call"
    operators: dict[str, tuple[str, ...]] = {}
    tensor_parallel_size: Count = 1
    missing: Literal["roofline", "error"] = "roofline"

    def __post_init__(self) -> None:
        check_quantities(self, parse_frequency, "clock")
        if self.unit == "cycles" and self.clock is None:
            raise QuantityError("clock: expected the device's frequency, such as '940MHz', because unit is cycles")
        if self.unit != "cycles" and self.clock is not None:
            raise QuantityError(f"clock: is of no use with unit {self.unit}; expected unit cycles, or no clock")

    @property
    def unit_ns(self) -> float:
        """Nanoseconds per unit of the column ``time``."""
        if self.clock is not None:
            return 1e9 / parse_frequency(self.clock)
        return {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}[self.unit]
