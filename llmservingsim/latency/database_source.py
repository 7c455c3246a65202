"""A model's operators put together from measured kernels, and what those lack from the roofline.

Norms, rotary embedding, activation, embedding and sampler come from the roofline; all else as `MeasuredKernels` says.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.delta_attention import DeltaAttention
from llmservingsim.latency.expert_table import ExpertTable
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.measured_kernels import MeasuredKernels
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork, Grade
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
        self._attention: dict[str, KernelAttention | DeltaAttention] = {
            name: KernelAttention(
                found.prefills,
                DecodeTable.of_points(found.decodes.tolist()),
                kernels.tiles_per_decode(name),
                window=found.window,
            )
            for name, found in kernels.attention.items()
        }
        if kernels.delta is not None:
            self._attention["linear_attention"] = kernels.delta
        experts = kernels.experts
        self._moe = ExpertTable(experts, model.experts_per_token, kernels.expert_slices) if len(experts) else None
        self._rest = RooflineSource(model, layout, accelerator)
        self._extrapolated: Counter[str] = Counter()
        self._from_roofline: set[str] = set()

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Interpolate the operator's time; extrapolate, and count it, beyond the measured grid."""
        time_ns, grade = self.graded_ns(operator, shape)
        if grade is Grade.EXTRAPOLATED:
            self._extrapolated[operator] += 1
        elif grade is Grade.ROOFLINE:
            self._from_roofline.add(operator)
        return time_ns

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the operator's time, and where it comes from."""
        if (attention := self._attention.get(operator)) is not None:
            return round(attention.at(shape) * NS_PER_US), Grade.between(attention.covers(shape))
        table = self._tables.get(operator)
        if table is None:
            return self._rest.latency_ns(operator, shape), Grade.ROOFLINE
        size = shape.num_sequences if operator in PER_SEQUENCE else shape.num_tokens
        return round(table.at(size) * NS_PER_US), table.grade(size)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Interpolate the time of the experts; extrapolate, and count it, beyond the measured grid."""
        times, grade = self.graded_moe_ns(work)
        if grade is Grade.EXTRAPOLATED:
            self._extrapolated["moe"] += 1
        return times

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the times of the experts, and where they come from."""
        if self._moe is None:
            raise ProfileError(f"{self._kernels.model.name} has no experts")
        return self._moe.graded_ns(work)

    def provenance(self) -> dict[str, object]:
        """Name the system, the engine's versions, what came from the roofline and the extrapolations."""
        database = self._kernels.database
        return {
            "source": "aiconfigurator",
            "system": database.system,
            "engine": database.engine,
            "attention_kernel": self._kernels.attention_kernel,
            "tables": dict(sorted(database.used.items())),
            "left_out": self._kernels.left_out,
            "from_roofline": sorted(self._from_roofline),
            "extrapolated_shapes": dict(sorted(self._extrapolated.items())),
        }
