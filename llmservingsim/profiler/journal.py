"""What was measured, a line per shot, kept beside the bundle so that a killed run goes on where it was.

The first line says under which conditions; every further line is one shot with the statistics of its samples. A line is
on the disk (``fsync``) before the next shot begins. A last line without its end, which a kill may leave, is dropped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmservingsim.errors import ProfileError, one_of, shown
from llmservingsim.profiler.sampling import Samples
from llmservingsim.profiler.shots import AXES, Shot, Table

VERSION = 1
NAME = "journal.jsonl"


class Entry(NamedTuple):
    """One measured shot.

    Attributes:
        shot: What was measured.
        operators: Statistics of each operator's time.
        seconds: Wall time it took, warm-up included.
        power_w: Mean power meanwhile, None where it cannot be read.
    """

    shot: Shot
    operators: Mapping[str, Samples]
    seconds: float
    power_w: float | None = None

    @property
    def noise(self) -> float:
        """Relative standard error of the sum of the operators, as if they erred together."""
        total = self.total_us
        return sum(samples.noise * samples.median for samples in self.operators.values()) / total if total else 0.0

    @property
    def total_us(self) -> float:
        """Sum of the operators' times."""
        return sum(samples.median for samples in self.operators.values())

    def us(self, operator: str) -> float:
        """Median time of an operator."""
        return self.operators[operator].median


class Journal:
    """The file, and what it holds.

    Args:
        path: Of the file; made with its folder where it is not there.
        conditions: Under which is measured; a journal made under others is refused.
        restart: Forget what is there.

    Attributes:
        entries: The middle measurement of each shot.
        seconds: Time spent measuring, over all runs.
        tries: How often each shot was measured.

    Raises:
        ProfileError: The file was made under other conditions, or a line in its middle is broken.
    """

    def __init__(self, path: Path, conditions: Mapping[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.conditions = json.loads(json.dumps(conditions))
        self.entries: dict[Shot, Entry] = {}
        self._measured: dict[Shot, list[Entry]] = {}
        self.seconds = 0.0
        self.tries: Counter[Shot] = Counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        if restart:
            path.unlink(missing_ok=True)
        kept = self._load() if path.is_file() else 0
        self._file = path.open("ab")
        self._file.truncate(kept)
        if not kept:
            self._append({"journal": VERSION, **self.conditions})

    def of(self, table: Table) -> list[Entry]:
        """The entries of a table, by rising coordinates."""
        found = [entry for shot, entry in self.entries.items() if shot.table is table]
        return sorted(found, key=lambda entry: entry.shot.at)

    def add(self, entry: Entry) -> None:
        """Write an entry; it survives whatever happens next."""
        self._append(
            {
                "table": str(entry.shot.table),
                "at": list(entry.shot.at),
                "seconds": round(entry.seconds, 3),
                **({} if entry.power_w is None else {"power_w": round(entry.power_w, 1)}),
                "operators": {name: _rounded(samples) for name, samples in entry.operators.items()},
            }
        )
        self._keep(entry)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _load(self) -> int:
        """Read the file; return the bytes of its whole lines."""
        whole, kept = [], 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):
                whole.append(line)
                kept += len(line)
        for number, line in enumerate(whole, start=1):
            table = self._parse(number, line)
            if number == 1:
                self._check_conditions(table)
            else:
                self._keep(self._entry(number, table))
        return kept

    def _keep(self, entry: Entry) -> None:
        """Of a shot measured again the middle measurement counts: a server finds the device as busy as it is."""
        self.seconds += entry.seconds
        self.tries[entry.shot] += 1
        measured = self._measured.setdefault(entry.shot, [])
        measured.append(entry)
        if len(measured) % 2:  # of an even number none is in the middle: that of the ones before stays
            self.entries[entry.shot] = sorted(measured, key=lambda each: each.total_us)[len(measured) // 2]

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            table = json.loads(line)
        except ValueError:
            table = None
        if not isinstance(table, dict):
            raise ProfileError(
                f"{self.path}:{number}: expected a JSON object, got {shown(line)}; --restart begins anew"
            )
        return table

    def _check_conditions(self, header: Mapping[str, Any]) -> None:
        there = {key: value for key, value in header.items() if key != "journal"}
        if header.get("journal") != VERSION:
            raise ProfileError(f"{self.path}:1: expected a journal of version {VERSION}; --restart begins anew")
        differing = sorted(key for key in {*there, *self.conditions} if there.get(key) != self.conditions.get(key))
        if differing:
            was = ", ".join(f"{key} {there.get(key)!r}" for key in differing)
            now = ", ".join(f"{key} {self.conditions.get(key)!r}" for key in differing)
            raise ProfileError(
                f"{self.path}: measured under other conditions: {was}; now {now}. Expected the same "
                f"{one_of(differing)}, another --output, or --restart, which forgets what was measured"
            )

    def _entry(self, number: int, table: Mapping[str, Any]) -> Entry:
        try:
            shot = Shot(Table(table["table"]), tuple(map(int, table["at"])))
            operators = {str(name): Samples(*map(float, found)) for name, found in table["operators"].items()}
            if len(shot.at) != len(AXES[shot.table]):
                raise ValueError
            return Entry(shot, operators, float(table["seconds"]), table.get("power_w"))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ProfileError(
                f"{self.path}:{number}: expected table, at, seconds and operators of a shot; --restart begins anew"
            ) from None

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())


def _rounded(samples: Samples) -> list[float]:
    return [float(f"{value:.6g}") for value in samples]
