"""Which source times the operators of an instance: what the run file asks for, found and opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from llmservingsim.config import LatencySpec
from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, catalogued_accelerators
from llmservingsim.errors import ConfigError
from llmservingsim.latency import (
    SHIPPED,
    VARIANTS,
    BundleSource,
    DatabaseSource,
    KernelDatabase,
    LatencySource,
    MeasuredKernels,
    OlderBundleSource,
    OperatorTableSource,
    RooflineSource,
    find_bundle,
    is_older,
    shipped_model,
    system_of,
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
        ships = self.is_catalogued and self._shipped(model, layout) is not None
        return "bundle" if self.libraries.profiles or ships else "roofline"

    def _shipped(self, model: ModelSpec, layout: ParallelLayout) -> str | None:
        return shipped_model(self.accelerator.name, model, self._variant(model), layout.tp)

    def _roofline(self, model: ModelSpec, layout: ParallelLayout) -> RooflineSource:
        return RooflineSource(model, layout, self.accelerator)

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
        return self.spec.variant or VARIANTS[model.dtype]
