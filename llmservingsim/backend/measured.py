"""Measured collectives from files: what the NCCL tests print, or a CSV of one's own."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from llmservingsim.backend.config import CollectiveName, MeasuredCollective
from llmservingsim.csv_rows import csv_lines
from llmservingsim.errors import ProfileError, cut, nearest, one_of
from llmservingsim.units import NS_PER_US, TIME_MAX_NS

CSV_COLUMNS = ("collective", "ranks", "size_bytes", "time_us")

_NAMES: Mapping[str, CollectiveName] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "all_to_all": "all_to_all",
}
_RANK = re.compile(r"#\s+Rank\s+(\d+)\s")
_COLUMNS = re.compile(r"#\s+size\s+count\s+type\b.*\btime\b")
_VALUES_PER_MODE = 4
"""time, algbw, busbw and #wrong, first out of place, then in place."""

_DIGITS = 18
"""More than any size in bytes has."""

_Samples = dict[tuple[CollectiveName, int], dict[int, list[float]]]


def read_measured(paths: Iterable[Path]) -> list[MeasuredCollective]:
    """Read files of measured collectives: ``.csv`` as `read_csv`, anything else as `read_nccl_tests`.

    Raises:
        ProfileError: If a file is wrong, or two of them measure the same collective over as many ranks.
    """
    found: dict[tuple[str, int], Path] = {}
    measured = []
    for path in paths:
        for one in read_csv(path) if path.suffix == ".csv" else [read_nccl_tests(path)]:
            other = found.setdefault((one.collective, one.ranks), path)
            if other is not path:
                raise ProfileError(
                    f"{path}: {one.collective} over {one.ranks} ranks is also measured in {other}; expected it once"
                )
            measured.append(one)
    return measured


def read_csv(path: Path) -> list[MeasuredCollective]:
    """Read ``collective,ranks,size_bytes,time_us``; sizes as graphs state them, so all_gather's is a rank's input.

    Raises:
        ProfileError: Naming file and line.
    """
    samples: _Samples = {}
    lines = csv_lines(path)
    _, header = next(lines, (1, []))
    if tuple(header) != CSV_COLUMNS:
        raise ProfileError(
            f"{path}: line 1: expected the header {','.join(CSV_COLUMNS)}, got {cut(','.join(header))!r}"
        )
    for line, cells in lines:
        where = f"{path}: line {line}"
        if len(cells) != len(CSV_COLUMNS):
            raise ProfileError(f"{where}: expected {','.join(CSV_COLUMNS)}, one cell for each")
        name = _collective(cells[0], where)
        ranks, size = _integer(cells[1], where, "ranks"), _integer(cells[2], where, "size_bytes")
        samples.setdefault((name, ranks), {}).setdefault(size, []).append(_time_us(cells[3], where))
    if not samples:
        raise ProfileError(f"{path}: holds no row below its header")
    return [_measured(path, key, times) for key, times in samples.items()]


def read_nccl_tests(
    path: Path, ranks: int | None = None, collective: CollectiveName | None = None
) -> MeasuredCollective:
    """Read what ``all_reduce_perf`` and its sisters print (NCCL tests); the out-of-place times count.

    The size printed for an all-gather is the whole buffer that every rank ends with, and becomes a rank's input as
    graphs state it: divided by the ranks. The others' printed size is what graphs state.

    Args:
        path: The saved output.
        ranks: Over how many; by default as many as there are ``# Rank`` lines.
        collective: Which one; by default what the output or else the file's name says.

    Raises:
        ProfileError: Naming file and line, if there is no table or it does not say what was measured.
    """
    lines = _lines(path)
    ranks = ranks or len({found[1] for line in lines if (found := _RANK.match(line))})
    if not ranks:
        raise ProfileError(f"{path}: there is no '# Rank' line; expected one per rank, as NCCL tests print them")
    name = collective or _tested(path, lines)
    header = next((line for line in lines if _COLUMNS.match(line)), None)
    if header is None:
        raise ProfileError(f"{path}: there is no line '# size count type ... time'; expected a table of NCCL tests")
    behind_time = _VALUES_PER_MODE * header.split().count("time")
    times: dict[int, list[float]] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or not words[0].isdecimal() or len(words) <= behind_time:
            continue
        where = f"{path}: line {number}"
        size = int(words[0]) // (ranks if name == "all_gather" else 1)
        if size:
            times.setdefault(size, []).append(_time_us(words[-behind_time], where))
    return _measured(path, (name, ranks), times)


def _tested(path: Path, lines: Sequence[str]) -> CollectiveName:
    """Which collective: from the comments of the output, or from the file's name."""
    comments = " ".join(line for line in lines if line.startswith("#"))
    found = re.search(r"(\w+)_perf\b", comments)
    stem = path.stem.lower().replace("-", "_")
    for name, meaning in _NAMES.items():
        if found[1] == name if found else name in stem:
            return meaning
    raise ProfileError(
        f"{path}: it does not say which collective it measured; expected a file name with one of {one_of(_NAMES)}"
    )


def _measured(
    path: Path, key: tuple[CollectiveName, int], times_us: Mapping[int, Sequence[float]]
) -> MeasuredCollective:
    """Sizes ascending; what was measured more than once counts with its mean."""
    if not times_us:
        raise ProfileError(f"{path}: expected at least one line with a size and a time, found none")
    sizes = sorted(times_us)
    times = [round(math.fsum(times_us[s]) / len(times_us[s]) * NS_PER_US) for s in sizes]
    return MeasuredCollective(*key, sizes, times)


def _collective(text: str, where: str) -> CollectiveName:
    known = get_args(CollectiveName)
    if text not in known:
        raise ProfileError(f"{where}: collective: {text!r} is none{nearest(text, known)}; expected {one_of(known)}")
    return cast("CollectiveName", text)


def _integer(text: str, where: str, column: str) -> int:
    if not text.strip().isdecimal() or len(text) > _DIGITS or not int(text):
        raise ProfileError(f"{where}: {column}: expected a positive integer, got {cut(text)!r}")
    return int(text)


def _time_us(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < TIME_MAX_NS / NS_PER_US:
        raise ProfileError(f"{where}: time: expected microseconds, got {cut(text)!r}")
    return value


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: cannot be read: {error}") from error
