"""Specs become objects here, and nowhere else: below this no code reads files, environment or working directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from llmservingsim.backend import Backend, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.config import AdmissionSpec, InstanceSpec, NodePowerSpec, RunSpec, ServingSpec
from llmservingsim.deadlines import Patience
from llmservingsim.disaggregation import KvSide, connect
from llmservingsim.errors import ConfigError, located
from llmservingsim.experts import instance_seed
from llmservingsim.instance import Instance
from llmservingsim.kv_traffic import KvTraffic, connect_tiers
from llmservingsim.libraries import Libraries
from llmservingsim.lockstep import DataParallelGroup, find_groups
from llmservingsim.memories import Memories
from llmservingsim.network import NetworkPlan, plan_network
from llmservingsim.offload_plan import plan_offloading
from llmservingsim.owner import Owner
from llmservingsim.parts import Parts
from llmservingsim.power import own_numbers
from llmservingsim.ranks import Footprint, nodes_of_ranks
from llmservingsim.scaling import Autoscaler, plan_scaling
from llmservingsim.serving import Router
from llmservingsim.serving.routing import make_router
from llmservingsim.tier_plan import TierInputs, TierPlan, plan_tiers
from llmservingsim.trace import GraphBuilder, Site
from llmservingsim.transfer import KvTransfers
from llmservingsim.units import NS_PER_US, parse_time_ns

BackendFactory = Callable[[NetworkModel, SystemModel, MemoryModel], Backend]
"""Makes the backend of a run; a class that is built from these three is one."""


@dataclass(frozen=True, slots=True)
class System:
    """Everything that one run needs.

    Attributes:
        instances: The serving replicas, by index.
        owners: Who submits graphs, in the order in which they are asked: the instances, KV transfers, KV tiers, the
            autoscaler.
        backend: Clock, network and memories.
        router: Chooses an instance per request.
        admission: Limits beyond which it does not, if any.
        load_update_ns: Between two reports of the instances to the router, 0 for at once.
        network: What the backend's network was built from; written beside exported traces.
        system: Likewise for its system layer.
        memories: Beside those of the accelerators.
        builders: What makes graphs of the instances' batches.
        sample_ns: Step of the time series.
        patience: How long clients wait.
        transfers: KV caches on their way between instances; None where no instance hands on.
        traffic: KV on its way to and from lower tiers; None where there are none.
        autoscaler: Starts and stops instances; None where all run all the time.
    """

    instances: tuple[Instance, ...]
    owners: tuple[Owner, ...]
    backend: Backend
    router: Router
    admission: AdmissionSpec | None
    load_update_ns: int
    network: NetworkModel
    system: SystemModel
    memories: Memories
    builders: tuple[GraphBuilder, ...]
    sample_ns: int
    patience: Patience
    transfers: KvTransfers | None = None
    traffic: KvTraffic | None = None
    autoscaler: Autoscaler | None = None


def resolve(spec: RunSpec, libraries: Libraries, make_backend: BackendFactory = NativeBackend) -> System:
    """Build the run that ``spec`` describes.

    Args:
        spec: What the user wrote.
        libraries: Where it looks things up.
        make_backend: Makes the backend; one that raises ValueError refuses the configuration.

    Raises:
        UserError: If anything that it names is missing, contradictory, too large or not simulated.
    """
    sample_ns = _sample_ns(spec)
    places, groups = _places(spec)
    parts = []
    for position, place in enumerate(places):
        with located(place.path):
            parts.append(Parts.gather(place.spec, _of_node(spec, place.node, libraries), len(groups[position])))
    memories, sites, tiers = _plan_memories(spec, places, parts, libraries)
    footprints = _footprints(spec, places, parts, groups)
    plan = plan_network(spec.network, footprints, [p.accelerator for p in parts], libraries.base)
    memories.attach(nodes_of_ranks(footprints, plan.ranks, plan.network.npus), plan.endpoints)
    copies = any(sites) or any(tier is not None and tier.options.recall == "layerwise" for tier in tiers)
    system = _with_copies(plan.system) if copies else plan.system
    backend = _backend(make_backend, plan.network, system, memories)
    instances: list[Instance] = []
    owners: list[Owner] = []
    built: dict[int, Sequence[GraphBuilder]] = {}  # by the first member
    for position, (place, part) in enumerate(zip(places, parts, strict=True)):
        with located(place.path):
            members = groups[position] if part.layout.dp > 1 else (position,)
            seed = instance_seed(spec.seed, position)
            if position == members[0]:
                ranks = [plan.ranks[m] for m in members]
                built[position] = part.builders(ranks, [sites[m] for m in members], libraries, seed)
            builders = built[members[0]]
            instances.append(part.instance(position, place.node, plan.ranks[position], builders, backend, seed))
            if len(members) == 1:
                owners.append(instances[position])
            elif position == members[-1]:
                owners.append(DataParallelGroup([instances[m] for m in members], builders, backend))
    transfers = _transfers(spec, parts, instances, backend, plan)
    traffic = connect_tiers(tiers, instances, [p.model for p in parts], backend)
    autoscaler = plan_scaling(spec.autoscaling, instances, [p.spec for p in parts], backend, transfers)
    return System(
        instances=tuple(instances),
        owners=(*owners, *(owner for owner in (transfers, traffic, autoscaler) if owner is not None)),
        backend=backend,
        router=_router(spec.router, spec.seed, instances),
        admission=spec.admission,
        load_update_ns=parse_time_ns(spec.load_update_interval),
        network=plan.network,
        system=system,
        memories=memories,
        builders=tuple(builder for group in built.values() for builder in group),
        sample_ns=sample_ns,
        patience=Patience.of(spec.timeouts),
        transfers=transfers,
        traffic=traffic,
        autoscaler=autoscaler,
    )


def _plan_memories(
    spec: RunSpec, places: Sequence[_Place], parts: list[Parts], libraries: Libraries
) -> tuple[Memories, list[dict[str, Site]], list[TierPlan | None]]:
    """Find the memories that each instance names, and keep room there for what it has there: weights first.

    Parts of instances of which other devices compute something learn of these.
    """
    memories, sites = Memories(spec), []
    for position, (place, part) in enumerate(zip(places, parts, strict=True)):
        with located(place.path):
            sites.append(part.claim_places(memories, place.node, position))
    asked = [p.offload_request(at.path, at.node, n) for n, (at, p) in enumerate(zip(places, parts, strict=True))]
    found = plan_offloading([request for request in asked if request.spec.operators], spec, memories, libraries)
    for position, offloading in found.items():
        parts[position] = replace(parts[position], offloading=offloading)
        sites[position].update(offloading.sites)
    tiers = plan_tiers([_tier_inputs(place, part) for place, part in zip(places, parts, strict=True)], memories)
    return memories, sites, tiers


def _backend(make: BackendFactory, network: NetworkModel, system: SystemModel, memories: Memories) -> Backend:
    try:
        return make(network, system, memories.model)
    except ValueError as error:  # the backend's own limits
        raise ConfigError(str(error)) from error


def _with_copies(system: SystemModel) -> SystemModel:
    """Let a rank copy from and to other memories while it communicates, as copy engines do."""
    return msgspec.structs.replace(system, dialect="llmservingsim")


def _places(spec: RunSpec) -> tuple[list[_Place], list[tuple[int, ...]]]:
    """The instances in file order, and for each the positions of all members of its data-parallel group."""
    places = [
        _Place(n, k, _capped(merge(i, spec.serving), power_of_node(spec, n)))
        for n, node in enumerate(spec.nodes)
        for k, i in enumerate(node.instances)
    ]
    return places, find_groups([(place.path, place.spec) for place in places])


def power_of_node(spec: RunSpec, node: int) -> NodePowerSpec | None:
    """Return a server's own section ``power``, or that of every server without one."""
    return spec.nodes[node].power or (spec.power.node if spec.power is not None else None)


def _of_node(spec: RunSpec, node: int, libraries: Libraries) -> Libraries:
    """Let accelerators draw what the server's section says."""
    power = power_of_node(spec, node)
    if power is None or not power.accelerators:
        return libraries
    return replace(libraries, accelerators=own_numbers(power, libraries.accelerators))


def _capped(instance: InstanceSpec, power: NodePowerSpec | None) -> InstanceSpec:
    """Give an instance the cap of its server if it has none."""
    if power is None or power.power_cap is None or instance.power_cap is not None:
        return instance
    return msgspec.structs.replace(instance, power_cap=power.power_cap)


def _tier_inputs(place: _Place, part: Parts) -> TierInputs:
    return TierInputs(place.path, place.node, part.serving, part.model, part.layout, place.spec.nnodes)


def _transfers(
    spec: RunSpec, parts: Sequence[Parts], instances: Sequence[Instance], backend: Backend, plan: NetworkPlan
) -> KvTransfers | None:
    """Let instances that prefill hand on to instances that decode, where there are some."""
    sides = [
        KvSide(i, p.model, p.layout, p.serving.kv_cache_dtype, p.spec.kv_role)
        for p, i in zip(parts, instances, strict=True)
    ]
    return connect(
        sides,
        spec.kv_transfer,
        backend,
        partial(_decode_router, spec),
        partial(NativeBackend, plan.network, plan.system, MemoryModel()),
    )


def _footprints(
    spec: RunSpec, places: Sequence[_Place], parts: Sequence[Parts], groups: Sequence[Sequence[int]]
) -> list[Footprint]:
    """What the instances take of the network; a node without instances has to be one that an earlier one reaches."""
    found = [
        Footprint(p.path, p.node, q.layout.num_ranks, p.spec.nnodes, q.layout.pp, group[0] if q.layout.dp > 1 else -1)
        for p, q, group in zip(places, parts, groups, strict=True)
    ]
    used = {node for f in found for node in range(f.node, f.node + f.nnodes)}
    for node in range(len(spec.nodes)):
        if node not in used:
            raise ConfigError(
                f"nodes[{node}].instances: nothing is on this node; expected an instance, here or on an earlier node "
                "with nnodes that reach this one"
            )
    return found


def _sample_ns(spec: RunSpec) -> int:
    sample_ns = parse_time_ns(spec.timeseries_interval)
    if sample_ns < NS_PER_US:
        raise ConfigError(f"timeseries_interval: expected at least 1us, got {spec.timeseries_interval!r}")
    return sample_ns


def _router(asked: str | dict[str, Any], seed: int, instances: Sequence[Instance]) -> Router:
    router = make_router(asked, seed)
    if hasattr(router, "started"):
        router.started([instance.load() for instance in instances])
    return router


def _decode_router(spec: RunSpec, decoders: Sequence[Instance]) -> Router:
    with located("decode_router"):
        return _router(spec.decode_router, spec.seed, decoders)


@dataclass(frozen=True, slots=True)
class _Place:
    """An instance in the run file."""

    node: int
    position: int
    spec: InstanceSpec

    @property
    def path(self) -> str:
        """Its key path."""
        return f"nodes[{self.node}].instances[{self.position}]"


def merge(instance: InstanceSpec, defaults: ServingSpec) -> InstanceSpec:
    """Give an instance the run's serving options that it does not state itself.

    One that states that it has no prefix cache gets no tiers for it.
    """
    missing = {
        key: getattr(defaults, key)
        for key in ServingSpec.__struct_fields__
        if getattr(instance, key) is None and getattr(defaults, key) is not None
    }
    if instance.enable_prefix_caching is False:
        for key in ("prefix_storage", "prefix_sharing"):
            missing.pop(key, None)
    return msgspec.structs.replace(instance, **missing)
