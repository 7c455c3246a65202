"""Decode attention on the channels of a memory that computes, from the numbers of the device.

For each head of keys and values of a request with context T, g query heads sharing it, width d, elements of b bytes, a
channel computes one after another:

1. *Append*: the new key and value cross the bus and are written into a row each: ``2 (d b / bus + tRP + tRCD + tWR)``.
2. *Scores*: g queries are broadcast and the keys are read. A key lies whole in one bank, the keys spread over the U
   units. All queries use an open row. Where the buffer does not hold them all, they are sent again for each round of
   rows, or the rows opened again, whichever is shorter.
3. *Softmax* in the channel's controller, while ``g T`` scores come out and ``g T`` probabilities go in: online, so one
   pass each way (Milakov and Gimelshein, 2018). A value takes as long as the bus or the softmax unit need, the longer
   of both.
4. *Values*: the values are read, and ``g d`` results read out. Values lie transposed, in tiles of as many tokens as the
   buffer holds probabilities of all g heads of, the d outputs spread over the units.

Reads, rows and operands are those of `llmservingsim.latency.pim.channel`. What a group is asked is known by its sums
alone (requests, context), so whatever comes in whole pieces is counted with its mean: ``ceil(T / q)`` of a context that
may end anywhere in a piece of q tokens is ``T / q + (q - 1) / (2 q)`` on average. The time is then linear in both sums.

Heads of one channel, and requests of one group, follow each other without overlap. That is slower than a device that
computes the scores of one while the softmax of another runs (NeuPIMs: Heo et al., ASPLOS 2024, with two row buffers).
"""

from __future__ import annotations

from typing import NamedTuple

from llmservingsim.latency.pim.channel import Channel
from llmservingsim.latency.pim.device import AttentionTime
from llmservingsim.latency.pim.heads import Heads
from llmservingsim.units import NS_PER_S


class _Linear(NamedTuple):
    """``fixed + per_token * T``."""

    fixed: float
    per_token: float


def _sum(*terms: _Linear) -> _Linear:
    return _Linear(sum(term.fixed for term in terms), sum(term.per_token for term in terms))


def _scaled(term: _Linear, factor: float) -> _Linear:
    return _Linear(term.fixed * factor, term.per_token * factor)


def _pieces(tokens: float) -> _Linear:
    """Pieces of so many tokens that a context needs, on average over where in the last piece it ends."""
    return _Linear(max(0.0, tokens - 1) / (2 * tokens), 1 / tokens)


def attention_time(channel: Channel, heads: Heads, element_bytes: int) -> AttentionTime:
    """Return the time of a request's decode attention in one block, in the channel that has most of its heads."""
    head = _sum(
        _append(channel, heads, element_bytes),
        _scores(channel, heads, element_bytes),
        _softmax(channel, heads, element_bytes),
        _values(channel, heads, element_bytes),
    )
    fixed, per_token = _scaled(head, heads.per_channel * channel.refresh)
    return AttentionTime(fixed, per_token)


def _rounds(channel: Channel, token_bytes: int) -> _Linear:
    """How often all banks open a row, for keys or values of so many bytes per token."""
    return _pieces(max(1, channel.spec.banks * channel.spec.page_bytes // token_bytes))


def _append(channel: Channel, heads: Heads, element_bytes: int) -> _Linear:
    spec = channel.spec
    bus_ns = heads.head_dim * element_bytes / spec.channel_bandwidth * NS_PER_S
    return _Linear(2 * (bus_ns + (spec.trp + spec.trcd + spec.twr) * spec.tck_ns), 0.0)


def _scores(channel: Channel, heads: Heads, element_bytes: int) -> _Linear:
    spec = channel.spec
    key_bytes = heads.head_dim * element_bytes
    accesses = _scaled(_pieces(spec.units), -(-key_bytes // spec.access_bytes))
    rounds = _rounds(channel, key_bytes)
    queries_ns = heads.sharing * key_bytes * channel.bus_ns_per_byte
    fixed = _Linear(
        spec.command_ns + channel.turnaround_ns() + queries_ns, _partial_scores(channel, heads, element_bytes)
    )
    again = _scaled(rounds, _queries_again_ns(channel, heads, element_bytes))
    return _sum(fixed, _read(channel, heads, element_bytes, accesses, rounds), again)


def _queries_again_ns(channel: Channel, heads: Heads, element_bytes: int) -> float:
    """Where the buffer does not hold all queries: they are sent again for each round of rows, or rows opened again."""
    size = heads.sharing * heads.head_dim * element_bytes
    fillings = -(-size // channel.spec.buffer_bytes)
    return min(size * channel.bus_ns_per_byte if fillings > 1 else 0.0, (fillings - 1) * channel.open_ns(element_bytes))


def _partial_scores(channel: Channel, heads: Heads, element_bytes: int) -> float:
    """Where a query alone exceeds the buffer, and a round's keys the accumulators: further read-out per token."""
    spec = channel.spec
    key_bytes = heads.head_dim * element_bytes
    if spec.page_bytes * spec.banks_per_unit // key_bytes <= spec.accumulators:
        return 0.0
    return (-(-key_bytes // spec.buffer_bytes) - 1) * heads.sharing * element_bytes * channel.bus_ns_per_byte


def _values(channel: Channel, heads: Heads, element_bytes: int) -> _Linear:
    spec = channel.spec
    value_bytes = heads.head_dim * element_bytes
    outputs_per_unit = -(-heads.head_dim // spec.units)
    accesses = _scaled(_pieces(max(1, spec.access_bytes // element_bytes)), outputs_per_unit)
    rounds = _rounds(channel, value_bytes)
    fixed = _Linear(spec.command_ns + channel.turnaround_ns(), 0.0)
    results = _results(channel, heads, element_bytes, outputs_per_unit)
    return _sum(fixed, _read(channel, heads, element_bytes, accesses, rounds), results)


def _results(channel: Channel, heads: Heads, element_bytes: int, outputs_per_unit: int) -> _Linear:
    """Results over the bus: partial ones for each filling of the buffer, or whole ones and probabilities sent again."""
    spec = channel.spec
    once_ns = heads.sharing * heads.head_dim * element_bytes * channel.bus_ns_per_byte
    fillings = _pieces(max(1, spec.buffer_bytes // (heads.sharing * element_bytes)))
    tiles = -(-outputs_per_unit * heads.sharing // spec.accumulators)
    again = _Linear(once_ns, (tiles - 1) * heads.sharing * element_bytes * channel.bus_ns_per_byte)
    return min(_scaled(fillings, once_ns), again, key=lambda term: term.per_token)


def _softmax(channel: Channel, heads: Heads, element_bytes: int) -> _Linear:
    value_ns = max(element_bytes * channel.bus_ns_per_byte, NS_PER_S / channel.spec.softmax_rate)
    return _Linear(0.0, 2 * heads.sharing * value_ns)


def _read(channel: Channel, heads: Heads, element_bytes: int, accesses: _Linear, rounds: _Linear) -> _Linear:
    """Time of reading keys or values, each access used for all query heads that share them."""
    opened = _Linear(1.0, 0.0) if channel.in_controller else rounds
    access_ns = channel.access_ns(heads.sharing, element_bytes)
    return _sum(_scaled(accesses, access_ns), _scaled(opened, channel.open_ns(element_bytes)))
