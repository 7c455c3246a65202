"""A model's operators put together from measured kernels, and what those lack from the roofline.

=================  ================================================================================================
operator           from
=================  ================================================================================================
matrix products    ``gemm``, at the operator's widths
attention          ``context_attention`` and ``generation_attention``, at the rank's heads (`KernelAttention`)
``moe``            ``moe``, of whole experts, and products for the router and shared experts
all others         the roofline: norms, rotary embedding, activation, embedding, sampler
=================  ================================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.errors import ProfileError, one_of
from llmservingsim.latency.expert_table import ExpertTable
from llmservingsim.latency.freeze import MeasuredOperators
from llmservingsim.latency.gemm_table import GemmTable
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.kernel_database import KernelDatabase
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork
from llmservingsim.latency.tables import DecodeTable, LinearTable
from llmservingsim.model import Operator, OperatorKind, ParallelLayout, Work, model_operators
from llmservingsim.model.weights import kv_heads_per_rank
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US

Rows = NDArray[np.float64]

_DTYPES = {"bfloat16": "bfloat16", "float16": "bfloat16", "fp8": "fp8"}
"""Of a model -> of measured kernels; 16 bits take as long either way."""


class MeasuredKernels:
    """What a database holds of one rank of a model.

    Args:
        database: Of the system and engine.
        model: What is computed.
        layout: How it is cut.
        kv_cache_dtype: ``auto`` for the model's, or ``fp8``.

    Attributes:
        points: Matrix product -> (tokens or sequences, times in us).
        prefills: Batches of equal prompt chunks: chunks, length, context, us; shape ``[points, 4]``.
        decodes: Sequences, KV length, us; shape ``[points, 3]``.
        experts: Tokens, activated experts, us of whole experts; shape ``[points, 3]``, empty for a dense model.
        attention_kernel: Name of the kernel that computes prompt chunks.

    Raises:
        ProfileError: If the kernels of the model's shapes were not measured.
    """

    def __init__(
        self, database: KernelDatabase, model: ModelSpec, layout: ParallelLayout, kv_cache_dtype: str = "auto"
    ) -> None:
        if model.dtype not in _DTYPES or model.is_mla:
            what = "latent attention" if model.is_mla else f"dtype {model.dtype}"
            raise ProfileError(
                f"{model.name}: the database is read for attention over key and value heads in {one_of(_DTYPES)}; "
                f"got {what}. Expected latency.source bundle or roofline"
            )
        self.database, self.model, self.layout = database, model, layout
        self._dtype = _DTYPES[model.dtype]
        rows = database.read("gemm/gemm_perf", ["m", "n", "k"], gemm_dtype=self._dtype)
        gemms = GemmTable(rows["m"], rows["n"], rows["k"], rows["latency"], f"{database.system}, {self._dtype}")
        self.points = {op.name: gemms.times(*_widths(op, model, layout)) for op in _products(model)}
        heads = {
            "num_heads": model.num_heads // layout.tp,
            "num_key_value_heads": kv_heads_per_rank(model, layout.tp),
            "head_dim": model.head_dim,
            "window_size": model.sliding_window or 0,
            "kv_cache_dtype": "fp8" if kv_cache_dtype.startswith("fp8") else "bfloat16",
        }
        self.attention_kernel = ""
        self.prefills = self._attention("context_attention_perf", ("batch_size", "isl", "step"), heads)
        self.decodes = self._attention("generation_attention_perf", ("batch_size", "step"), heads)
        self.decodes[:, 1] += 1  # a step counts what was there before the token
        self.experts = self._experts(gemms) if model.num_experts else np.empty((0, 3))

    def _attention(self, table: str, columns: Sequence[str], heads: Mapping[str, object]) -> Rows:
        database = self.database
        rows = database.read(f"attention/{table}", (*columns, "kernel_source"), **heads)
        if not len(rows["latency"]):
            told = ", ".join(f"{key} {value}" for key, value in heads.items())
            raise ProfileError(
                f"{self.model.name}: {database.engine} on {database.system} has no {table} for {told}; expected "
                "another tensor_parallel_size, or latency.source roofline"
            )
        self.attention_kernel = self.attention_kernel or str(rows["kernel_source"][0])
        return np.stack([rows[name] for name in (*columns, "latency")], axis=1).astype(np.float64)

    @property
    def tiles_per_decode(self) -> float:
        """How `KernelAttention` prices a mixed batch."""
        if self.attention_kernel.endswith(("fa2", "flash_attn")):  # the second is the first's name in older tables
            return 1.0
        group = kv_heads_per_rank(self.model, self.layout.tp) / (self.model.num_heads // self.layout.tp)
        return group if self.attention_kernel.endswith("fa3") else 0.0

    def operators(self) -> MeasuredOperators:
        """Return all of it, to be frozen."""
        origin = {
            "source": "measured kernels of aiconfigurator-core 0.12 (NVIDIA CORPORATION & AFFILIATES, Apache-2.0)",
            "system": self.database.system,
            "engine": self.database.engine,
            "tables": dict(sorted(self.database.used.items())),
            "attention_kernel": self.attention_kernel,
        }
        experts = self.experts if len(self.experts) else None
        rows = self.prefills, self.decodes, experts
        return MeasuredOperators(self.model, self.layout, origin, self.points, *rows, self.tiles_per_decode)

    def _experts(self, gemms: GemmTable) -> Rows:
        """Times over (tokens, activated experts).

        The measured tokens take experts in turn, so n tokens with k experts each activate ``min(n * k, E)``. More
        tokens on as few experts read the same weights, and compute what the same tokens do on all of them: they take
        what these take, less the difference in reading.
        """
        model, database = self.model, self.database
        shape = {
            "hidden_size": model.hidden_size,
            "inter_size": model.moe_intermediate_size,
            "topk": model.experts_per_token,
            "num_experts": model.num_experts,
            "moe_tp_size": 1,
            "moe_ep_size": 1,
        }
        rows = database.read("moe/moe_perf", ["num_tokens"], moe_dtype=self._dtype, distribution="balanced", **shape)
        if not len(rows["latency"]):
            told = ", ".join(f"{key} {value}" for key, value in shape.items())
            raise ProfileError(
                f"{model.name}: {database.engine} on {database.system} has no mixture of experts of {told}; expected "
                "latency.source bundle or roofline"
            )
        tokens, first = np.unique(rows["num_tokens"], return_index=True)
        times = np.maximum.accumulate(rows["latency"][first])
        beside = self._beside_experts(gemms)
        activated = np.minimum(tokens * model.experts_per_token, model.num_experts)
        reading = {int(a): times[activated == a][0] for a in np.unique(activated)}
        whole = reading[int(activated.max())]
        found = []
        for experts, base in reading.items():
            for count, time_us in zip(tokens.tolist(), times.tolist(), strict=True):
                if count * model.experts_per_token >= experts:
                    computed = max(base, min(time_us, time_us - whole + base))
                    found.append((count, experts, computed + beside.at(count)))
        return np.array(found)

    def _beside_experts(self, gemms: GemmTable) -> LinearTable:
        """Time of the router and of shared experts, over tokens."""
        model = self.model
        sizes, times = gemms.times(model.num_experts, model.hidden_size)
        total = np.array(times)
        if width := model.shared_expert_size:
            for n, k in (((1 + model.gated_mlp) * width, model.hidden_size), (model.hidden_size, width)):
                total += np.interp(sizes, *gemms.times(n, k))
        return LinearTable(sizes, total.tolist())


class DatabaseSource:
    """Operator latencies of one rank from a database of measured kernels.

    Args:
        kernels: Of the rank.
        accelerator: Its catalogue entry, for what the database lacks.
    """

    def __init__(self, kernels: MeasuredKernels, accelerator: AcceleratorSpec) -> None:
        model, layout = kernels.model, kernels.layout
        self._kernels = kernels
        self._tables = {name: LinearTable(*measured) for name, measured in kernels.points.items()}
        self._attention = KernelAttention(
            kernels.prefills, DecodeTable.of_points(kernels.decodes.tolist()), kernels.tiles_per_decode
        )
        experts, slices = kernels.experts, layout.expert_slices
        self._moe = ExpertTable(experts, model.experts_per_token, slices) if len(experts) else None
        self._rest = RooflineSource(model, layout, accelerator)
        self._extrapolated: Counter[str] = Counter()
        self._from_roofline: set[str] = set()

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Interpolate the operator's time; extrapolate, and count it, beyond the measured grid."""
        if operator == "attention":
            if not self._attention.covers(shape):
                self._extrapolated[operator] += 1
            return round(self._attention.at(shape) * NS_PER_US)
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


def _products(model: ModelSpec) -> list[Operator]:
    distinct = {operator.name: operator for operator in model_operators(model)}
    return [operator for operator in distinct.values() if operator.kind is OperatorKind.GEMM]


def _widths(operator: Operator, model: ModelSpec, layout: ParallelLayout) -> tuple[float, float]:
    """Return the output and input width of a matrix product on one rank."""
    cost = operator.cost(model, Work(tokens=1, sequences=1), layout)
    return cost.output_bytes / model.dtype_bytes, cost.input_bytes / model.dtype_bytes
