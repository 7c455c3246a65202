"""Which operators of an instance run on other devices, and where its keys and values lie then: checked and claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmservingsim.config import InstanceSpec, MemorySpec, RunSpec
from llmservingsim.config.catalog import ModelSpec, find_accelerator, find_pim
from llmservingsim.config.tier_spec import tier_names
from llmservingsim.errors import CapacityError, ConfigError, located, nearest, one_of
from llmservingsim.latency.offload import OffloadDevice
from llmservingsim.latency.pim import make_pim
from llmservingsim.latency.processor import make_processor
from llmservingsim.libraries import Libraries
from llmservingsim.memories import Memories, Place
from llmservingsim.model import KV_BLOCKS_MAX, OperatorKind, ParallelLayout, Residency, block_operators
from llmservingsim.model.weights import operator_weights
from llmservingsim.plugins import make_plugin
from llmservingsim.trace import Helper, Link, OffloadPlan, Site
from llmservingsim.trace.offloading import ATTENTION
from llmservingsim.units import format_size, parse_size_bytes

_METHODS = ("attention_ns", "latency_ns", "provenance")


@dataclass(frozen=True, slots=True)
class WithoutKv:
    """What a `Residency` says, with all keys and values elsewhere."""

    weights: Residency

    def weight_bytes(self, model: ModelSpec, layout: ParallelLayout, stage: int) -> int:
        """Return what weights, and buffers for others, take on one rank."""
        return self.weights.weight_bytes(model, layout, stage)

    def kv_layers(self, model: ModelSpec, layout: ParallelLayout, stage: int) -> int:
        """Return that no block keeps its keys and values there."""
        del model, layout, stage
        return 0


class Offloading(NamedTuple):
    """What an instance has elsewhere.

    Attributes:
        plan: Who computes what.
        sites: Of the memories it names.
        kv_blocks: That fit where attention runs; None if it stays.
    """

    plan: OffloadPlan
    sites: Mapping[str, Site]
    kv_blocks: int | None


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """An instance that asks for it.

    Attributes:
        path: Its key path.
        node: Where it is.
        index: Which.
        spec: What it states.
        model, layout: What it computes.
        block_size: Tokens of a KV block.
        kv_token_bytes: Of a token in one block of the model, on one rank.
    """

    path: str
    node: int
    index: int
    spec: InstanceSpec
    model: ModelSpec
    layout: ParallelLayout
    block_size: int
    kv_token_bytes: int

    @property
    def kv_block_bytes(self) -> int:
        """Of a KV block, all layers, on all ranks."""
        return self.block_size * self.model.num_layers * self.kv_token_bytes * self.layout.tp


def check_offloading(spec: InstanceSpec, model: ModelSpec, layout: ParallelLayout) -> None:
    """Raise ConfigError if an instance moves operators that the model lacks, or that cannot be combined."""
    interleaves = spec.sub_batch_interleaving not in (None, "never")
    if interleaves and set(spec.operators or ()) != {ATTENTION}:
        raise ConfigError(
            "sub_batch_interleaving: halves overlap where attention, and nothing else, runs in a memory; expected "
            "operators {attention: cpu} or the like, or never"
        )
    if interleaves and model.num_experts:
        raise ConfigError(f"sub_batch_interleaving: not simulated for a mixture of experts; {model.name} needs never")
    if not spec.operators:
        return
    known = _movable(model)
    for name in spec.operators:
        if name not in known:
            raise ConfigError(
                f"operators: {name!r} is no operator of {model.name} that can move{nearest(name, known)}; expected "
                f"{one_of(known)}"
            )
    conflicts = {
        "pipeline_parallel_size": layout.pp > 1,
        "data_parallel_group": layout.dp > 1,
        "speculative_config": spec.speculative_config is not None,
    }
    for key, is_stated in conflicts.items():
        if is_stated:
            raise ConfigError(f"operators: other devices beside {key} are not simulated; expected no {key}")
    if spec.placement is not None and spec.placement.prefetch_across_iterations:
        raise ConfigError(
            "operators: iterations have graphs of several forms, between which no load goes on; expected a placement "
            "without prefetch_across_iterations"
        )
    if ATTENTION in spec.operators:
        _check_kv(spec)


def _movable(model: ModelSpec) -> list[str]:
    operators = (op for layer in range(model.num_layers) for op in block_operators(model, layer))
    return list(dict.fromkeys(op.name for op in operators if op.kind is not OperatorKind.MOE))


def _check_kv(spec: InstanceSpec) -> None:
    """Keys and values lie where attention runs, and nowhere else."""
    where = (spec.operators or {})[ATTENTION]
    for key, default in (("kv_role", "kv_both"), ("prefix_storage", None), ("preemption_mode", "recompute")):
        if getattr(spec, key) not in (default, None, ()):
            raise ConfigError(
                f"operators.attention: {key} {tier_names(getattr(spec, key))!r} moves KV from and to the "
                f"device, but it lies in {where!r}, where attention runs; expected no {key}"
            )
    for rule in spec.placement.rules() if spec.placement is not None else ():
        if rule.kv_loc not in (None, "npu"):
            raise ConfigError(
                f"placement: kv_loc {rule.kv_loc!r} contradicts operators.attention {where!r}: KV lies where attention "
                "runs; expected no kv_loc"
            )


def plan_offloading(
    requests: Sequence[OffloadRequest], run: RunSpec, memories: Memories, libraries: Libraries
) -> dict[int, Offloading]:
    """Build the devices that instances ask for, and keep room there for weights and KV.

    Who states no number of KV blocks gets an equal part of what the others leave.

    Returns:
        By the index of the instance.

    Raises:
        ConfigError: If a place does not compute, or not what is asked for.
        CapacityError: If there is too little room.
    """
    places = {r.index: _places(r, memories) for r in requests}
    users = Counter(place for found in places.values() for place in set(found.values()))
    plans = {}
    for request in requests:
        with located(request.path):
            helpers = _helpers(request, places[request.index], users, _Workshop(run, memories, libraries))
        plans[request.index] = OffloadPlan(helpers, request.kv_token_bytes)
    for request in requests:
        with located(request.path):
            _claim_weights(request, places[request.index], memories)
    blocks = _claim_kv(requests, places, memories)
    return {
        r.index: Offloading(
            plans[r.index],
            {name: Site(p.location, p.device) for name, p in places[r.index].items()},
            blocks.get(r.index),
        )
        for r in requests
    }


class _Workshop(NamedTuple):
    """What devices are built from."""

    run: RunSpec
    memories: Memories
    libraries: Libraries


def _places(request: OffloadRequest, memories: Memories) -> dict[str, Place]:
    """Find the memories that an instance's operators name."""
    found = {}
    for operator, name in (request.spec.operators or {}).items():
        with located(f"{request.path}: operators.{operator}"):
            place = memories.find(name, request.node, request.spec.nnodes)
            if place.tier == "storage":
                raise ConfigError("'storage' does not compute; expected cpu or cxl:<i>")
            if place.device < 0:
                raise ConfigError(f"{name!r} is several devices, but a request's KV lies in one; expected cxl:<i>")
        found[name] = place
    return found


def _helpers(
    request: OffloadRequest, places: Mapping[str, Place], users: Mapping[Place, int], workshop: _Workshop
) -> dict[str, Helper]:
    """Build the devices that compute an instance's operators."""
    devices: dict[str, Helper] = {}
    found = {}
    for operator, name in (request.spec.operators or {}).items():
        place = places[name]
        with located(f"operators.{operator}"):
            if name not in devices:
                device = _device(request, place, name, workshop)
                link = Link(*workshop.memories.rate(place))
                meets_others = users[place] > 1 or request.spec.sub_batch_interleaving != "never"
                devices[name] = Helper(name, device, link, per_group=meets_others)
                workshop.memories.computes(place, devices[name].num_channels)
            helper = devices[name]
            if operator not in helper.device.operators:
                can = one_of(sorted(helper.device.operators))
                raise ConfigError(f"the memory {name!r} does not compute {operator!r}; it computes {can}")
        found[operator] = helper
    return found


def _device(request: OffloadRequest, place: Place, name: str, workshop: _Workshop) -> OffloadDevice:
    """Build what computes in a memory; it has the heads and weights of all ranks."""
    memory: MemorySpec | None = (
        workshop.run.cxl_memory if place.tier == "cxl" else workshop.run.nodes[place.device].cpu_memory
    )
    assert memory is not None, "places are found in memories that the run describes"
    model, size = request.model, parse_size_bytes(memory.size)
    key = "cxl_memory" if place.tier == "cxl" else f"nodes[{place.device}].cpu_memory"
    if memory.processor is not None:
        with located(f"{key}.processor"):
            processor = find_accelerator(memory.processor, workshop.libraries.accelerators)
        return make_processor(processor, model, ParallelLayout())
    if memory.pim is None:
        raise ConfigError(f"{name!r} does not compute; expected {key}.pim, a memory that does, or {key}.processor")
    with located(f"{key}.pim"):
        if ":" in memory.pim:
            own: OffloadDevice = make_plugin("pim", memory.pim, {}, (model, size), _METHODS)
            return own
        return make_pim(find_pim(memory.pim, workshop.libraries.base), model, ParallelLayout(), size, memory.pim_model)


def _claim_weights(request: OffloadRequest, places: Mapping[str, Place], memories: Memories) -> None:
    """Keep room for the weights of operators that run elsewhere; prompts need them on the accelerator too."""
    held: Counter[str] = Counter()
    for layer in range(request.model.num_layers):
        for operator in block_operators(request.model, layer):
            where = (request.spec.operators or {}).get(operator.name)
            if where is not None:
                weights = operator_weights(request.model, operator.name, request.layout).size_bytes(request.model)
                held[where] += weights * request.layout.tp
    for name, num_bytes in held.items():
        if num_bytes:
            what = f"weights of operators of instance {request.index}"
            memories.claim(what, places[name], num_bytes, request.node)


def _claim_kv(
    requests: Sequence[OffloadRequest], places: Mapping[int, Mapping[str, Place]], memories: Memories
) -> dict[int, int]:
    """Keep room for KV blocks: what is stated, then equal parts of the rest; return how many each has."""
    where = {r.index: (r.spec.operators or {}).get(ATTENTION) for r in requests}
    with_kv = [(r, places[r.index][name]) for r in requests if (name := where[r.index]) is not None]
    blocks = {r.index: r.spec.num_gpu_blocks for r, _ in with_kv if r.spec.num_gpu_blocks is not None}
    for request, place in with_kv:
        if request.index in blocks:
            size = blocks[request.index] * request.kv_block_bytes
            with located(request.path):
                memories.claim(f"KV of instance {request.index}", place, size, request.node)
    rest = Counter(place for request, place in with_kv if request.index not in blocks)
    shares = {place: memories.free_bytes(place) // count for place, count in rest.items()}
    for request, place in with_kv:
        if request.index in blocks:
            continue
        count = min(shares[place] // request.kv_block_bytes, KV_BLOCKS_MAX)
        with located(request.path):
            if count < 2:
                raise CapacityError(
                    f"{place} leaves {format_size(shares[place])} for KV, but a block takes "
                    f"{format_size(request.kv_block_bytes)}; expected room for two at least"
                )
            memories.claim(f"KV of instance {request.index}", place, count * request.kv_block_bytes, request.node)
        blocks[request.index] = count
    return blocks
