"""Cluster files of LLMServingSim 2.0 (and its older spelling) as a run file.

GB of capacities means 2^30 bytes there, and bandwidths go to the network and memory back end as they are: a link's GB
counts 2^30 bytes, as in ASTRA-sim, a memory's 10^9. A ``mem_util`` of these files was fitted to a known number of KV
blocks with nothing but weights subtracted, so their instances get ``kv_memory_model: weights_only``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.instance_spec import InstanceSpec, ServingSpec
from llmservingsim.config.memory_spec import CxlSpec, NodeMemorySpec
from llmservingsim.config.peer_links import import_links
from llmservingsim.config.placement_spec import PlacementSpec
from llmservingsim.config.quantities import Count, KvDtype
from llmservingsim.config.spec import NodeSpec, RunSpec
from llmservingsim.errors import ConfigError
from llmservingsim.strict import convert

_DEFAULTS = ServingSpec(max_num_seqs=128, max_num_batched_tokens=2048, block_size=16)
"""What that program assumes where its file is silent."""

_ROLES: dict[str | None, Literal["kv_both", "kv_producer", "kv_consumer"]] = {
    None: "kv_both",
    "prefill": "kv_producer",
    "decode": "kv_consumer",
}

Amount = Annotated[float, Meta(ge=0, le=1e12)]
Positive = Annotated[float, Meta(gt=0, le=1e12)]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the file's sections."""


class _Memory(_Strict, frozen=True, kw_only=True):
    mem_size: Positive
    mem_bw: Positive
    mem_latency: Amount = 0
    mem_util: Annotated[float, Meta(gt=0, le=1)] | None = None
    num_devices: Count = 1
    pim_config: str | None = None


class _Instance(_Strict, frozen=True, kw_only=True):
    model_name: str
    hardware: str
    npu_mem: _Memory
    pd_type: Literal["prefill", "decode"] | None = None
    num_npus: Count | None = None
    tp_size: Count | None = None
    pp_size: Count | None = None
    ep_size: Count | None = None
    dp_group: str | None = None
    npu_num: Count | None = None
    npu_group: Count | None = None
    placement: PlacementSpec | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Annotated[int, Meta(ge=0)] | None = None
    long_prefill_token_threshold: Annotated[int, Meta(ge=0)] | None = None
    block_size: Count | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    kv_cache_dtype: KvDtype | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None
    reserve_full_isl: bool | None = None
    enable_local_offloading: bool | None = None
    enable_attn_offloading: bool | None = None
    enable_sub_batch_interleaving: bool | None = None
    enable_block_copy: bool | None = None


class _Node(_Strict, frozen=True, kw_only=True):
    instances: Annotated[tuple[_Instance, ...], Meta(min_length=1)]
    num_instances: Count | None = None
    cpu_mem: _Memory | None = None
    power: dict[str, Any] | None = None


class _Cluster(_Strict, frozen=True, kw_only=True):
    nodes: Annotated[tuple[_Node, ...], Meta(min_length=1)]
    num_nodes: Count | None = None
    link_bw: Positive | Annotated[tuple[Positive, ...], Meta(min_length=1)] = 16
    link_latency: Amount | Annotated[tuple[Amount, ...], Meta(min_length=1)] = 0
    cxl_mem: _Memory | None = None


def is_peer_file(data: object) -> bool:
    """Whether the top level looks like a cluster file of LLMServingSim 2.0."""
    if not isinstance(data, dict):
        return False
    nodes = data.get("nodes")
    node = nodes[0] if isinstance(nodes, list) and nodes else None
    instances = node.get("instances") if isinstance(node, dict) else None
    instance = instances[0] if isinstance(instances, list) and instances else None
    return (isinstance(instance, dict) and "model_name" in instance) or "num_nodes" in data or "link_bw" in data


def import_peer_file(data: object, where: str) -> tuple[RunSpec, list[str]]:
    """Turn a cluster file into a run, with notes on what it says and this run does not use.

    Raises:
        ConfigError: For a key that is unknown or contradicts another, or for a feature that would change the timing
            and is not simulated.
    """
    cluster = convert(data, _Cluster, where, ConfigError)
    _check_count(cluster.num_nodes, len(cluster.nodes), f"{where}: num_nodes", "nodes")
    notes = _notes(cluster)
    nodes: list[NodeSpec] = []
    for n, node in enumerate(cluster.nodes):
        place = f"{where}: nodes[{n}]"
        _check_count(node.num_instances, len(node.instances), f"{place}.num_instances", "instances")
        instances = tuple(_instance(i, f"{place}.instances[{k}]") for k, i in enumerate(node.instances))
        nodes.append(
            NodeSpec(
                instances=instances, cpu_memory=NodeMemorySpec(**_quantities(node.cpu_mem)) if node.cpu_mem else None
            )
        )
    devices = [[i.tensor_parallel_size * i.pipeline_parallel_size for i in node.instances] for node in nodes]
    network, of_links = import_links(cluster.link_bw, cluster.link_latency, devices, where)
    cxl = cluster.cxl_mem
    pool = (
        convert(_quantities(cxl) | {"num_devices": cxl.num_devices}, CxlSpec, "cxl_mem", ConfigError) if cxl else None
    )
    run = RunSpec(nodes=tuple(nodes), network=network, router="least_loaded", serving=_DEFAULTS, cxl_memory=pool)
    return run, notes + of_links


def _notes(cluster: _Cluster) -> list[str]:
    """Say what the file states and the run does not use; nothing of it would change the timing."""
    notes = []
    for n, node in enumerate(cluster.nodes):
        if node.power:
            notes.append(f"nodes[{n}].power is not used: power is not simulated")
        memories = [
            ("cpu_mem", node.cpu_mem),
            *((f"instances[{k}].npu_mem", i.npu_mem) for k, i in enumerate(node.instances)),
        ]
        for name, memory in memories:
            if memory is not None and memory.mem_latency and name != "cpu_mem":
                notes.append(f"nodes[{n}].{name}.mem_latency is not used: operator latencies hold it")
            if memory is not None and memory.pim_config:
                notes.append(f"nodes[{n}].{name}.pim_config is not used: nothing is offloaded to memory")
    return notes


def _instance(peer: _Instance, where: str) -> InstanceSpec:
    _refuse_unsupported(peer, where)
    memory = peer.npu_mem
    return InstanceSpec(
        model=peer.model_name,
        hardware=peer.hardware,
        data_parallel_group=peer.dp_group,
        kv_role=_ROLES[peer.pd_type],
        tensor_parallel_size=_tensor_parallel_size(peer, where),
        pipeline_parallel_size=peer.pp_size or peer.npu_group or 1,
        memory_size=f"{memory.mem_size}GiB",
        memory_bandwidth=f"{memory.mem_bw}GB/s",
        gpu_memory_utilization=memory.mem_util,
        kv_memory_model="weights_only" if memory.mem_util is not None else "vllm",
        max_num_seqs=peer.max_num_seqs,
        max_num_batched_tokens="auto" if peer.max_num_batched_tokens == 0 else peer.max_num_batched_tokens,
        long_prefill_token_threshold=peer.long_prefill_token_threshold,
        block_size=peer.block_size,
        dtype=peer.dtype,
        kv_cache_dtype=peer.kv_cache_dtype,
        enable_expert_parallel="auto" if peer.ep_size is None else None,
        expert_parallel_size=peer.ep_size,
        enable_chunked_prefill=peer.enable_chunked_prefill,
        enable_prefix_caching=peer.enable_prefix_caching,
        scheduler_reserve_full_isl=peer.reserve_full_isl,
        placement=peer.placement,
    )


def _refuse_unsupported(peer: _Instance, where: str) -> None:
    """Raise for whatever would change the timing and is not simulated, rather than leave it out in silence."""
    asked = {
        "enable_local_offloading": peer.enable_local_offloading,
        "enable_attn_offloading": peer.enable_attn_offloading,
        "enable_sub_batch_interleaving": peer.enable_sub_batch_interleaving,
    }
    for key, value in asked.items():
        if value:
            raise ConfigError(f"{where}.{key}: not simulated yet; expected an instance without it")


def _tensor_parallel_size(peer: _Instance, where: str) -> int:
    npus = peer.num_npus or peer.npu_num
    stages = peer.pp_size or peer.npu_group or 1
    tp = peer.tp_size or (npus or stages) // stages
    if npus is not None and npus != tp * stages:
        raise ConfigError(f"{where}: num_npus {npus} is not tp_size * pp_size = {tp} * {stages}")
    return tp


def _quantities(peer: _Memory) -> dict[str, str]:
    return {"size": f"{peer.mem_size}GiB", "bandwidth": f"{peer.mem_bw}GB/s", "latency": f"{peer.mem_latency}ns"}


def _check_count(stated: int | None, actual: int, where: str, what: str) -> None:
    if stated is not None and stated != actual:
        raise ConfigError(f"{where} is {stated}, but the file lists {actual} {what}")
