"""Everything that bundles say of one device, model by model: what a calibrated roofline is fitted to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, find_model
from llmservingsim.errors import ModelError, ProfileError, located, nearest, one_of
from llmservingsim.latency.bundle import PREFILL_COLUMNS, PREFILLS, read_attention, read_experts
from llmservingsim.latency.bundle_rows import read_points, read_rows
from llmservingsim.latency.demand import DECODES, EXPERTS, Demand, Demands, class_of
from llmservingsim.latency.find import VARIANTS
from llmservingsim.latency.source import ExpertWork
from llmservingsim.latency.tile_attention import ChunkRows, Heads
from llmservingsim.model import IndexedBy, Operator, OperatorKind, ParallelLayout, Work, check_layout, model_operators
from llmservingsim.units import NS_PER_S, NS_PER_US

Floats = NDArray[np.float64]
Owners = frozenset[str]


class Bundle(NamedTuple):
    """A ``tp<N>`` folder and what was measured there.

    Attributes:
        folder: Where it lies.
        model: What was computed.
        layout: How it was cut.
        variant: Folder of its precision.
        computed: Operators that come from the roofline, not from a measurement.
        told: What its ``meta.yaml`` says.
    """

    folder: Path
    model: ModelSpec
    layout: ParallelLayout
    variant: str
    computed: frozenset[str]
    told: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Points:
    """Measured runs of one class of operators.

    Attributes:
        demand: What each asked of the device; arrays of shape ``[points]``.
        seconds: What each took.
        owners: Models whose bundles have this very point; several where a database serves them all.
    """

    demand: Demand
    seconds: Floats
    owners: tuple[Owners, ...]

    def chosen(self, wanted: Callable[[Owners], bool]) -> Points:
        """Return the points of some owners."""
        mask = np.array([wanted(owners) for owners in self.owners], dtype=bool)
        columns = Demand(*(np.asarray(column)[mask] for column in self.demand))
        return Points(columns, self.seconds[mask], tuple(filter(wanted, self.owners)))

    @classmethod
    def joined(cls, parts: Sequence[Points]) -> Points:
        """Return the points of several classes as one."""
        columns = (np.concatenate(column) for column in zip(*(part.demand for part in parts), strict=True))
        seconds = np.concatenate([part.seconds for part in parts])
        return cls(Demand(*columns), seconds, tuple(owners for part in parts for owners in part.owners))


@dataclass(frozen=True, slots=True)
class Measured:
    """All that some bundles of one device say.

    Attributes:
        accelerator: The device.
        bundles: Whose points these are.
        points: By class of operators.
        chunks: Attention of batches with prompt chunks.
    """

    accelerator: AcceleratorSpec
    bundles: tuple[Bundle, ...]
    points: Mapping[str, Points]
    chunks: tuple[ChunkRows, ...]

    @property
    def models(self) -> list[str]:
        """Models that were measured."""
        return sorted({bundle.model.name for bundle in self.bundles})

    def of(self, model: str) -> Measured:
        """Return what was measured of a model."""
        return self._chosen(lambda owners: model in owners)

    def without(self, model: str) -> Measured:
        """Return what was measured, less all that the model has, be it alone or as another has it."""
        return self._chosen(lambda owners: model not in owners)

    def _chosen(self, wanted: Callable[[Owners], bool]) -> Measured:
        points = {name: points.chosen(wanted) for name, points in self.points.items()}
        return Measured(
            self.accelerator,
            tuple(bundle for bundle in self.bundles if wanted(frozenset({bundle.model.name}))),
            {name: kept for name, kept in points.items() if kept.owners},
            tuple(table for table in self.chunks if wanted(table.owners)),
        )

    @classmethod
    def read(cls, bundles: Sequence[Bundle], accelerator: AcceleratorSpec) -> Measured:
        """Read bundles; points and tables that several of them share count once.

        Raises:
            ProfileError: If a file is missing or malformed.
        """
        owners: dict[tuple[str, Demand, float], set[str]] = {}
        tables: dict[tuple[Heads, bytes], tuple[ChunkRows, set[str]]] = {}
        for bundle in bundles:
            name = bundle.model.name
            for operator_class, demand, seconds in _points(bundle, accelerator):
                owners.setdefault((operator_class, demand, seconds), set()).add(name)
            if not bundle.model.is_mla:
                rows = _chunk_rows(bundle)
                tables.setdefault((rows.heads, rows.rows.tobytes()), (rows, set()))[1].add(name)
        by_class: dict[str, list[tuple[Demand, float, Owners]]] = {}
        for (operator_class, demand, seconds), names in owners.items():
            by_class.setdefault(operator_class, []).append((demand, seconds, frozenset(names)))
        points = {operator_class: _gathered(found) for operator_class, found in by_class.items()}
        chunks = tuple(rows._replace(owners=frozenset(names)) for rows, names in tables.values())
        return cls(accelerator, tuple(bundles), points, chunks)


def find_bundles(roots: Sequence[Path], hardware: str, models: Sequence[Path] = ()) -> list[Bundle]:
    """Return all bundles of a device, newer layout only; models that nobody knows are passed over.

    Args:
        roots: Profile directories.
        hardware: Name of its folder there.
        models: Directories of model files, beside the catalogue.

    Raises:
        ProfileError: If there is none.
    """
    found: list[Bundle] = []
    for root, folder in _folders(roots, hardware):
        organisation, name, variant, degree = folder.relative_to(root / hardware).parts
        try:
            model = find_model(f"{organisation}/{name}", models)
        except ModelError:
            continue
        with located(str(folder)):
            layout = ParallelLayout(int(degree.removeprefix("tp")))
            check_layout(model, layout)
        found.append(Bundle(folder, _in_precision(model, variant), layout, variant, *_meta(folder)))
    if not found:
        present = {path.name for root in roots if root.is_dir() for path in root.iterdir() if path.is_dir()}
        where = ", ".join(map(str, roots)) or "no profile directory was given"
        has = f"there are bundles of {one_of(present)}" if present else "there are no bundles at all"
        raise ProfileError(
            f"{where}: no bundle of a known model on {hardware}{nearest(hardware, present)}; {has}. Expected "
            f"{hardware}/<org>/<model>/<variant>/tp<N>/dense.csv; give --profiles DIR, or set latency.source to "
            "'roofline'"
        )
    return found


def has_bundles(roots: Sequence[Path], hardware: str) -> bool:
    """Whether there is a bundle of a device, of whatever model."""
    return next(_folders(roots, hardware), None) is not None


def _folders(roots: Sequence[Path], hardware: str) -> Iterator[tuple[Path, Path]]:
    """Yield profile directory and ``tp<N>`` folder of all bundles of a device."""
    for root in roots:
        for path in sorted((root / hardware).glob("*/*/*/tp[0-9]*/dense.csv")):
            if path.parent.name.removeprefix("tp").isdecimal():
                yield root, path.parent


def _in_precision(model: ModelSpec, variant: str) -> ModelSpec:
    """Return the model as a bundle of some precision ran it; precisions by other names are the model's own."""
    dtypes = [dtype for dtype, folder in VARIANTS.items() if folder == variant]
    return msgspec.structs.replace(model, dtype=dtypes[0]) if dtypes else model


def _meta(folder: Path) -> tuple[frozenset[str], Mapping[str, object]]:
    """Return the operators that were not measured, and all that ``meta.yaml`` says."""
    path = folder / "meta.yaml"
    if not path.is_file():
        return frozenset(), {}
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return frozenset(map(str, told.get("from_roofline", ()))), told
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ProfileError(f"{path}: expected a table, its from_roofline a list of operators: {error}") from error


def _points(bundle: Bundle, accelerator: AcceleratorSpec) -> Iterator[tuple[str, Demand, float]]:
    """Yield class, demand and seconds of every measured run, prompt chunks apart."""
    demands = Demands(bundle.model, bundle.layout, accelerator)
    operators = {op.name: op for op in model_operators(bundle.model) if op.name not in bundle.computed}
    for file, sizes in (("dense.csv", IndexedBy.TOKENS), ("per_sequence.csv", IndexedBy.SEQUENCES)):
        for layer, measured in read_points(bundle.folder / file, sizes).items():
            operator = operators.get(layer)
            if operator is None or operator.indexed_by is not sizes or operator.kind is OperatorKind.MOE:
                continue
            for size, time_us in measured:
                if size >= 1:
                    demand = demands.of(operator, Work(int(size), int(size)))
                    yield class_of(operator), demand, time_us * NS_PER_US / NS_PER_S
    attention = operators.get("attention")
    if attention is not None and not bundle.model.is_mla:
        yield from _decode_points(bundle, demands, attention)
    if (experts := operators.get("moe")) is not None:
        yield from _expert_points(bundle, demands, experts)


def _decode_points(bundle: Bundle, demands: Demands, attention: Operator) -> Iterator[tuple[str, Demand, float]]:
    rows = read_attention(bundle.folder)
    for count, kv, time_us in rows[(rows[:, 0] == 0) & (rows[:, 2] > 0), 2:].tolist():
        keys = int(count * kv)
        work = Work(int(count), int(count), keys, keys)
        yield DECODES, demands.of(attention, work), time_us * NS_PER_US / NS_PER_S


def _expert_points(bundle: Bundle, demands: Demands, experts: Operator) -> Iterator[tuple[str, Demand, float]]:
    """Experts are measured whole, in the folder of one rank."""
    whole = Demands(bundle.model, ParallelLayout(), demands.accelerator)
    folders = (bundle.folder, bundle.folder.parent / "tp1")
    path = next((folder / "moe.csv" for folder in folders if (folder / "moe.csv").is_file()), None)
    if path is None:
        return
    for tokens, activated, time_us in read_experts(path).tolist():
        pairs = np.array(tokens * bundle.model.experts_per_token)
        demand = whole.of_experts(experts, ExpertWork(int(tokens), int(tokens), pairs, np.array(activated)))
        yield EXPERTS, Demand(*(float(value) for value in demand)), time_us * NS_PER_US / NS_PER_S


def _chunk_rows(bundle: Bundle) -> ChunkRows:
    heads = Heads.of(bundle.model, bundle.layout)
    path = bundle.folder / PREFILLS
    if path.is_file():
        tiles = bundle.told.get("tiles_per_decode", 0.0)
        shared = float(tiles) if isinstance(tiles, int | float) else 0.0
        return ChunkRows(heads, read_rows(path, PREFILL_COLUMNS), shared)
    rows = read_attention(bundle.folder)
    return ChunkRows(heads, rows[rows[:, 0] > 0], 1.0)


def _gathered(found: Sequence[tuple[Demand, float, Owners]]) -> Points:
    columns = np.array([demand for demand, _, _ in found], dtype=np.float64).T
    seconds = np.array([seconds for _, seconds, _ in found])
    return Points(Demand(*columns), seconds, tuple(owners for _, _, owners in found))
