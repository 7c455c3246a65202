"""Which instances prefill, which decode, and who brings the KV of the ones to the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from llmservingsim.backend import Backend, NativeBackend
from llmservingsim.config import KvTransferSpec
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError
from llmservingsim.instance import Instance
from llmservingsim.model import (
    KvShare,
    ParallelLayout,
    block_shares,
    kv_bytes_per_token_layer,
    kv_shares,
    stage_range,
)
from llmservingsim.push import KvPushes
from llmservingsim.push_layerwise import LayerwisePushes, StageBlocks
from llmservingsim.rehearsal import Rehearsal
from llmservingsim.serving import Router
from llmservingsim.serving.remote import BlockingScheduler, ExpectingScheduler, LoadingScheduler
from llmservingsim.trace import BlockTimes, IterationBuilder
from llmservingsim.transfer import KvTransfers
from llmservingsim.units import parse_time_ns


class KvSide(NamedTuple):
    """What decides whether and how an instance takes part in KV transfers.

    Attributes:
        instance: The instance.
        model, layout, kv_cache_dtype: What it keeps, and where.
        role: ``kv_both``, ``kv_producer`` or ``kv_consumer``.
    """

    instance: Instance
    model: ModelSpec
    layout: ParallelLayout
    kv_cache_dtype: str
    role: str


def connect(
    sides: Sequence[KvSide],
    spec: KvTransferSpec,
    backend: Backend,
    make_router: Callable[[Sequence[Instance]], Router],
    make_backend: Callable[[], NativeBackend],
) -> KvTransfers | None:
    """Let the instances that prefill hand on to those that decode the same model; None if none prefills alone.

    Args:
        sides: Every instance of the run.
        spec: How KV crosses.
        backend: Times it.
        make_router: Makes what chooses among the decode instances.
        make_backend: Makes a backend with the network of the run, to try things out on.

    Raises:
        ConfigError: If one side is missing, the two keep their KV in different types, or an instance cannot do what
            ``spec`` asks for.
    """
    producers = [side for side in sides if side.role == "kv_producer"]
    consumers = [side for side in sides if side.role == "kv_consumer"]
    _check_partners(producers, consumers)
    _check_partners(consumers, producers)
    for side in consumers:
        _check_scheduler(side, spec)
    if not producers:
        return None
    pairs = [(p, c) for p in producers for c in consumers if p.model.name == c.model.name]
    decoders = [side.instance for side in consumers]
    transfers = _owner(pairs, spec, backend, (decoders, make_router(decoders)), make_backend)
    for side in producers:
        side.instance.successor, side.instance.role = transfers, "prefill"
        side.instance.follower = transfers if isinstance(transfers, KvPushes) else None
    for side in consumers:
        side.instance.role = "decode"
        side.instance.engine.polling.is_at_launch = spec.get_finished == "at_launch"
        if not spec.load_kv_async:
            _let_loads_block(side, transfers)
    for side in (*producers, *consumers):
        side.instance.engine.samples_first_token_twice = spec.first_token == "decode"
    return transfers


def _owner(
    pairs: Sequence[tuple[KvSide, KvSide]],
    spec: KvTransferSpec,
    backend: Backend,
    decoders: tuple[Sequence[Instance], Router],
    make_backend: Callable[[], NativeBackend],
) -> KvTransfers:
    shares = {(p.instance.index, c.instance.index): _shares(p, c) for p, c in pairs}
    latency_ns = parse_time_ns(spec.proxy_latency)
    if spec.effective_mode == "pull":
        return KvTransfers(backend, decoders[0], shares, decoders[1], latency_ns)
    if spec.effective_mode == "push":
        return KvPushes(backend, decoders[0], shares, decoders[1], latency_ns)
    rehearsal = Rehearsal(make_backend)
    consumers = {c.instance.index: c for _, c in pairs}
    producers = {p.instance.index: p for p, _ in pairs}
    stages = {index: _stages(producer, consumers, rehearsal) for index, producer in producers.items()}
    return LayerwisePushes(backend, decoders[0], shares, decoders[1], latency_ns, stages)


def _stages(producer: KvSide, consumers: Mapping[int, KvSide], rehearsal: Rehearsal) -> list[StageBlocks]:
    """Describe the pipeline stages of an instance that prefills."""

    def shares_of(blocks: Sequence[int], consumer: int) -> list[list[KvShare]]:
        return [_block_shares(producer, consumers[consumer], block) for block in blocks]

    stages = []
    for stage, builder in enumerate(producer.instance.builders):
        if not isinstance(builder, IterationBuilder) or builder.fetches is not None:
            what = "drafts" if not isinstance(builder, IterationBuilder) else "has weights elsewhere (placement)"
            raise ConfigError(
                f"kv_transfer.mode: instance {producer.instance.index}, a kv_producer, {what}, beside which blocks are "
                "not pushed one by one; expected mode pull or push"
            )
        blocks = stage_range(producer.model.num_layers, producer.layout.pp, stage)
        times = BlockTimes(builder, partial(rehearsal.collective_ns, builder.template))
        stages.append(StageBlocks(times, [c.ranks for c in builder.classes], partial(shares_of, blocks)))
    return stages


def _let_loads_block(side: KvSide, transfers: KvTransfers) -> None:
    """Have the batches of a decode instance wait for the KV of requests that enter them."""
    scheduler = side.instance.engine.scheduler
    assert isinstance(scheduler, BlockingScheduler)
    scheduler.load_kv_async = transfers.load_kv_async = False
    side.instance.before_batch.append(transfers.before_batch)


def _check_scheduler(side: KvSide, spec: KvTransferSpec) -> None:
    """Raise unless the scheduler of a decode instance can do what a mode needs."""
    needed: list[tuple[type, str]] = [
        (LoadingScheduler, "methods 'take_loads' and 'loaded', with which requests come whose KV is elsewhere"),
    ]
    if spec.effective_mode != "pull":
        needed.append((ExpectingScheduler, f"method 'withdraw', which mode {spec.effective_mode} needs"))
    if not spec.load_kv_async:
        needed.append((BlockingScheduler, "attribute 'load_kv_async', which load_kv_async false sets"))
        if side.layout.pp > 1 or side.layout.dp > 1:
            raise ConfigError(
                f"kv_transfer.load_kv_async: instance {side.instance.index} has pipeline stages or is in a "
                "data-parallel group, whose batches cannot wait for KV; expected true"
            )
    scheduler = side.instance.engine.scheduler
    for protocol, what in needed:
        if not isinstance(scheduler, protocol):
            raise ConfigError(
                f"instance {side.instance.index} is a kv_consumer, but its scheduler {type(scheduler).__name__!r} has "
                f"no {what}"
            )


def _check_partners(sides: Sequence[KvSide], others: Sequence[KvSide]) -> None:
    wanted = {"kv_producer": "kv_consumer", "kv_consumer": "kv_producer"}
    for side in sides:
        if not any(side.model.name == other.model.name for other in others):
            raise ConfigError(
                f"instance {side.instance.index} is a {side.role}, but no instance of {side.model.name} is a "
                f"{wanted[side.role]}"
            )


def _shares(source: KvSide, target: KvSide) -> list[KvShare]:
    """Who sends what to whom, by the ranks of the network."""
    kept = [kv_bytes_per_token_layer(side.model, 1, side.kv_cache_dtype) for side in (source, target)]
    if kept[0] != kept[1]:
        raise ConfigError(
            f"instances {source.instance.index} and {target.instance.index} keep their KV in different types "
            f"({source.kv_cache_dtype} and {target.kv_cache_dtype}); expected one kv_cache_dtype"
        )
    return _in_network(kv_shares(source.model, source.layout, target.layout, source.kv_cache_dtype), source, target)


def _block_shares(source: KvSide, target: KvSide, block: int) -> list[KvShare]:
    """The same of one block."""
    shares = block_shares(source.model, source.layout, target.layout, block, source.kv_cache_dtype)
    return _in_network(shares, source, target)


def _in_network(shares: Sequence[KvShare], source: KvSide, target: KvSide) -> list[KvShare]:
    ranks = source.instance.ranks, target.instance.ranks
    return [KvShare(ranks[0][s.source], ranks[1][s.target], s.bytes_per_token) for s in shares]
