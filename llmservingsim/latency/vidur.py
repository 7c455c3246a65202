"""Profiles of Vidur (Microsoft, MIT licence): ``mlp.csv``, ``attention.csv``, ``all_reduce.csv`` and ``send_recv.csv``.

Vidur (Agrawal et al., MLSys 2024) keeps them in ``data/profiling/compute/<device>/<org>/<model>/`` and
``data/profiling/network/<node>/``. Each row is a shape with statistics of its repetitions in milliseconds,
``time_stats.<operator>.{min,max,mean,median,std}``; the median counts here, because repetitions have outliers to one
side only. Rows of the same shape count with the median of theirs.

==============  ========================================================================================
ours            of Vidur
==============  ========================================================================================
embedding       emb
layernorm       mean of input_layernorm and post_attention_layernorm, and add where it is a kernel of its own
qkv_proj        attn_pre_proj
rotary_emb      attn_rope
o_proj          attn_post_proj
gate_up_proj    mlp_up_proj
act_fn          mlp_act
down_proj       mlp_down_proj
attention       attn_prefill or attn_decode, with attn_kv_cache_save, attn_input_reshape, attn_output_reshape
==============  ========================================================================================

Vidur's engine runs the kernel of prompt chunks and that of decodes one after the other. It times a batch of several
chunks as one chunk of the root of their summed squares; here they share the tiles of one kernel (`KernelAttention`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.csv_rows import NumberTable
from llmservingsim.errors import ProfileError
from llmservingsim.latency.freeze import MeasuredOperators, Points
from llmservingsim.model import ParallelLayout
from llmservingsim.units import NS_PER_MS, NS_PER_US

Floats = NDArray[np.float64]

_US_PER_MS = NS_PER_MS / NS_PER_US
_DEGREE = "num_tensor_parallel_workers"
_PRODUCTS = {
    "qkv_proj": "attn_pre_proj",
    "o_proj": "attn_post_proj",
    "gate_up_proj": "mlp_up_proj",
    "down_proj": "mlp_down_proj",
}
_OTHERS = {"embedding": "emb", "rotary_emb": "attn_rope", "act_fn": "mlp_act"}
_NORMS = ("input_layernorm", "post_attention_layernorm")
_BESIDE_ATTENTION = ("attn_kv_cache_save", "attn_input_reshape", "attn_output_reshape")
_ATTENTION_SHAPE = ("batch_size", "prefill_chunk_size", "kv_cache_size")
_DTYPES = ("bfloat16", "float16")


def _times(operator: str) -> str:
    return f"time_stats.{operator}.median"


class VidurProfiles:
    """What Vidur measured of one model on one device, for every tensor-parallel size.

    Args:
        mlp: Its ``mlp.csv``.
        attention: Its ``attention.csv``.
        model: Which it is said to be.

    Raises:
        ProfileError: If a file is missing, malformed or of another model.
    """

    def __init__(self, mlp: Path, attention: Path, model: ModelSpec) -> None:
        if model.dtype not in _DTYPES or model.linear_format or model.num_experts or model.is_mla:
            raise ProfileError(
                f"{model.name}: Vidur profiles dense models in 16 bits whose attention has keys and values per head; "
                "expected such a model"
            )
        self._model = model
        self._mlp = NumberTable(mlp, [_DEGREE, "num_tokens", *map(_times, _PRODUCTS.values())])
        kernels = [_times("attn_prefill"), _times("attn_decode")]
        self._attention = NumberTable(attention, [_DEGREE, *_ATTENTION_SHAPE, "is_prefill", *kernels])
        _check_model(self._mlp, model)
        _check_model(self._attention, model)

    def of(self, layout: ParallelLayout) -> MeasuredOperators:
        """Return what was measured of one rank.

        Raises:
            ProfileError: If nothing was measured for its tensor-parallel size, or a cell is wrong.
        """
        origin = {
            "source": "profiles of Vidur (Microsoft, MIT licence)",
            "files": [str(self._mlp.path), str(self._attention.path)],
            "statistic": "median",
        }
        points = _mlp_points(self._mlp, layout.tp)
        return MeasuredOperators(self._model, layout, origin, points, *_attention_points(self._attention, layout.tp))


def read_transfers(path: Path, operator: str) -> dict[tuple[int, int], float]:
    """Read ``all_reduce.csv`` or ``send_recv.csv``; return us by (ranks, bytes).

    The slowest rank counts, and of the ways to place so many ranks that on the fewest nodes.

    Args:
        path: Of the file.
        operator: ``all_reduce`` or ``send_recv``.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    table = NumberTable(path, ["num_workers", "size", _times(operator)])
    ranks, sizes, times = (_all(table, name) for name in ("num_workers", "size", _times(operator)))
    places = _all(table, "devices_per_node") if table.has("devices_per_node") else ranks
    of_rank = _all(table, "rank") if table.has("rank") else np.zeros(len(times))
    best = {n: places[ranks == n].max() for n in np.unique(ranks)}
    fewest_nodes = places == np.array([best[n] for n in ranks])
    kept = fewest_nodes & (ranks > 1) & (sizes > 0) & (times > 0)
    if not kept.any():
        raise ProfileError(
            f"{path}: holds no transfer between ranks (num_workers of at least 2, size and time above 0)"
        )
    found: dict[tuple[int, int], float] = {}
    for n, size, _, time_ms in _medians(np.stack([ranks, sizes, of_rank, times], axis=1)[kept]).tolist():
        key = int(n), int(size)
        found[key] = max(found.get(key, 0.0), time_ms * _US_PER_MS)
    return found


def fit_link(times_us: Mapping[tuple[int, int], float]) -> tuple[float, float]:
    """Fit ``latency + size / bandwidth`` to transfers by least squares of relative errors; return us and bytes per us.

    Raises:
        ProfileError: If the sizes do not tell a bandwidth.
    """
    sizes = np.array([size for _, size in times_us], dtype=float)
    times = np.array(list(times_us.values()))
    design = np.stack([1 / times, sizes / times], axis=1)
    latency_us, per_byte = np.linalg.lstsq(design, np.ones(len(times)), rcond=None)[0].tolist()
    if len(np.unique(sizes)) < 2 or per_byte <= 0:
        raise ProfileError("send_recv: expected times that grow over two sizes or more")
    return max(0.0, latency_us), 1 / per_byte


def _check_model(table: NumberTable, model: ModelSpec) -> None:
    """Hold every row against the model; columns that a file lacks say nothing."""
    same = {
        "n_head": model.num_heads,
        "n_q_head": model.num_heads,
        "n_kv_head": model.num_kv_heads,
        "n_embd": model.hidden_size,
        "n_expanded_embd": model.intermediate_size,
    }
    for column in filter(table.has, same):
        for row, value in enumerate(table.numbers(column)):
            if value != same[column]:
                raise table.error(row, column, f"{value:g} is not {model.name}'s; expected {same[column]}")
    if table.has("vocab_size"):
        for row, value in enumerate(table.numbers("vocab_size")):
            if not value >= model.vocab_size:  # profiles may round a vocabulary up
                raise table.error(row, "vocab_size", f"{value:g} is not {model.name}'s; expected {model.vocab_size}")
    if table.has("use_gated_mlp"):
        for row, gated in enumerate(table.text("use_gated_mlp")):
            if gated.casefold() != str(model.gated_mlp).casefold():
                raise table.error(row, "use_gated_mlp", f"{gated} is not {model.name}'s; expected {model.gated_mlp}")


def _mlp_points(table: NumberTable, tp: int) -> dict[str, Points]:
    """Times in us of every operator that was measured, over tokens."""
    mine = _of_degree(table, tp)
    tokens = _all(table, "num_tokens")
    found = {
        operator: table.numbers(_times(name))
        for operator, name in (_PRODUCTS | _OTHERS).items()
        if table.has(_times(name))
    }
    norms = [table.numbers(_times(name)) for name in _NORMS if table.has(_times(name))]
    if norms:
        added = np.nan_to_num(table.numbers(_times("add"))) if table.has(_times("add")) else 0.0
        found["layernorm"] = np.mean(norms, axis=0) + added
    points: dict[str, Points] = {}
    for operator, times in found.items():
        if (known := mine & np.isfinite(times)).any():
            points[operator] = _line(table, np.stack([tokens, times], axis=1), known, operator)
        elif operator in _PRODUCTS:
            raise ProfileError(f"{table.path}: {_times(_PRODUCTS[operator])} has no time for {_DEGREE} {tp}")
    return points


def _line(table: NumberTable, rows: Floats, known: NDArray[np.bool_], operator: str) -> tuple[list[float], list[float]]:
    for row in np.flatnonzero(known).tolist():
        if rows[row].min() <= 0:
            raise table.error(row, operator, "expected num_tokens and a time greater than 0, got 0")
    sizes, times = _medians(rows[known]).T
    return sizes.tolist(), (times * _US_PER_MS).tolist()


def _attention_points(table: NumberTable, tp: int) -> tuple[Floats, Floats]:
    """Prompt chunks as (chunks, length, context, us), decodes as (sequences, KV length with the new token, us)."""
    mine = _of_degree(table, tp)
    kinds = [cell.casefold() for cell in table.text("is_prefill")]
    for row, kind in enumerate(kinds):
        if kind not in ("true", "false"):
            raise table.error(row, "is_prefill", f"expected True or False, got {kind!r}")
    prefill = np.array([kind == "true" for kind in kinds])
    beside = sum(np.nan_to_num(table.numbers(_times(name))) for name in _BESIDE_ATTENTION if table.has(_times(name)))
    batch, chunk, cached = (_all(table, name) for name in _ATTENTION_SHAPE)
    found = []
    for kernel, wanted, shape in (
        ("attn_prefill", mine & prefill, (batch, chunk, cached)),
        ("attn_decode", mine & ~prefill, (batch, cached + 1)),
    ):
        if not wanted.any():
            raise ProfileError(f"{table.path}: holds no row of {kernel} (is_prefill) for {_DEGREE} {tp}")
        times = table.numbers(_times(kernel))
        for row in np.flatnonzero(wanted).tolist():
            if not (times[row] > 0 and min(size[row] for size in shape[:2]) > 0):
                raise table.error(row, _times(kernel), "expected a time and a shape greater than 0")
        rows = _medians(np.stack([*shape, times + beside], axis=1)[wanted])
        rows[:, -1] *= _US_PER_MS
        found.append(rows)
    return found[0], found[1]


def _of_degree(table: NumberTable, tp: int) -> NDArray[np.bool_]:
    degrees = _all(table, _DEGREE)
    if not (degrees == tp).any():
        there = ", ".join(f"{degree:g}" for degree in np.unique(degrees))
        raise ProfileError(f"{table.path}: nothing was measured for {_DEGREE} {tp}; expected --tp out of {there}")
    return np.asarray(degrees == tp)


def _all(table: NumberTable, column: str) -> Floats:
    """Return a column without an empty cell."""
    numbers = table.numbers(column)
    for row in np.flatnonzero(np.isnan(numbers)).tolist():
        raise table.error(row, column, "expected a number, got an empty cell")
    return numbers


def _medians(rows: Floats) -> Floats:
    """Median of the last column over rows that share the others, sorted by these."""
    rows = rows[np.lexsort(rows[:, ::-1].T)]
    starts = np.flatnonzero(np.any(np.diff(rows[:, :-1], axis=0) != 0, axis=1)) + 1
    return np.array([[*group[0, :-1], np.median(group[:, -1])] for group in np.split(rows, starts)])
