"""A model's operators put together from measured kernels, and what those lack from the roofline.

Norms, rotary embedding, activation, embedding and sampler come from the roofline; all else as `MeasuredKernels` says.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.expert_table import ExpertTable
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.measured_kernels import MeasuredKernels
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork
from llmservingsim.latency.tables import DecodeTable, LinearTable
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US


class DatabaseSource:
    """Operator latencies of one rank from a database of measured kernels.

    Args:
        kernels: Of the rank.
        accelerator: Its catalogue entry, for what the database lacks.
    """

    def __init__(self, kernels: MeasuredKernels, accelerator: AcceleratorSpec) -> None:
        model, layout = kernels.model, kernels.layout
        self._kernels = kernels
        self._tables = {name: LinearTable(*measured) for name, measured in kernels.products.items()}
        self._attention = {
            name: KernelAttention(
                found.prefills,
                DecodeTable.of_points(found.decodes.tolist()),
                kernels.tiles_per_decode(name),
                window=found.window,
            )
            for name, found in kernels.attention.items()
        }
        experts = kernels.experts
        self._moe = ExpertTable(experts, model.experts_per_token, kernels.expert_slices) if len(experts) else None
        self._rest = RooflineSource(model, layout, accelerator)
        self._extrapolated: Counter[str] = Counter()
        self._from_roofline: set[str] = set()

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Interpolate the operator's time; extrapolate, and count it, beyond the measured grid."""
        if (attention := self._attention.get(operator)) is not None:
            if not attention.covers(shape):
                self._extrapolated[operator] += 1
            return round(attention.at(shape) * NS_PER_US)
        table = self._tables.get(operator)
        if table is None:
            self._from_roofline.add(operator)
            return self._rest.latency_ns(operator, shape)
        size = shape.num_sequences if operator in PER_SEQUENCE else shape.num_tokens
        if not table.covers(size):
            self._extrapolated[operator] += 1
        return round(table.at(size) * NS_PER_US)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Interpolate the time of the experts; extrapolate, and count it, beyond the measured grid."""
        if self._moe is None:
            raise ProfileError(f"{self._kernels.model.name} has no experts")
        if not self._moe.covers(work.pairs, work.activated_experts):
            self._extrapolated["moe"] += 1
        return np.rint(self._moe.at(work.pairs, work.activated_experts) * NS_PER_US).astype(np.int64)

    def provenance(self) -> dict[str, object]:
        """Name the system, the engine's versions, what came from the roofline and the extrapolations."""
        database = self._kernels.database
        return {
            "source": "aiconfigurator",
            "system": database.system,
            "engine": database.engine,
            "attention_kernel": self._kernels.attention_kernel,
            "tables": dict(sorted(database.used.items())),
            "from_roofline": sorted(self._from_roofline),
            "extrapolated_shapes": dict(sorted(self._extrapolated.items())),
        }
