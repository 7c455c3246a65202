"""Tables of what was worked out before, which may not grow with a run."""

from __future__ import annotations

from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

MOST_KEPT = 4096


def remember(table: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Keep a value; a full table begins anew."""
    if len(table) >= MOST_KEPT:
        table.clear()
    table[key] = value
