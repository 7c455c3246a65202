"""Where an instance's weights and KV lie: what the file says, checked, found among the run's memories and claimed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from llmservingsim.config import InstanceSpec, PlacementSpec, RunSpec
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.config.placement_spec import BlockRule, parse_blocks
from llmservingsim.config.tier_spec import tier_names
from llmservingsim.errors import ConfigError, located, nearest, one_of
from llmservingsim.memories import Memories
from llmservingsim.model import NPU, ParallelLayout, Placement, layer_names
from llmservingsim.trace import Site


def plan_placement(spec: PlacementSpec | None, model: ModelSpec, layout: ParallelLayout) -> Placement | None:
    """Return what lies where; None if all of it lies on the devices.

    Raises:
        ConfigError: If the section names blocks or layers that the model does not have, or contradicts itself.
    """
    if spec is None:
        return None
    _check_layers(spec, model)
    _check_experts(spec, model, layout)
    kv = _by_block(spec.blocks, "kv_loc", model)
    for block in range(model.num_layers):
        kv.setdefault(block, spec.default.kv_loc or NPU)
    found = Placement(
        model=model,
        layout=layout,
        default=spec.default.weights or NPU,
        blocks=_by_block(spec.blocks, "weights", model),
        layers={name: rule.weights for name, rule in spec.layers.items() if rule.weights is not None},
        kv=kv,
        prefetch_depth=spec.prefetch_depth,
        across_iterations=spec.prefetch_across_iterations,
        on_demand=spec.expert_prefetch == "on_demand",
        cached_experts=spec.cached_experts,
    )
    return found if found.memories() else None


def claim_places(
    placement: Placement, memories: Memories, node: int, who: str, layer_kv_bytes: int, nnodes: int = 1
) -> dict[str, Site]:
    """Find the memories that an instance uses, seen from its node, and keep room there for all of its ranks.

    Args:
        placement: What lies where.
        memories: Of the run.
        node: Where the instance is.
        who: The instance, for messages.
        layer_kv_bytes: What the keys and values of one block take on one rank.
        nnodes: Servers that the instance is on.

    Raises:
        ConfigError: If the run does not describe a memory, or it is that of one of several servers.
        CapacityError: If there is too little.
    """
    weights: Counter[str] = Counter()
    kv: Counter[str] = Counter()
    for stage in range(placement.layout.pp):
        weights.update(placement.stored_bytes(stage))
        kv.update({where: layers * layer_kv_bytes for where, layers in placement.kv_stored_layers(stage).items()})
    sites = {}
    for name in sorted(placement.memories()):
        with located("placement"):
            place = memories.find(name, node, nnodes)
        sites[name] = Site(place.location, place.device)
        for what, held in (("weights", weights), ("KV", kv)):
            if held[name]:
                memories.claim(f"{what} of {who}", place, held[name] * placement.layout.tp, node)
    return sites


def check_kv(placement: Placement, spec: InstanceSpec) -> None:
    """Raise ConfigError if the KV that lies elsewhere cannot be counted, or moves on from there."""
    if not placement.keeps_kv:
        return
    stages = range(placement.layout.pp)
    if spec.num_gpu_blocks is None and not any(
        placement.kv_layers(placement.model, placement.layout, stage) for stage in stages
    ):
        raise ConfigError(
            "placement: no block keeps its KV on the device, so device memory does not tell how many KV blocks there "
            "are; expected num_gpu_blocks"
        )
    for key, default in (("kv_role", "kv_both"), ("prefix_storage", None), ("preemption_mode", "recompute")):
        if getattr(spec, key) not in (default, None, ()):
            raise ConfigError(
                f"placement: {key} {tier_names(getattr(spec, key))!r} moves KV from and to the device; "
                f"expected kv_loc npu, or no {key}"
            )


def placement_notes(spec: RunSpec) -> list[str]:
    """Say what the sections state and the run does not use."""
    return [
        f"nodes[{n}].instances[{k}].placement: kv_evict_loc is not used: prefix_storage says where it goes"
        for n, node in enumerate(spec.nodes)
        for k, instance in enumerate(node.instances)
        if instance.placement is not None
        and any(rule.kv_evict_loc not in (None, NPU) for rule in instance.placement.rules())
    ]


def _by_block(rules: Iterable[BlockRule], key: str, model: ModelSpec) -> dict[int, str]:
    """Return what the rules say of each block."""
    found: dict[int, str] = {}
    said: dict[int, str] = {}
    for position, rule in enumerate(rules):
        answer = getattr(rule, key)
        for block in parse_blocks(rule.blocks):
            if block >= model.num_layers:
                raise ConfigError(
                    f"placement.blocks[{position}]: {rule.blocks!r} has block {block}, but {model.name} has blocks 0 "
                    f"to {model.num_layers - 1}"
                )
            if answer is None:
                continue
            if found.setdefault(block, answer) != answer:
                raise ConfigError(
                    f"placement.blocks[{position}]: {key} of block {block} is {answer!r} here, but {found[block]!r} in "
                    f"blocks {said[block]!r}; expected one answer"
                )
            said.setdefault(block, rule.blocks)
    return found


def _check_layers(spec: PlacementSpec, model: ModelSpec) -> None:
    known = layer_names(model)
    for name, rule in spec.layers.items():
        if name not in known:
            raise ConfigError(
                f"placement.layers: {model.name} has no layer with weights {name!r}{nearest(name, known)}; expected "
                f"{one_of(known)}"
            )
        if rule.kv_loc not in (None, NPU):
            raise ConfigError(
                f"placement.layers.{name}.kv_loc: keys and values belong to blocks; expected it in blocks or default"
            )
    head, table = (spec.layers.get(name) for name in ("lm_head", "embedding"))
    if model.tie_word_embeddings and head is not None and head.weights is not None:
        where = (table.weights if table is not None else None) or spec.default.weights or NPU
        if head.weights != where:
            raise ConfigError(
                f"placement.layers.lm_head: {model.name} has one table for embedding and lm_head; expected "
                f"{where!r} as for the embedding, got {head.weights!r}"
            )


def _check_experts(spec: PlacementSpec, model: ModelSpec, layout: ParallelLayout) -> None:
    for key in ("expert_prefetch", "cached_experts"):
        stated, default = getattr(spec, key), getattr(PlacementSpec(), key)
        if stated != default and not model.num_experts:
            raise ConfigError(f"placement.{key}: {model.name} has no experts; expected a mixture of experts")
    held = layout.local_experts(model) if model.num_experts else 1
    if spec.cached_experts >= held:
        raise ConfigError(
            f"placement.cached_experts: a rank holds {held} experts of a block, got {spec.cached_experts}; expected "
            "fewer, or experts on the device"
        )
