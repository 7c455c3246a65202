"""Which tiers each instance has, how large they are, and who shares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from llmservingsim.config import TierSpec
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.defaults import Serving
from llmservingsim.errors import CapacityError, ConfigError, located
from llmservingsim.memories import Memories, Place
from llmservingsim.model import ParallelLayout, kv_bytes_per_token, kv_bytes_per_token_layer
from llmservingsim.plugins import make_plugin
from llmservingsim.serving.kv.eviction import EVICTION_POLICIES, EvictionPolicy
from llmservingsim.serving.kv.swap import SwapSpace
from llmservingsim.serving.kv.tier_store import TierStore
from llmservingsim.serving.kv.tiers import TierOptions
from llmservingsim.units import format_size, parse_size_bytes


class TierInputs(NamedTuple):
    """What decides about the tiers of an instance.

    Attributes:
        path: Its key path, for messages.
        node: Its server.
        serving: Its options.
        model, layout: What it serves, and how it is cut.
        nnodes: How many servers it is on.
    """

    path: str
    node: int
    serving: Serving
    model: ModelSpec
    layout: ParallelLayout
    nnodes: int = 1

    @property
    def token_bytes(self) -> int:
        """Of one token's KV, every head of every block once."""
        return kv_bytes_per_token(self.model, kv_cache_dtype=self.serving.kv_cache_dtype)


class TierPlan(NamedTuple):
    """The tiers of one instance.

    Attributes:
        stores, places: What lies where, the fastest first.
        nodes: Per store, the server whose memory it is; None for what all reach.
        targets: Stores that the instance writes to.
        swap_place: Host memory for preempted requests, if they are swapped.
        options: How it uses them.
        stage_bytes: Of a token on a rank of each pipeline stage.
        replicas: Ranks that hold the same heads.
    """

    stores: tuple[TierStore, ...]
    places: tuple[Place, ...]
    nodes: tuple[int | None, ...]
    targets: tuple[int, ...]
    swap_place: Place | None
    options: TierOptions
    stage_bytes: tuple[int, ...]
    replicas: int


_Swap = tuple[Place, SwapSpace]


class _Wanted:
    """A store that one instance or several want.

    Attributes:
        name: For messages.
        place: Where.
        spec: What was stated of it, by the first.
        inputs: Of the first.
    """

    def __init__(self, name: str, place: Place, spec: TierSpec, inputs: TierInputs) -> None:
        self.name, self.place, self.spec, self.inputs = name, place, spec, inputs
        self.store: TierStore | None = None


def plan_tiers(instances: Sequence[TierInputs], memories: Memories) -> list[TierPlan | None]:
    """Find out which tiers every instance has, and claim their memory; None for instances without any.

    Raises:
        ConfigError: If an option contradicts another, or a memory is not there.
        CapacityError: If the tiers do not fit.
        PluginError: If an eviction policy is unknown or cannot be built.
    """
    wanted: dict[Any, _Wanted] = {}
    keys: list[list[Any]] = []
    swaps: list[_Swap | None] = []
    for number, inputs in enumerate(instances):
        with located(inputs.path):
            _check(inputs)
            swaps.append(_claim_swap(number, inputs, memories))
            keys.append([_want(wanted, number, inputs, spec, memories) for spec in _specs(inputs.serving)])
    _claim_stores(list(wanted.values()), memories)
    return [
        _plan(inputs, own, swap, _readable(inputs, wanted, memories)) if own or swap else None
        for inputs, own, swap in zip(instances, keys, swaps, strict=True)
    ]


def _specs(serving: Serving) -> list[TierSpec]:
    stated = serving.prefix_storage
    tiers = (stated,) if isinstance(stated, str) else stated
    return [TierSpec(tier=tier) if isinstance(tier, str) else tier for tier in tiers]


def _check(inputs: TierInputs) -> None:
    serving = inputs.serving
    specs = _specs(serving)
    names = [spec.tier for spec in specs]
    if len(set(names)) < len(names):
        raise ConfigError(f"prefix_storage: a tier is named twice in {names}; expected each once")
    if specs and not serving.enable_prefix_caching:
        raise ConfigError("prefix_storage: needs enable_prefix_caching; expected true")
    if serving.prefix_sharing and not specs:
        raise ConfigError("prefix_sharing: there is no tier to share; expected prefix_storage, such as cpu")
    if specs and serving.prefix_write == "through" and serving.prefix_chunk_size % serving.block_size:
        raise ConfigError(
            f"prefix_chunk_size: {serving.prefix_chunk_size} is no multiple of block_size {serving.block_size}"
        )
    stages, members = inputs.layout.pp, inputs.layout.dp
    in_line = {
        "prefix_write: back": specs and serving.prefix_write == "back",
        f"prefix_recall: {serving.prefix_recall}": specs and serving.prefix_recall != "async",
        "preemption_mode: swap": serving.preemption_mode == "swap",
    }
    for option, is_asked in in_line.items():
        if is_asked and (stages > 1 or members > 1):
            raise ConfigError(
                f"{option} makes a batch wait for memory, which is simulated for instances of one pipeline stage "
                "outside data-parallel groups only"
            )


def _claim_swap(number: int, inputs: TierInputs, memories: Memories) -> _Swap | None:
    if inputs.serving.preemption_mode != "swap":
        return None
    with located("preemption_mode"):
        place = _find("cpu", inputs, memories)
    num_bytes, token_bytes = parse_size_bytes(inputs.serving.swap_space), inputs.token_bytes
    space = SwapSpace(num_bytes // token_bytes)
    name = f"swap space of instance {number}"
    memories.claim(name, place, num_bytes, filled=lambda: space.used_tokens * token_bytes)
    return place, space


def _find(name: str, inputs: TierInputs, memories: Memories) -> Place:
    return memories.find(name, inputs.node, inputs.nnodes)


def _want(wanted: dict[Any, _Wanted], number: int, inputs: TierInputs, spec: TierSpec, memories: Memories) -> Any:
    """Note that an instance wants a store, and return its key; those who share it have the same."""
    with located("prefix_storage"):
        place = _find(spec.tier, inputs, memories)
    serving = inputs.serving
    name = f"prefix cache of instance {number}"
    key: tuple[Any, ...] = (number, spec.tier)
    if serving.prefix_sharing:
        name = f"prefix cache of {inputs.model.name}"
        key = (place, inputs.model.name, inputs.token_bytes, _chunk_size(serving), serving.block_size)
    first = wanted.setdefault(key, _Wanted(name, place, spec, inputs))
    if first.spec != spec:
        raise ConfigError(
            f"prefix_storage: the tier {spec.tier} is shared with {first.inputs.path}, which describes it otherwise; "
            f"expected {first.spec}, got {spec}"
        )
    return key


def _chunk_size(serving: Serving) -> int:
    return serving.block_size if serving.prefix_write == "back" else serving.prefix_chunk_size


def _claim_stores(stores: Sequence[_Wanted], memories: Memories) -> None:
    """Give stated sizes first, then an even part of what is left to those without one."""
    for wanted in stores:
        if wanted.spec.size is not None:
            _make(wanted, parse_size_bytes(wanted.spec.size), memories)
    silent = [wanted for wanted in stores if wanted.spec.size is None]
    for place in dict.fromkeys(wanted.place for wanted in silent):
        sharers = [wanted for wanted in silent if wanted.place == place]
        part = memories.free_bytes(place) // len(sharers)
        for wanted in sharers:
            _make(wanted, part, memories)


def _make(wanted: _Wanted, num_bytes: int, memories: Memories) -> None:
    inputs, spec = wanted.inputs, wanted.spec
    with located(inputs.path):
        chunk = _chunk_size(inputs.serving)
        chunks = num_bytes // (chunk * inputs.token_bytes)
        if not chunks:
            raise CapacityError(
                f"prefix_storage: {format_size(num_bytes)} of {memories.name(wanted.place)} hold no chunk of {chunk} "
                f"tokens, which is {format_size(chunk * inputs.token_bytes)}"
            )
        store = wanted.store = TierStore(spec.tier, chunks * chunk, _policy(spec))
        token_bytes = inputs.token_bytes
        memories.claim(wanted.name, wanted.place, num_bytes, filled=lambda: store.used_tokens * token_bytes)


def _policy(spec: TierSpec) -> EvictionPolicy:
    options: dict[str, Any] = {"policy": spec.eviction} if isinstance(spec.eviction, str) else dict(spec.eviction)
    name = options.pop("policy", None)
    if not isinstance(name, str):
        raise ConfigError(f"eviction: expected a name, or a section with the key 'policy', got {spec.eviction!r:.60}")
    made: EvictionPolicy = make_plugin("eviction", name, EVICTION_POLICIES, (), ("priority",), options)
    return made


def _readable(inputs: TierInputs, wanted: dict[Any, _Wanted], memories: Memories) -> dict[Any, _Wanted]:
    """Those stores that lie in the pool where an instance's node does not reach are none to it."""
    return {key: store for key, store in wanted.items() if memories.reaches(inputs.node, store.place)}


def _plan(
    inputs: TierInputs, own: Sequence[Any], swap: tuple[Place, SwapSpace] | None, wanted: dict[Any, _Wanted]
) -> TierPlan:
    """Own stores first, tier by tier, then those of neighbours."""
    keys = list(own)
    if inputs.serving.prefix_sharing == "cluster":
        keys += [key for key in wanted if key not in own and any(_is_alike(key, mine) for mine in own)]
    found = [wanted[key] for key in keys]
    serving, layout = inputs.serving, inputs.layout
    per_layer = kv_bytes_per_token_layer(inputs.model, layout.tp, serving.kv_cache_dtype)
    whole = kv_bytes_per_token_layer(inputs.model, 1, serving.kv_cache_dtype)
    return TierPlan(
        stores=tuple(w.store for w in found if w.store is not None),
        places=tuple(w.place for w in found),
        nodes=tuple(w.place.device if w.place.tier != "cxl" else None for w in found),
        targets=tuple(range(len(own))),
        swap_place=swap[0] if swap else None,
        options=TierOptions(
            chunk_size=_chunk_size(serving),
            write=serving.prefix_write,
            recall=serving.prefix_recall,
            swap=swap[1] if swap else None,
        ),
        stage_bytes=tuple(
            kv_bytes_per_token(inputs.model, layout, stage, serving.kv_cache_dtype) for stage in range(layout.pp)
        ),
        replicas=per_layer * layout.tp // whole,
    )


def _is_alike(key: Any, mine: Any) -> bool:
    """Whether two shared stores hold the same kind of chunks in the same tier, in different memories."""
    return isinstance(key[0], Place) and key[0].tier == mine[0].tier and key[1:] == mine[1:]
