"""Markdown of the reference pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec


def literal(value: object) -> str:
    """Write a value as in a YAML file."""
    return f"`{msgspec.json.encode(value).decode()}`" if not isinstance(value, str) else f"`{value}`"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
