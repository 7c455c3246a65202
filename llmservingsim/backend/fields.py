"""Typed access to the keys of a file, with errors that name the file and the key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from llmservingsim.errors import TraceError, nearest, one_of


class Fields:
    """An object of a JSON or YAML file: the one at the top, or a section inside it."""

    def __init__(self, place: object, content: object) -> None:
        """Raises TraceError if ``content`` is no object; ``place`` is the file, and the section if it is one."""
        if not isinstance(content, dict):
            raise TraceError(f"{place}: expected an object of keys and values, not {type(content).__name__}")
        self._place = place
        self._content: dict[str, object] = {str(k): v for k, v in content.items()}

    def __contains__(self, key: str) -> bool:
        return key in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def require(self, key: str, holds: bool, expected: str) -> None:
        """Raise TraceError that ``key`` is not what is expected, unless ``holds``."""
        if not holds:
            raise TraceError(f"{self._place}: {key}: expected {expected}, not {self._content.get(key)!r}")

    def choice(self, key: str, value: str, known: Iterable[str]) -> None:
        """Raise TraceError unless ``value`` is one of the known ones."""
        names = list(known)
        if value not in names:
            raise TraceError(
                f"{self._place}: {key}: expected one of {one_of(names)}, not {value!r}{nearest(value, names)}"
            )

    def number(self, key: str, default: float | None) -> float:
        """Return a finite number; with no default the key must be there."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise TraceError(f"{self._place}: {key}: expected a number, not {value!r}")
        return value

    def integer(self, key: str, default: int | None) -> int:
        """Return an integer; with no default the key must be there."""
        value = self.number(key, default)
        if value != int(value):
            raise TraceError(f"{self._place}: {key}: expected an integer, not {value!r}")
        return int(value)

    def flag(self, key: str) -> bool:
        """Return whether a number is not 0; absent is off, and true and false count as 1 and 0."""
        if isinstance(value := self._get(key, 0), bool):
            return value
        return self.number(key, 0) != 0

    def section(self, key: str) -> Fields:
        """Return the object that stands under a key."""
        return Fields(f"{self._place}: {key}", self._get(key, None))

    def word(self, key: str, default: str | None) -> str:
        """Return a text that is not empty; with no default the key must be there."""
        value = self._get(key, default)
        if not isinstance(value, str) or not value:
            raise TraceError(f"{self._place}: {key}: expected a word, not {value!r}")
        return value

    def text(self, key: str, default: str | None, known: Iterable[str]) -> str:
        """Return one of the known words; with no default the key must be there."""
        value = self.word(key, default)
        self.choice(key, value, known)
        return value

    def array(self, key: str, kind: type) -> Sequence[int | float | str]:
        """Return a list of ``kind`` (int, float or str); floats may be written as integers."""
        values = self._get(key, None)
        if not isinstance(values, list):
            raise TraceError(f"{self._place}: {key}: expected a list of {kind.__name__}, not {values!r}")
        allowed = (int, float) if kind is float else (kind,)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise TraceError(f"{self._place}: {key}: expected a list of {kind.__name__}, but it holds {value!r}")
        return values

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
            raise TraceError(f"{self._place}: {key} is missing{nearest(key, self._content)}")
        return default
