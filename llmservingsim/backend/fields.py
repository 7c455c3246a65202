"""Typed access to the keys of a file, with errors that name the file and the key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llmservingsim.errors import TraceError, nearest, one_of


class Fields:
    """The top-level object of a JSON or YAML file."""

    def __init__(self, path: Path, content: object) -> None:
        """Raises TraceError if ``content`` is no object."""
        if not isinstance(content, dict):
            raise TraceError(f"{path}: expected an object of keys and values, not {type(content).__name__}")
        self._path = path
        self._content: dict[str, object] = {str(k): v for k, v in content.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def require(self, key: str, holds: bool, expected: str) -> None:
        """Raise TraceError that ``key`` is not what is expected, unless ``holds``."""
        if not holds:
            raise TraceError(f"{self._path}: {key}: expected {expected}, not {self._content.get(key)!r}")

    def choice(self, key: str, value: str, known: Iterable[str]) -> None:
        """Raise TraceError unless ``value`` is one of the known ones."""
        names = list(known)
        if value not in names:
            raise TraceError(
                f"{self._path}: {key}: expected one of {one_of(names)}, not {value!r}{nearest(value, names)}"
            )

    def number(self, key: str, default: float | None) -> float:
        """Return a finite number; with no default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TraceError(f"{self._path}: {key}: expected a number, not {value!r}")
        return value

    def integer(self, key: str, default: int | None) -> int:
        """Return an integer; with no default the key must be there."""
        value = self.number(key, default)
        if value != int(value):
            raise TraceError(f"{self._path}: {key}: expected an integer, not {value!r}")
        return int(value)

    def text(self, key: str, default: str | None, known: Iterable[str]) -> str:
        """Return one of the known words; with no default the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise TraceError(f"{self._path}: {key}: expected a word, not {value!r}")
        self.choice(key, value, known)
        return value

    def array(self, key: str, kind: type) -> Sequence[int | float | str]:
        """Return a list of ``kind`` (int, float or str); floats may be written as integers."""
        values = self._get(key, None)
        if not isinstance(values, list):
            raise TraceError(f"{self._path}: {key}: expected a list of {kind.__name__}, not {values!r}")
        allowed = (int, float) if kind is float else (kind,)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise TraceError(f"{self._path}: {key}: expected a list of {kind.__name__}, but it holds {value!r}")
        return values

    def _get(self, key: str, default: object) -> object:
        if key in self._content:
            return self._content[key]
        if default is None:
            raise TraceError(f"{self._path}: {key} is missing{nearest(key, self._content)}")
        return default
