"""Measured kernels of the package ``aiconfigurator-core`` (NVIDIA, Apache-2.0; PyPI), an optional extra.

Its parquet files lie in ``systems/data/<system>/<family>/<engine>/<version>/<table>.parquet``, each row a kernel that
was run on the system with shapes and ``latency`` in milliseconds. They are read directly: files outlive interfaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ProfileError, nearest, one_of

PACKAGE = "aiconfigurator_core"
ENGINES = ("vllm", "sglang", "trtllm")

SYSTEMS: Mapping[str, str] = {
    "A100": "a100_sxm",
    "A100-40GB": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
    "L40S": "l40s",
    "RTXPRO6000": "rtx_pro_6000_server",
}
"""Accelerators of the catalogue -> systems on which kernels were measured."""

_BEFORE: Mapping[str, object] = {"window_size": 0}
"""Columns that older tables lack -> what all of their rows would say."""

Columns = dict[str, NDArray[Any]]


def database_folder() -> Path:
    """Where the package keeps its measurements.

    Raises:
        ProfileError: If it is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ProfileError(
            "the database of measured kernels is not installed; expected the extra: "
            "pip install 'llmservingsim[aiconfigurator]'"
        )
    return Path(found.submodule_search_locations[0]) / "systems" / "data"


class KernelDatabase:
    """The kernels of one system under one engine.

    Args:
        system: As ``h100_sxm``.
        engine: ``vllm``, ``sglang`` or ``trtllm``.
        version: Of the engine; by default the newest. What it lacks, a table or all rows that are asked for, is taken
            from the newest one before it that has it, or else the oldest after it.
        folder: Of the measurements, by default the installed package's.

    Attributes:
        versions: Of the engine, of which anything was measured, the oldest first.
        used: Table -> version that it was read from last.

    Raises:
        ProfileError: If the package, the system or the engine's version is not there.
    """

    def __init__(
        self, system: str, engine: str = "vllm", version: str | None = None, folder: Path | None = None
    ) -> None:
        root = folder if folder is not None else database_folder()
        known = sorted(path.parent.name for path in root.glob("*/gemm"))
        if system not in known:
            raise ProfileError(
                f"no kernels were measured on system {system!r}{nearest(system, known)}; {root} has {one_of(known, 24)}"
            )
        versions = {path.name for path in (root / system).glob(f"*/{engine}/*") if path.is_dir()}
        if not versions:
            raise ProfileError(
                f"no kernels of engine {engine!r} were measured on {system}{nearest(engine, ENGINES)}; expected one of "
                f"{one_of(sorted({p.name for p in (root / system).glob('*/*')}))}"
            )
        if version is not None and version not in versions:
            raise ProfileError(
                f"no kernels of {engine} {version} were measured on {system}{nearest(version, versions)}; expected one "
                f"of {one_of(sorted(versions, key=version_order), 24)}"
            )
        self.system, self.engine, self.version = system, engine, version
        self.versions = tuple(sorted(versions, key=version_order))
        self.used: dict[str, str] = {}
        self._folder = root / system

    def read(self, table: str, columns: Sequence[str], **where: object) -> Columns:
        """Return columns of the rows of a table that have the stated values; latency in microseconds.

        Args:
            table: As ``gemm/gemm_perf``.
            columns: Names, ``latency`` excepted, which always comes.
            **where: Column -> value; text is compared without case.

        Raises:
            ProfileError: If the file is missing, cannot be read or lacks a column.
        """
        found: Columns = {}
        for version in self._preferred(table):
            path = self._path(table, version)
            rows = self._matching(path, dict.fromkeys([*columns, *where, "latency"]), where)
            found = {name: rows[name].to_numpy() for name in [*columns, "latency"]}
            if rows.num_rows:
                self.used[table] = version
                break
        found["latency"] = found["latency"].astype(np.float64) * 1e3
        return found

    def has(self, table: str) -> bool:
        """Whether any version of the engine has a table."""
        return bool(self._versions(table))

    def _matching(self, path: Path, wanted: Iterable[str], where: Mapping[str, object]) -> Any:
        """Return the rows of a file that have the stated values."""
        import pyarrow.compute as pc

        rows = _load(path, path.stat().st_mtime_ns)
        there = rows.column_names
        if missing := [name for name in wanted if name not in there and where.get(name) != _BEFORE.get(name, "")]:
            raise ProfileError(f"{path}: has no column {missing[0]!r}; it has {one_of(there, 24)}")
        for name, value in where.items():
            if name in there:
                column = pc.utf8_lower(rows[name]) if isinstance(value, str) else rows[name]
                rows = rows.filter(pc.equal(column, value.lower() if isinstance(value, str) else value))
        return rows

    def _versions(self, table: str) -> list[str]:
        family, _, name = table.partition("/")
        return sorted(
            (p.parent.name for p in self._folder.glob(f"{family}/{self.engine}/*/{name}.parquet")), key=version_order
        )

    def _preferred(self, table: str) -> list[str]:
        """Versions that have a table: the newest that is not after the stated one, those before it, those after it."""
        versions = self._versions(table)
        if not versions:
            raise ProfileError(f"{self._folder}: {self.engine} has no table {table}")
        if self.version is None:
            return versions[::-1]
        limit = version_order(self.version)
        before = [v for v in versions if version_order(v) <= limit]
        return [*before[::-1], *versions[len(before) :]]

    def _path(self, table: str, version: str) -> Path:
        family, _, name = table.partition("/")
        return self._folder / family / self.engine / version / f"{name}.parquet"


@lru_cache(maxsize=16)
def _load(path: Path, modified_ns: int) -> Any:
    """Read a table; instances of a run, and runs of a sweep, ask for the same ones."""
    del modified_ns  # a file that has changed is another
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ProfileError(f"{path}: cannot be read as parquet: {error}") from error


def system_of(hardware: str) -> str:
    """Return the system on which kernels were measured for an accelerator of the catalogue.

    Raises:
        ProfileError: If there is none.
    """
    if hardware not in SYSTEMS:
        raise ProfileError(
            f"no kernels were measured on {hardware!r}{nearest(hardware, SYSTEMS)}; the database has "
            f"{one_of(SYSTEMS, 24)}. Expected latency.database.system, or latency.source roofline"
        )
    return SYSTEMS[hardware]


def version_order(version: str) -> tuple[tuple[int, int, str], ...]:
    """Compare versions by their numbers: 0.9 before 0.10, a release candidate (rc) before its release."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    return (*((1, int(p), "") if p.isdigit() else (0 if p in ("rc", "dev") else 2, 0, p) for p in parts), (1, -1, ""))
