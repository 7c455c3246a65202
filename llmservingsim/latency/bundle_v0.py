"""An older profile bundle: times of the layers of a plain implementation, in the layout before LLMServingSim 2.0.

``<profiles>/<hardware>/<model>/tp<N>/`` holds ``layers.csv`` (ns, nearly every token count up to 2048) and
``attention.csv``. What these lack, the sampler above all, comes from the roofline; `provenance` says what.
``predictions/*.csv`` is not read: it repeats ``attention.csv`` through a regression, times a factor (3.5, 10, 12, 15,
7, 1.3 or 1, by bundle and table) that stands in no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.errors import ProfileError, one_of
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.skew import MODES
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork, Grade
from llmservingsim.latency.tables import LinearTable
from llmservingsim.latency.v0_attention import DecodeKernel, OlderAttention
from llmservingsim.latency.v0_files import Layers, read_attention, read_layers
from llmservingsim.model import ParallelLayout
from llmservingsim.model.weights import kv_heads_per_rank
from llmservingsim.shapes import BatchShape

_OPERATORS: dict[str, tuple[str, ...]] = {
    "embedding": ("embedding",),
    "layernorm": ("input_layernorm", "post_layernorm"),
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "rotary_emb": ("rope",),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "act_fn": ("act_fn",),
    "down_proj": ("down_proj",),
    "final_layernorm": ("final_layernorm",),
    "lm_head": ("lm_head",),
}
"""The measured layers of each operator. An operator takes their sum, ``layernorm`` the mean of the block's two."""

_MOE = {"gate": ("gate",), "expert": ("expert.w1", "expert.w3", "act_fn", "expert.w2")}
"""The same for the gate of a mixture of experts and one of its experts, measured whole whatever the folder's degree."""

_FUSED = frozenset({"qkv_proj", "gate_up_proj"})
_FEW_TOKENS = 64


class OlderBundleSource:
    """Operator latencies of one rank, from one ``tp<N>`` folder of the older layout.

    Args:
        folder: The ``tp<N>`` folder.
        model: What is computed.
        layout: How it is cut over ranks.
        accelerator: What it runs on; its roofline times what the folder lacks.
        skew: ``"off"`` times every decode batch by its mean context, else the longest one sets a lower bound.

    Raises:
        ProfileError: If a file is missing or malformed.
    """

    def __init__(
        self,
        folder: Path,
        model: ModelSpec,
        layout: ParallelLayout,
        accelerator: AcceleratorSpec,
        *,
        skew: str = "fitted",
    ) -> None:
        if skew not in MODES:
            raise ProfileError(f"latency.skew: {skew!r} is unknown; expected one of {one_of(MODES)}")
        self.folder = folder
        self._model = model
        self._layout = layout
        self._roofline = RooflineSource(model, layout, accelerator)
        layers = read_layers(folder / "layers.csv")
        counts = sorted(set(chain.from_iterable(layers.values())))
        self._merged = {name: len(counts) - len(times) for name, times in layers.items() if len(times) < len(counts)}
        self._start_ns = 0.0 if self._merged else product_start_ns(layers, _weight_bytes(model, layout))
        self._tables = {
            operator: self._table(layers, operator, counts)
            for operator, names in {**_OPERATORS, **_MOE}.items()
            if not layers.keys().isdisjoint(names)
        }
        rows = read_attention(folder / "attention.csv")
        kernel = DecodeKernel.of(rows.form, model, layout, accelerator)
        self._attention = OlderAttention(rows, layers.get("attn", {}), kernel, bounded=skew != "off")
        self._computed: set[str] = set()
        self._extrapolated: Counter[str] = Counter()

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time: measured or interpolated, by the roofline where the bundle lacks it."""
        time_ns, grade = self.graded_ns(operator, shape)
        if grade is Grade.ROOFLINE:
            self._computed.add(operator)
        elif grade is Grade.EXTRAPOLATED:
            self._extrapolated[operator] += 1
        return time_ns

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the operator's time, and where it comes from."""
        if operator == "attention":
            return round(self._attention.at(shape)), Grade.between(self._attention.covers(shape))
        table = self._tables.get(operator)
        if table is None:
            return self._roofline.latency_ns(operator, shape), Grade.ROOFLINE
        size = shape.num_sequences if operator in PER_SEQUENCE else shape.num_tokens
        return round(table.at(size)), table.grade(size)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of the gate and, one after another, of a rank's activated experts, each with its mean tokens.

        A rank with a slice of 1/s of every expert's width reads and multiplies as much as one that has 1/s of the
        experts and pairs, and is timed like it.

        Raises:
            ProfileError: If the bundle is that of a dense model.
        """
        times, beyond = self._experts_ns(work)
        self._extrapolated.update(beyond)
        return times

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the times of the experts, and where they come from."""
        times, beyond = self._experts_ns(work)
        return times, Grade.between(not beyond)

    def _experts_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], list[str]]:
        """Return the times of the experts, and which parts of them lie beyond what was measured."""
        gate, expert = (self._tables.get(name) for name in _MOE)
        if gate is None or expert is None:
            raise ProfileError(f"{self.folder / 'layers.csv'}: holds no gate and expert.w1, as an MoE model needs")
        activated = work.activated_experts
        idle = np.full(activated.shape, float(expert.last))  # any measured size: no expert runs at it
        means = np.divide(work.pairs, activated, out=idle, where=activated > 0)
        sizes, place = np.unique(means, return_inverse=True)
        times = np.array([expert.at(size) for size in sizes.tolist()])[place.reshape(means.shape)]
        beyond = [] if all(map(expert.covers, sizes.tolist())) else ["expert"]
        if not gate.covers(work.tokens):
            beyond.append("gate")
        total = gate.at(work.tokens) + activated / self._layout.expert_slices * times
        return np.asarray(np.rint(total), dtype=np.int64), beyond

    def provenance(self) -> dict[str, object]:
        """Name the folder, what stands in another layer's row, what the roofline timed, and the extrapolations."""
        return {
            "source": "bundle",
            "layout": "older",
            "path": str(self.folder),
            "attention": self._attention.description,
            "product_start_ns": round(self._start_ns),
            "merged_layers": {name: f"absent at {count} token counts" for name, count in sorted(self._merged.items())},
            "roofline_operators": sorted(self._computed),
            "extrapolated_shapes": dict(sorted(self._extrapolated.items())),
        }

    def _table(self, layers: Layers, operator: str, counts: Sequence[int]) -> LinearTable:
        """Add an operator's layers up by token count; an absent row stands in another layer's, as the class says.

        The engine runs one product for several of the bundle's, so the start of all but one of them is taken off.
        """
        columns = [layers[name] for name in {**_OPERATORS, **_MOE}[operator] if name in layers]
        saved = (len(columns) - 1) * self._start_ns if operator in _FUSED else 0.0
        share = len(columns) if operator == "layernorm" else 1
        times = []
        for count in counts:
            parts = [column.get(count, 0.0) for column in columns]
            times.append(max(sum(parts) - saved, *parts, 0.0) / share)
        return LinearTable(counts, times)


def product_start_ns(layers: Layers, weight_bytes: Mapping[str, int]) -> float:
    """Return what starting one matrix product costs: ``a`` of ``t = a + weights / bandwidth``, at least 0.

    Fitted by least squares of relative errors to all products of few tokens, whose time is that of reading weights.
    The published GPU bundles give 5.3 to 6.5 us and bandwidths of 92 % of the data sheet's and more.
    """
    sizes = {name: size for name, size in weight_bytes.items() if name in layers}
    points = [(size, t) for name, size in sizes.items() for n, t in layers[name].items() if n <= _FEW_TOKENS]
    if len(set(sizes.values())) < 2 or len(points) < 2:
        return 0.0
    size, time = np.array(points, dtype=float).T
    start, _ = np.linalg.lstsq(np.stack([1 / time, size / time], axis=1), np.ones(len(points)), rcond=None)[0].tolist()
    return max(0.0, float(start))


def _weight_bytes(model: ModelSpec, layout: ParallelLayout) -> dict[str, int]:
    """Bytes of one rank's weights of each measured matrix product."""
    hidden, tp = model.hidden_size, layout.tp
    query, keys = model.q_size // tp, kv_heads_per_rank(model, tp) * model.head_dim
    mlp, vocab = model.intermediate_size // tp, model.vocab_size // tp
    widths = {"q_proj": query, "k_proj": keys, "v_proj": keys, "o_proj": query, "lm_head": vocab}
    widths |= {"gate_proj": mlp, "up_proj": mlp, "down_proj": mlp}
    return {name: hidden * width * model.dtype_bytes for name, width in widths.items()}
