"""Typed access to the keys of a file, with errors that name the file and the key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from llmservingsim.errors import TraceError, cut, nearest, one_of, shown

_INTEGERS_END = 2**63
"""The backend counts in 64 bits with a sign."""


class Fields:
    """An object of a JSON or YAML file: the one at the top, or a section inside it."""

    def __init__(self, place: object, content: object) -> None:
        """Raises TraceError if ``content`` is no object; ``place`` is the file, and the section if it is one."""
        if not isinstance(content, dict):
            raise TraceError(f"{place}: expected an object of keys and values, not {type(content).__name__}")
        self._place = place
        self._content: dict[str, object] = {k if isinstance(k, str) else shown(k): v for k, v in content.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def require(self, key: str, holds: bool, expected: str) -> None:
        """Raise TraceError that ``key`` is not what is expected, unless ``holds``."""
        if not holds:
            raise TraceError(f"{self._at(key)}: expected {expected}, not {shown(self._content.get(key))}")

    def choice(self, key: str, value: str, known: Iterable[str]) -> None:
        """Raise TraceError unless ``value`` is one of the known ones."""
        names = list(known)
        if value not in names:
            raise TraceError(
                f"{self._at(key)}: expected one of {one_of(names)}, not {shown(value)}{nearest(value[:100], names)}"
            )

    def number(self, key: str, default: float | None) -> float:
        """Return a finite number; with no default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TraceError(f"{self._at(key)}: expected a number, not {shown(value)}")
        self._check_size(key, value)
        return value

    def integer(self, key: str, default: int | None) -> int:
        """Return an integer; with no default the key must be there."""
        value = self.number(key, default)
        if value != int(value):
            raise TraceError(f"{self._at(key)}: expected an integer, not {value!r}")
        self._check_size(key, int(value))
        return int(value)

    def truncated(self, key: str, default: float | None) -> int:
        """Return a number that is not negative without its fraction; with no default the key must be there."""
        value = self.number(key, default)
        self.require(key, value >= 0, "a number that is not negative")
        self._check_size(key, int(value))
        return int(value)

    def flag(self, key: str) -> bool:
        """Return whether a number is not 0; absent is off, and true and false count as 1 and 0."""
        if isinstance(value := self._get(key, 0), bool):
            return value
        return self.number(key, 0) != 0

    def section(self, key: str) -> Fields:
        """Return the object that stands under a key."""
        return Fields(self._at(key), self._get(key, None))

    def word(self, key: str, default: str | None) -> str:
        """Return a text that is not empty; with no default the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, str) or not value or not value.isprintable():
            raise TraceError(f"{self._at(key)}: expected a word, not {shown(value)}")
        return value

    def text(self, key: str, default: str | None, known: Iterable[str]) -> str:
        """Return one of the known words; with no default the key must be there."""
        value = self.word(key, default)
        self.choice(key, value, known)
        return value

    def array(self, key: str, kind: type) -> Sequence[int | float | str]:
        """Return a list of ``kind`` (int, float or str: a word); floats may be written as integers."""
        values = self._get(key, None)
        if not isinstance(values, list):
            raise TraceError(f"{self._at(key)}: expected a list of {kind.__name__}, not {shown(values)}")
        allowed = (int, float) if kind is float else (kind,)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise TraceError(f"{self._at(key)}: expected a list of {kind.__name__}, but it holds {shown(value)}")
            if isinstance(value, int | float):
                self._check_size(key, value)
            else:
                Fields(self._place, {key: value}).word(key, None)
        return values

    def lists(self, key: str) -> list[list[int]]:
        """Return a list of lists of integers; none if the key is not there."""
        values = self._get(key, ())
        if not isinstance(values, list | tuple):
            raise TraceError(f"{self._at(key)}: expected a list of lists of int, not {shown(values)}")
        return [[int(number) for number in Fields(self._place, {key: value}).array(key, int)] for value in values]

    def one_or_more(self, key: str, kind: type) -> Sequence[int | float | str]:
        """Do as `array`, but take a single value for a list of it."""
        value = self._get(key, None)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return Fields(self._place, {key: [value]}).array(key, kind)
        return self.array(key, kind)

    def _get(self, key: str, default: object) -> object:
        if key in self._content:
            return self._content[key]
        if default is None:
            raise TraceError(f"{self._place}: {key} is missing{nearest(key, map(cut, self._content))}")
        return default

    def _at(self, key: str) -> str:
        """Return the place of a key, which may be any text of the file."""
        return f"{self._place}: {cut(key)}"

    def _check_size(self, key: str, value: float) -> None:
        """Raise TraceError if a number is none, or an integer that no integer of the backend holds."""
        end = _INTEGERS_END if isinstance(value, int) else math.inf
        if not -end < value < end:
            kind = "an integer of 64 bits" if isinstance(value, int) else "a number"
            raise TraceError(f"{self._at(key)}: expected {kind}, not {shown(value)}")
