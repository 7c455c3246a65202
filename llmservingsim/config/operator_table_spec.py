"""The section of the run file that describes a table of operator times, such as a cycle-level simulator gives."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmservingsim.config.quantities import Count, QuantityError, check_quantities
from llmservingsim.errors import ConfigError
from llmservingsim.units import parse_frequency


class ColumnNames(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the columns of a table of operator times are called; columns beyond these are not read.

    Attributes:
        operator: Of the row.
        tokens: New tokens of the batch.
        sequences: Sequences of the batch; a table without attention may lack it, where ``lm_head`` and ``sampler`` then
            count in ``tokens``. An empty cell means 1.
        kv: KV length of each sequence, its new tokens included; a table without attention may lack it.
        context: What each sequence had cached before its new tokens; a table that has it needs no ``kv``.
        tensor_parallel_size: Ranks that the row was made for; a table that has it serves several sizes.
        time: Time or cycles.
    """

    operator: str = "operator"
    tokens: str = "tokens"
    sequences: str = "sequences"
    kv: str = "kv"
    context: str | None = None
    tensor_parallel_size: str | None = None
    time: str = "time"


class OperatorTableSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A CSV file with a row per operator and shape, for one rank. `docs/bring-your-own-latency.md` explains it.

    Attributes:
        path: Of the file, relative to the run file.
        where: Column -> what a row must say there to be read, numbers compared as numbers.
        columns: What its columns are called.
        unit: Of the column ``time``.
        clock: Of the device, as ``"940MHz"``; cycles need it.
        per: What a row times: one ``call`` of the operator, all of its calls in one ``layer`` (a block has two norms),
            or all of them in the ``model``.
        operators: For an operator of ours the names of the rows that make it up, whose times add up; none if a
            neighbour's rows hold it. An operator that does not stand here is looked up under its own name.
        tensor_parallel_size: Ranks that the table was made for; another size is refused. Of no use where a column
            says it.
        missing: What the table does not time comes from the ``roofline``, or is an ``error``.
    """

    path: str
    columns: ColumnNames = ColumnNames()
    where: dict[str, str | int | float | bool] = {}
    unit: Literal["ns", "us", "ms", "s", "cycles"] = "us"
    clock: str | None = None
    per: Literal["call", "layer", "model"] = "call"
    operators: dict[str, tuple[str, ...]] = {}
    tensor_parallel_size: Count | None = None
    missing: Literal["roofline", "error"] = "roofline"

    def __post_init__(self) -> None:
        check_quantities(self, parse_frequency, "clock")
        if self.unit == "cycles" and self.clock is None:
            raise QuantityError("clock: expected the device's frequency, such as '940MHz', because unit is cycles")
        if self.unit != "cycles" and self.clock is not None:
            raise QuantityError(f"clock: is of no use with unit {self.unit}; expected unit cycles, or no clock")
        if self.tensor_parallel_size is not None and self.columns.tensor_parallel_size is not None:
            raise QuantityError("tensor_parallel_size: is of no use beside columns.tensor_parallel_size; expected one")

    def for_ranks(self, tp: int) -> OperatorTableSpec:
        """Return the table as it is read for so many ranks.

        Raises:
            ConfigError: If it was made for another number.
        """
        column, made_for = self.columns.tensor_parallel_size, self.tensor_parallel_size or 1
        if column is not None:
            return msgspec.structs.replace(self, where={**self.where, column: tp})
        if made_for != tp:
            raise ConfigError(
                f"latency.table.tensor_parallel_size: the table was made for {made_for}, and the instance has {tp}; "
                "expected a table of its own for each size, or a column that says it"
            )
        return self

    @property
    def unit_ns(self) -> float:
        """Nanoseconds per unit of the column ``time``."""
        if self.clock is not None:
            return 1e9 / parse_frequency(self.clock)
        return {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}[self.unit]
