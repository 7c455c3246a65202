"""Which rank holds which expert."""

from __future__ import annotations

import numpy as np

from llmservingsim.trace.experts.router import Floats


def place_experts(strategy: str, num_experts: int, parts: int) -> Floats:
    """Place every expert once; return the copies that each part holds, shape ``[1, parts, experts]``.

    Args:
        strategy: ``linear``, neighbours together, or ``round_robin``, expert e on part ``e % parts``.
        num_experts: A multiple of ``parts``.
        parts: Into which the experts are divided.
    """
    experts = np.arange(num_experts)
    part = experts % parts if strategy == "round_robin" else experts // (num_experts // parts)
    return np.asarray((part == np.arange(parts)[:, None])[None], dtype=np.float64)


def place_copies(shares: Floats, redundant: int, parts: int) -> Floats:
    """Place experts and ``redundant`` further copies so that the parts are loaded alike; shape as `place_experts`.

    Greedy, as DeepSeek's EPLB, which vLLM uses: each further copy goes to the expert with the most load per copy; then
    copies, heaviest first, go to the least loaded part that has a free place.

    Args:
        shares: Popularity of the experts, shape ``[layers, experts]``.
        redundant: Further copies; with the experts a multiple of ``parts``.
        parts: Into which the copies are divided.
    """
    return np.stack([_place_layer(row, redundant, parts) for row in shares])


def _place_layer(shares: Floats, redundant: int, parts: int) -> Floats:
    copies = np.ones(len(shares), dtype=np.int64)
    for _ in range(redundant):
        copies[np.argmax(shares / copies)] += 1
    each = shares / copies
    held = np.zeros((parts, len(shares)))
    load = np.zeros(parts)
    free = np.full(parts, copies.sum() // parts)
    for expert in np.repeat(np.arange(len(shares)), copies)[np.argsort(-np.repeat(each, copies), kind="stable")]:
        part = np.argmin(np.where(free > 0, load, np.inf))
        held[part, expert] += 1
        load[part] += each[expert]
        free[part] -= 1
    return held


def cache_experts(held: Floats, shares: Floats, cached: int) -> Floats:
    """Return the copies of the most popular experts of every part and layer, ``cached`` of each; shape as `held`.

    Args:
        held: Copies that each part holds, shape ``[layers or 1, parts, experts]``.
        shares: Popularity of the experts, shape ``[layers, experts]``; of equals the first.
        cached: At most as many as a part holds.
    """
    layers, parts, experts = len(shares), held.shape[1], held.shape[2]
    every = np.broadcast_to(held, (layers, parts, experts))
    each = shares / held.sum(axis=1)
    order = np.argsort(-np.where(every > 0, each[:, None, :], -1.0), axis=2, kind="stable")
    by_rank = np.take_along_axis(every, order, axis=2)
    before = np.cumsum(by_rank, axis=2) - by_rank
    found = np.zeros((layers, parts, experts))
    np.put_along_axis(found, order, np.clip(cached - before, 0, by_rank), axis=2)
    return found
