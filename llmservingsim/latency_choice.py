"""Which source times the operators of an instance: what the run file asks for, found and opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from llmservingsim.config import LatencySpec
from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, catalogued_accelerators
from llmservingsim.errors import ConfigError, ProfileError
from llmservingsim.latency import (
    SHIPPED,
    BundleSource,
    CalibratedRoofline,
    DatabaseSource,
    KernelDatabase,
    LatencySource,
    MeasuredKernels,
    OlderBundleSource,
    OperatorTableSource,
    RooflineSource,
    find_bundle,
    fitted,
    has_bundles,
    is_older,
    shipped_model,
    system_of,
    variant_of,
)
from llmservingsim.libraries import Libraries
from llmservingsim.model import ParallelLayout
from llmservingsim.plugins import make_plugin

Make = Callable[[ModelSpec, ParallelLayout], LatencySource]


def is_catalogued(accelerator: AcceleratorSpec) -> bool:
    """Whether an accelerator is the catalogue's, but for what it draws."""
    known = catalogued_accelerators().get(accelerator.name)
    return known is not None and replace(accelerator, power=known.power) == known


@dataclass(frozen=True, slots=True)
class LatencyChoice:
    """Makes the sources of one instance.

    Attributes:
        spec: What the run file says.
        model: Of the instance; a drafter is another.
        hardware: As it names the accelerator.
        accelerator: Its catalogue entry.
        is_catalogued: Whether that is the catalogue's own; a user's may have the same name.
        kv_cache_dtype: Of cached keys and values.
        libraries: Where things are looked up.
    """

    spec: LatencySpec
    model: ModelSpec
    hardware: str
    accelerator: AcceleratorSpec
    is_catalogued: bool
    kv_cache_dtype: str
    libraries: Libraries

    def source(self, model: ModelSpec, layout: ParallelLayout, asked: str) -> LatencySource:
        """Return what times one rank of a model.

        Args:
            model: What is computed.
            layout: How it is cut.
            asked: Name of a source, ``auto`` or ``package.module:Class``.

        Raises:
            UserError: If there is no such source, or it does not have what is asked of it.
        """
        known: Mapping[str, Make] = {
            "bundle": self._bundle,
            "table": self._table,
            "aiconfigurator": self._database,
            "calibrated": self._calibrated,
            "roofline": self._roofline,
        }
        if asked == "auto":
            asked = self._automatic(model, layout)
        if asked in known:
            return known[asked](model, layout)
        arguments = (model, layout, self.accelerator)
        own: LatencySource = make_plugin("latency", asked, known, arguments, ("latency_ns", "provenance"))
        return own

    def _automatic(self, model: ModelSpec, layout: ParallelLayout) -> str:
        if self.spec.table:
            return "table"
        if self._has_bundle(model, layout):
            return "bundle"
        if has_bundles(*self._measured_device()[:2]):
            return "calibrated"
        return "bundle" if self.libraries.profiles else "roofline"  # the one or the other tells what is missing

    def _has_bundle(self, model: ModelSpec, layout: ParallelLayout) -> bool:
        if not self.libraries.profiles:
            return self.is_catalogued and self._shipped(model, layout) is not None
        try:
            find_bundle(self.libraries.profiles, self.hardware, model.name, self._variant(model), layout.tp)
        except ProfileError:
            return False
        return True

    def _measured_device(self) -> tuple[Sequence[Path], str, Sequence[Path]]:
        """Where bundles of the device may lie whatever their model: profile directories, its folder, model files."""
        if self.libraries.profiles:
            return self.libraries.profiles, self.hardware, self.libraries.models
        return (SHIPPED,) if self.is_catalogued else (), self.accelerator.name, ()

    def _calibrated(self, model: ModelSpec, layout: ParallelLayout) -> CalibratedRoofline:
        """A roofline fitted to the user's bundles of the device, or where there are none to those that ship."""
        roots, hardware, models = self._measured_device()
        fit = fitted(roots, hardware, self._variant(model), models, self.accelerator)
        return CalibratedRoofline(model, layout, self.accelerator, fit, self.kv_cache_dtype)

    def _shipped(self, model: ModelSpec, layout: ParallelLayout) -> str | None:
        return shipped_model(self.accelerator.name, model, self._variant(model), layout.tp)

    def _roofline(self, model: ModelSpec, layout: ParallelLayout) -> RooflineSource:
        return RooflineSource(model, layout, self.accelerator, self.kv_cache_dtype)

    def _bundle(self, model: ModelSpec, layout: ParallelLayout) -> LatencySource:
        """A bundle from the user's directories, or where there are none from those that ship."""
        if self.libraries.profiles:
            folder = find_bundle(self.libraries.profiles, self.hardware, model.name, self._variant(model), layout.tp)
        else:
            name = self._shipped(model, layout) or model.name
            folder = find_bundle((SHIPPED,), self.accelerator.name, name, self._variant(model), layout.tp)
        if is_older(folder):
            return OlderBundleSource(folder, model, layout, self.accelerator, skew=self.spec.skew)
        return BundleSource(
            folder,
            skew=self.spec.skew,
            experts_per_token=model.experts_per_token,
            expert_slices=layout.expert_slices,
        )

    def _table(self, model: ModelSpec, layout: ParallelLayout) -> LatencySource:
        spec = self.spec.table
        if spec is None or model != self.model:
            raise ConfigError("latency_source: a table times the model alone; expected 'roofline' or 'bundle' here")
        path, spec = self.libraries.base / spec.path, spec.for_ranks(layout.tp)
        return OperatorTableSource(path, spec, model, self._roofline(model, layout))

    def _database(self, model: ModelSpec, layout: ParallelLayout) -> DatabaseSource:
        stated = self.spec.database
        database = KernelDatabase(stated.system or system_of(self.accelerator.name), stated.engine, stated.version)
        kernels = MeasuredKernels(database, model, layout, self.kv_cache_dtype)
        return DatabaseSource(kernels, self.accelerator)

    def _variant(self, model: ModelSpec) -> str:
        return self.spec.variant or variant_of(model, self.kv_cache_dtype)
