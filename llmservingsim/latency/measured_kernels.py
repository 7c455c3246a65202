"""What a database of measured kernels says of one rank of a model.

=================  ================================================================================================
operator           from
=================  ================================================================================================
matrix products    ``gemm``, at the operator's widths and in the format of its weights
attention          ``context_attention`` and ``generation_attention``, at the rank's heads and window
the same of MLA    ``context_mla``, ``generation_mla`` and the products that it absorbs; of engines measured as whole
                   modules, these less the projections
linear attention   ``gdn``: its convolution and its rule
``moe``            ``moe``, in the format of its weights, and products for the router and shared experts
=================  ================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ProfileError, one_of
from llmservingsim.latency.delta_attention import DeltaAttention
from llmservingsim.latency.freeze import MeasuredOperators
from llmservingsim.latency.gemm_table import GemmTable
from llmservingsim.latency.kernel_database import KernelDatabase
from llmservingsim.latency.kernel_rows import fastest
from llmservingsim.latency.latent_attention import latent_attention
from llmservingsim.latency.tables import LinearTable
from llmservingsim.model import Operator, OperatorKind, ParallelLayout, Work, model_operators
from llmservingsim.model.weights import kv_heads_per_rank

Rows = NDArray[np.float64]

_GEMM_NAMES: Mapping[str, Sequence[str]] = {
    "": ("bfloat16",),
    "fp8": ("fp8", "fp8_block"),
    "fp8_block": ("fp8_block", "fp8"),
    "int8": ("int8",),
    "int8_weight_only": ("int8_wo",),
    "int4": ("int4_wo",),
    "nvfp4": ("nvfp4",),
}
_EXPERT_NAMES: Mapping[str, Sequence[str]] = {
    **_GEMM_NAMES,
    "mxfp4": ("w4a16_mxfp4",),
    "mxfp4_mxfp8": ("w4a8_mxfp4_mxfp8",),
}
"""Format of weights -> what the database calls its kernels, the likest first; 16 bits of any kind take as long."""

SLOWEST_START = 4.0
"""A table whose fastest product takes more than so many times that of 16 bits was not timed on the product alone. One
kernel in front, which quantises the activations, makes it two. In package 0.12 the host launched products in fp8 with a
scale per block under vLLM, 55 to 280 us each (22 times and more), and under TensorRT-LLM fp8 has 10 to 12 us around it
(5 to 7 times); all others stay below 3.6."""

_DTYPES = ("bfloat16", "float16", "fp8")


class MeasuredAttention(NamedTuple):
    """One kind of attention.

    Attributes:
        prefills: Batches of equal prompt chunks: chunks, length, context, us; shape ``[points, 4]``.
        decodes: Sequences, KV length, us; shape ``[points, 3]``.
        kernel: Name of the kernel that computes prompt chunks.
        window: How far it looks back, None for all.
    """

    prefills: Rows
    decodes: Rows
    kernel: str
    window: int | None = None


class MeasuredKernels:
    """What a database holds of one rank of a model.

    Args:
        database: Of the system and engine.
        model: What is computed.
        layout: How it is cut.
        kv_cache_dtype: ``auto`` for the model's, or ``fp8``.
        whole_experts: Take experts measured whole also where they are cut, as bundles have them.

    Attributes:
        products: Operator -> (tokens or sequences, times in us).
        attention: Operator -> what was measured of it, linear attention apart.
        delta: Of that, None where the model has none.
        experts: Tokens, activated experts, us; shape ``[points, 3]``, empty for a dense model.
        left_out: What the database has of the model's formats, but is not used, and why.
        expert_slices: Parts into which experts have yet to be cut; 1 where those were measured that a rank holds.

    Raises:
        ProfileError: If the kernels of the model's shapes were not measured.
    """

    def __init__(
        self,
        database: KernelDatabase,
        model: ModelSpec,
        layout: ParallelLayout,
        kv_cache_dtype: str = "auto",
        *,
        whole_experts: bool = False,
    ) -> None:
        if model.dtype not in _DTYPES:
            raise ProfileError(
                f"{model.name}: the database is read for {one_of(_DTYPES)}, got dtype {model.dtype}; expected "
                "latency.source bundle or roofline"
            )
        self.database, self.model, self.layout = database, model, layout
        self._stored = "fp8" if model.dtype == "fp8" else model.linear_format
        self._kv_dtype = "fp8" if kv_cache_dtype.startswith("fp8") else "bfloat16"
        self._tables: dict[str, GemmTable] = {}
        self.left_out: list[str] = []
        operators = {operator.name: operator for operator in model_operators(model)}
        self.products = {
            name: self._product(operator) for name, operator in operators.items() if operator.kind is OperatorKind.GEMM
        }
        self.attention = {
            name: self._latent() if model.is_mla else self._attention(model.window_of(name))
            for name, operator in operators.items()
            if operator.kind is OperatorKind.ATTENTION and name != "linear_attention"
        }
        self.delta = self._delta() if "linear_attention" in operators else None
        self.expert_slices = layout.expert_slices
        self.experts = self._experts(whole_experts) if model.num_experts else np.empty((0, 3))

    @property
    def attention_kernel(self) -> str:
        """Name of the kernel that computes prompt chunks."""
        return next(iter(self.attention.values())).kernel

    def tiles_per_decode(self, attention: str = "attention") -> float:
        """How `KernelAttention` prices a mixed batch."""
        kernel = self.attention[attention].kernel
        if kernel.endswith(("fa2", "flash_attn")):  # the second is the first's name in older tables
            return 1.0
        group = kv_heads_per_rank(self.model, self.layout.tp) / (self.model.num_heads // self.layout.tp)
        return group if kernel.endswith("fa3") else 0.0

    def operators(self) -> MeasuredOperators:
        """Return all of it, to be frozen.

        Raises:
            ProfileError: If blocks differ in their attention, which a bundle has no room for.
        """
        if len(self.attention) > 1 or self.delta is not None:
            raise ProfileError(f"{self.model.name}: its blocks differ in their attention, and a bundle holds one kind")
        attention = self.attention["attention"]
        origin = {
            "source": "measured kernels of aiconfigurator-core 0.12 (NVIDIA CORPORATION & AFFILIATES, Apache-2.0)",
            "system": self.database.system,
            "engine": self.database.engine,
            "tables": dict(sorted(self.database.used.items())),
            "attention_kernel": attention.kernel,
        }
        experts = self.experts if len(self.experts) else None
        rows = attention.prefills, attention.decodes, experts
        return MeasuredOperators(self.model, self.layout, origin, self.products, *rows, self.tiles_per_decode())

    def gemms(self, stored: str) -> GemmTable:
        """Return the products of weights in a format; the empty one is 16 bits."""
        if stored not in self._tables:
            names = _GEMM_NAMES.get(stored, ("bfloat16",))  # formats of experts alone leave the rest in 16 bits
            self._tables[stored] = self._read_gemms(names)
        return self._tables[stored]

    def _read_gemms(self, names: Sequence[str]) -> GemmTable:
        database = self.database
        for name in names:
            rows = database.read("gemm/gemm_perf", ["m", "n", "k"], gemm_dtype=name)
            if not len(rows["latency"]):
                continue
            if name != "bfloat16" and rows["latency"].min() > SLOWEST_START * self.gemms("").fastest:
                self.left_out.append(f"products in {name}: something else was measured with them")
                continue
            m, n, k, times = fastest([rows["m"], rows["n"], rows["k"], rows["latency"]]).T
            return GemmTable(m, n, k, times, f"{database.system}, {name}")
        raise ProfileError(
            f"{self.model.name}: {database.engine} on {database.system} has no products in {one_of(names)}; expected "
            "another quantization, or latency.source roofline"
        )

    def _product(self, operator: Operator) -> tuple[Sequence[float], Sequence[float]]:
        table = self.gemms("" if operator.name == "lm_head" else self._stored)
        return _summed([table.times(n, k) for n, k in _widths(operator, self.model, self.layout)])

    def _attention(self, window: int | None) -> MeasuredAttention:
        model, tp = self.model, self.layout.tp
        heads = {
            "num_heads": model.num_heads // tp,
            "num_key_value_heads": kv_heads_per_rank(model, tp),
            "head_dim": model.head_dim,
            "window_size": window or 0,
            "kv_cache_dtype": self._kv_dtype,
        }
        prefills, kernel = self._attention_rows("context_attention_perf", ("batch_size", "isl", "step"), heads)
        decodes, _ = self._attention_rows("generation_attention_perf", ("batch_size", "step"), heads)
        decodes[:, 1] += 1  # a step counts what was there before the token
        return MeasuredAttention(prefills, decodes, kernel, window)

    def _attention_rows(self, table: str, columns: Sequence[str], heads: Mapping[str, object]) -> tuple[Rows, str]:
        database = self.database
        rows = database.read(f"attention/{table}", (*columns, "kernel_source"), **heads)
        if not len(rows["latency"]):
            told = ", ".join(f"{key} {value}" for key, value in heads.items())
            raise ProfileError(
                f"{self.model.name}: {database.engine} on {database.system} has no {table} for {told}; expected "
                "another tensor_parallel_size, or latency.source roofline"
            )
        return fastest([rows[name] for name in (*columns, "latency")]), str(rows["kernel_source"][0])

    def _delta(self) -> DeltaAttention:
        """Linear attention: per phase the convolution and the rule, over tokens."""
        model, tp = self.model, self.layout.tp
        heads = {
            "d_model": model.hidden_size,
            "num_k_heads": model.linear_num_key_heads // tp,
            "num_v_heads": model.linear_num_value_heads // tp,
            "head_k_dim": model.linear_key_head_dim,
            "head_v_dim": model.linear_value_head_dim,
        }
        tables = []
        for phase, alone in (("context", "batch_size"), ("generation", "seq_len")):
            columns = ("num_tokens", "kernel_source", "batch_size", "seq_len")
            rows = self.database.read("linear_attention/gdn_perf", columns, phase=phase, **heads)
            lines = [
                (rows["num_tokens"][kept], rows["latency"][kept])
                for kernel in np.unique(rows["kernel_source"])
                if (kept := (rows["kernel_source"] == kernel) & (rows[alone] == 1)).any()
            ]
            if len(lines) < 2:
                told = ", ".join(f"{key} {value}" for key, value in heads.items())
                raise ProfileError(
                    f"{model.name}: {self.database.engine} on {self.database.system} has no linear attention for "
                    f"{told}; expected another tensor_parallel_size, or latency.source roofline"
                )
            tables.append(LinearTable(*_summed([_rising(*line) for line in lines])))
        return DeltaAttention(*tables)

    def _latent(self) -> MeasuredAttention:
        projections = _summed([self.products["qkv_proj"], self.products["o_proj"]])
        found = latent_attention(
            self.database,
            self.model.num_heads // self.layout.tp,
            self._kv_dtype,
            _GEMM_NAMES.get(self._stored, ("bfloat16",))[0],
            LinearTable(*projections),
        )
        up = LinearTable(*self.gemms(self._stored).times(*_up_projection(self.model, self.layout)))
        prefills = found.prefills
        if found.lacks_up_projection:
            prefills[:, 3] += [up.at(count * query) for count, query in prefills[:, :2].tolist()]
        return MeasuredAttention(prefills, found.decodes, found.kernel)

    def _experts(self, whole: bool) -> Rows:
        """Times over (tokens, activated experts).

        The measured tokens take experts in turn, so n tokens with k experts each activate ``min(n * k, E)``. More
        tokens on as few experts read the same weights, and compute what the same tokens do on all of them: they take
        what these take, less the difference in reading.
        """
        model = self.model
        if not whole and len((sliced := self._expert_rows(self.layout.expert_slices))["latency"]):
            rows, self.expert_slices = sliced, 1
        else:
            rows = self._expert_rows(1)
        if not len(rows["latency"]):
            raise ProfileError(
                f"{model.name}: {self.database.engine} on {self.database.system} has no mixture of experts of "
                f"hidden_size {model.hidden_size}, inter_size {model.moe_intermediate_size}, topk "
                f"{model.experts_per_token}, num_experts {model.num_experts} in "
                f"{one_of(_EXPERT_NAMES[self._expert_format])}; expected latency.source bundle or roofline"
            )
        tokens, times = fastest([rows["num_tokens"], rows["latency"]]).T
        times = np.maximum.accumulate(times)
        beside = self._beside_experts()
        activated = np.minimum(tokens * model.experts_per_token, model.num_experts)
        reading = {int(a): times[activated == a][0] for a in np.unique(activated)}
        all_read = reading[int(activated.max())]
        found = []
        for experts, base in reading.items():
            for count, time_us in zip(tokens.tolist(), times.tolist(), strict=True):
                if count * model.experts_per_token >= experts:
                    computed = max(base, min(time_us, time_us - all_read + base))
                    found.append((count, experts, computed + beside.at(count)))
        return np.array(found)

    @property
    def _expert_format(self) -> str:
        return "fp8" if self.model.dtype == "fp8" else self.model.format_of_experts

    def _expert_rows(self, slices: int) -> Mapping[str, NDArray[np.float64]]:
        """Rows of experts cut into so many slices, in the likest format of which there are some."""
        model = self.model
        shape = {
            "hidden_size": model.hidden_size,
            "inter_size": model.moe_intermediate_size,
            "topk": model.experts_per_token,
            "num_experts": model.num_experts,
            "moe_tp_size": slices,
            "moe_ep_size": 1,
            "distribution": "balanced",
        }
        for name in _EXPERT_NAMES[self._expert_format]:
            rows = self.database.read("moe/moe_perf", ["num_tokens"], moe_dtype=name, **shape)
            if len(rows["latency"]):
                break
        return rows

    def _beside_experts(self) -> LinearTable:
        """Time of the router and of shared experts, over tokens."""
        model = self.model
        sizes, times = self.gemms("").times(model.num_experts, model.hidden_size)
        total = np.array(times)
        if width := model.shared_expert_size // self.layout.tp:
            for n, k in (((1 + model.gated_mlp) * width, model.hidden_size), (model.hidden_size, width)):
                total += np.interp(sizes, *self.gemms(self._stored).times(n, k))
        return LinearTable(sizes, total.tolist())


def _widths(operator: Operator, model: ModelSpec, layout: ParallelLayout) -> list[tuple[float, float]]:
    """Return the output and input width of the matrix products of an operator on one rank."""
    if model.is_mla and operator.name == "qkv_proj":
        latent = model.kv_lora_rank + model.qk_rope_head_dim
        if not model.q_lora_rank:
            return [(latent + model.q_size / layout.tp, model.hidden_size)]
        return [(model.q_lora_rank + latent, model.hidden_size), (model.q_size / layout.tp, model.q_lora_rank)]
    cost = operator.cost(model, Work(tokens=1, sequences=1), layout)
    return [(cost.output_bytes / model.dtype_bytes, cost.input_bytes / model.dtype_bytes)]


def _rising(sizes: NDArray[np.float64], times: NDArray[np.float64]) -> tuple[Sequence[float], Sequence[float]]:
    """Return a line in the order of its sizes, each once."""
    distinct, first = np.unique(sizes, return_index=True)
    return distinct.tolist(), times[first].tolist()


def _up_projection(model: ModelSpec, layout: ParallelLayout) -> tuple[float, float]:
    """Widths of the product that makes keys and values of latent vectors, which prompts go through."""
    per_head = model.qk_nope_head_dim + model.v_head_dim
    return model.num_heads // layout.tp * per_head, model.kv_lora_rank


def _summed(lines: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[Sequence[float], Sequence[float]]:
    """Add up lines over the sizes of the first."""
    sizes, times = lines[0]
    total = np.array(times) + sum(np.interp(sizes, *line) for line in lines[1:])
    return sizes, total.tolist()
