"""Multi-head latent attention (MLA) as a database of kernels knows it.

Prompts make keys and values of the latent vectors and attend to these; decodes attend to the latent vectors themselves,
between two products that are the same weights (DeepSeek-V2, arXiv:2405.04434, section 2.1). Engines were measured in
two ways:

- *kernels*: ``context_mla`` and ``generation_mla`` are the attention alone, ``mla_bmm`` the products around that of
  decodes. The product in front of that of prompts is an ordinary one, which the caller adds.
- *modules*: ``mla_context_module`` and ``mla_generation_module`` are everything from the hidden state to the hidden
  state. What the projections take by themselves is taken off, so that mixed batches read their weights once. A small
  module may take little more than its projections by themselves, as their scatter has it; a fifth of it is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ProfileError
from llmservingsim.latency.kernel_database import Columns, KernelDatabase
from llmservingsim.latency.kernel_rows import fastest
from llmservingsim.latency.tables import LinearTable

Rows = NDArray[np.float64]

_LEAST_SHARE = 0.2
_BATCH = ("batch_size", "isl", "step", "kernel_source")


class LatentAttention(NamedTuple):
    """What was measured.

    Attributes:
        prefills: Chunks, length, context, us; shape ``[points, 4]``.
        decodes: Sequences, KV length, us; shape ``[points, 3]``.
        kernel: Its name.
        lacks_up_projection: Whether the product that prompts go through has to be added.
    """

    prefills: Rows
    decodes: Rows
    kernel: str
    lacks_up_projection: bool


def latent_attention(
    database: KernelDatabase, heads: int, kv_dtype: str, gemm: str, projections: LinearTable
) -> LatentAttention:
    """Return the attention of one rank.

    Args:
        database: Of the system and engine.
        heads: Of the rank.
        kv_dtype: Of the cached vectors.
        gemm: What the database calls products in the format of the weights.
        projections: Time of those in front and behind, over tokens.

    Raises:
        ProfileError: If it was not measured.
    """
    kernels = {"num_heads": heads, "kv_cache_dtype": kv_dtype}
    if database.has("mla/context_mla_perf") and database.has("mla/generation_mla_perf"):
        context = database.read("mla/context_mla_perf", _BATCH, **kernels)
        generation = database.read("mla/generation_mla_perf", _BATCH, **kernels)
        if len(context["latency"]) and len(generation["latency"]):
            prefills, decodes = _prefills(context), _decodes(generation)
            around = _around_decodes(database, heads, gemm)
            decodes[:, 2] += [around.at(count) for count in decodes[:, 0].tolist()]
            return LatentAttention(prefills, decodes, str(context["kernel_source"][0]), True)
    for name in (gemm, "fp8_block", "bfloat16"):
        if not database.has("mla/mla_context_module_perf"):
            break
        context = database.read("mla/mla_context_module_perf", _BATCH, gemm_type=name, **kernels)
        generation = database.read("mla/mla_generation_module_perf", _BATCH, gemm_type=name, **kernels)
        if len(context["latency"]) and len(generation["latency"]):
            prefills, decodes = _prefills(context), _decodes(generation)
            _take_off(prefills, prefills[:, 0] * prefills[:, 1], projections)
            _take_off(decodes, decodes[:, 0], projections)
            return LatentAttention(prefills, decodes, str(context["kernel_source"][0]), False)
    raise ProfileError(
        f"{database.engine} on {database.system} has no latent attention (MLA) for num_heads {heads}, kv_cache_dtype "
        f"{kv_dtype}; expected another tensor_parallel_size, or latency.source roofline"
    )


def _prefills(rows: Columns) -> Rows:
    return fastest([rows["batch_size"], rows["isl"], rows["step"], rows["latency"]])


def _decodes(rows: Columns) -> Rows:
    found = fastest([rows["batch_size"], rows["isl"] + rows["step"], rows["latency"]])
    return found[found[:, 1] > 0]


def _around_decodes(database: KernelDatabase, heads: int, gemm: str) -> LinearTable:
    """Both products that decodes absorb, over sequences."""
    for name in ("fp8" if gemm.startswith("fp8") else "bfloat16", "bfloat16"):
        rows = database.read("mla_bmm/mla_bmm_perf", ("num_tokens", "op_name"), num_heads=heads, bmm_dtype=name)
        before, behind = (rows["op_name"] == op for op in ("mla_gen_pre", "mla_gen_post"))
        if before.any() and behind.any():
            break
    else:
        raise ProfileError(f"{database.engine} on {database.system} has no mla_bmm for num_heads {heads}")
    tokens = np.unique(rows["num_tokens"][before])
    total = np.zeros(len(tokens))
    for part in (before, behind):
        order = np.argsort(rows["num_tokens"][part])
        total += np.interp(tokens, rows["num_tokens"][part][order], rows["latency"][part][order])
    return LinearTable(tokens.tolist(), total.tolist())


def _take_off(rows: Rows, tokens: NDArray[np.float64], projections: LinearTable) -> None:
    """Take the projections off the times of modules."""
    alone = np.array([projections.at(count) for count in tokens.tolist()])
    rows[:, -1] = np.maximum(rows[:, -1] - alone, _LEAST_SHARE * rows[:, -1])
