"""What a run spent: reads what its devices did, once it has ended, and asks the room `power` what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from llmservingsim.config import RunSpec
from llmservingsim.config.power_spec import PowerRunSpec
from llmservingsim.errors import located
from llmservingsim.instance import Instance
from llmservingsim.memory_traffic import moved_bytes
from llmservingsim.power import (
    Asked,
    PowerModel,
    ServerPower,
    StageRun,
    Uptime,
    account,
    attribute,
    make_power_model,
)
from llmservingsim.power.ledger import POOL, Load
from llmservingsim.report import EnergyReport, Measured
from llmservingsim.resolve import System, power_of_node

_COMPONENT = {"cpu": "dram", "cxl": "cxl", "storage": "storage"}
"""Of what pays for bytes of a tier."""


def check_power(spec: RunSpec, system: System) -> None:
    """Raise for a power model or section that makes no sense, before anything runs."""
    if _is_counted(spec):
        _servers(spec)
        for instance in system.instances:
            _model(spec, instance)


def count_energy(spec: RunSpec, system: System, measured: Measured) -> EnergyReport | None:
    """Return what a run has spent so far; None where nobody asked for it."""
    if not _is_counted(spec):
        return None
    end_ns = max(measured.recorder.end_ns, system.backend.now_ns)
    stages = list(_stages(spec, system, end_ns))
    servers = _with_memories(_servers(spec), system.instances)
    crossed = system.transfers.records if system.transfers is not None else []
    node_of = [instance.node for instance in system.instances]
    spans = [Load(node_of[r.source], "link", r.num_bytes, (r.start_ns, max(r.start_ns, r.end_ns))) for r in crossed]
    ledger = account(stages, servers, [*_loads(system), *spans], end_ns)
    table = measured.table
    asked = Asked(
        [record.request_id for record in table.records],
        [detail.engine for detail in table.details],
        [detail.token_batches for detail in table.details],
    )
    chunks = [instance.engine.log.chunks for instance in system.instances]
    own = [(stage.instance, stage.activity, graphs) for stage, graphs in zip(stages, ledger.graph_j, strict=True)]
    attribution = attribute(own, chunks, asked)
    request_j, row_of = attribution.request_j.copy(), {number: row for row, number in enumerate(asked.request_id)}
    lost_j = attribution.lost_j
    for record, joules in zip(crossed, ledger.loads_j, strict=True):
        row = row_of.get(record.request_id)
        if row is None:
            lost_j += joules
        else:
            request_j[row] += joules
    return EnergyReport(
        ledger=ledger,
        attribution=attribution,
        stages=stages,
        absent=_absent(servers, system.instances),
        request_j=request_j,
        transfer_j=sum(ledger.loads_j),
        lost_j=lost_j,
        sample_ns=system.sample_ns,
        clocks=[instance.clock for instance in system.instances],
        options=spec.power or PowerRunSpec(),
    )


def _is_counted(spec: RunSpec) -> bool:
    return spec.power is not None or any(node.power is not None for node in spec.nodes)


def _servers(spec: RunSpec) -> dict[int, ServerPower]:
    found: dict[int, ServerPower] = {}
    for number, node in enumerate(spec.nodes):
        with located(f"nodes[{number}]"):
            found[number] = ServerPower.of(power_of_node(spec, number), node)
    found[POOL] = ServerPower.of_pool(spec.power.cxl if spec.power is not None else None, spec.cxl_memory)
    return found


def _with_memories(servers: Mapping[int, ServerPower], instances: Sequence[Instance]) -> dict[int, ServerPower]:
    """Count the channels of memories that compute; instances of a server share one."""
    found = dict(servers)
    for instance in instances:
        if instance.computing_memory is not None:
            found[instance.node] = found[instance.node].with_memory(instance.computing_memory)
    return found


def _model(spec: RunSpec, instance: Instance) -> PowerModel | None:
    options = spec.power or PowerRunSpec()
    if instance.power is None:
        return None
    return make_power_model(options.model, instance.power, options.options)


def _stages(spec: RunSpec, system: System, end_ns: int) -> Iterator[StageRun]:
    """Every pipeline stage of every instance, with what it did until now."""
    specs = [instance for node in spec.nodes for instance in node.instances]
    stays_idle = spec.power is not None and spec.power.stopped == "idle"
    for instance, stated in zip(system.instances, specs, strict=True):
        model = _model(spec, instance)
        uptimes = _uptimes(system, instance, end_ns)
        stopped_w = model.resting()[-1].watts if model is not None and stays_idle else 0.0
        per_node = len(instance.ranks) // stated.nnodes
        size = len(instance.ranks) // len(instance.activity)
        for stage, log in enumerate(instance.activity):
            places = Counter(instance.node + k // per_node for k in range(stage * size, (stage + 1) * size))
            activity = log.activity(end_ns)
            builder = instance.builders[stage]
            ring = 2 * (len(builder.ranks) - 1) / len(builder.ranks)
            sent = np.asarray(activity.collective_bytes * ring, dtype=np.float64)
            if stage < len(instance.activity) - 1:  # every rank sends its tokens' hidden states to the next stage
                row_bytes = builder.model.hidden_size * builder.model.dtype_bytes * size
                sent = sent + (activity.prompt_tokens + activity.decodes) * row_bytes
            memory = instance.computing_memory
            channels = memory.per_node if memory is not None else 1.0
            yield StageRun(instance.index, dict(places), activity, sent, model, uptimes, stopped_w, channels)


def _uptimes(system: System, instance: Instance, end_ns: int) -> Sequence[Uptime]:
    """When an instance was not stopped."""
    pools = system.autoscaler.pools if system.autoscaler is not None else ()
    pool = next((pool for pool in pools if instance in pool.instances), None)
    if pool is None:
        return [Uptime(0, 0, end_ns)]
    found = []
    for is_stopped, stretches in groupby(pool.stretches(instance, end_ns), lambda stretch: stretch.phase == "stopped"):
        if not is_stopped:
            up = list(stretches)
            down_ns = up[-1].end_ns
            ready_ns = next((stretch.begin_ns for stretch in up if stretch.phase == "active"), down_ns)
            found.append(Uptime(up[0].begin_ns, ready_ns, down_ns))
    return found


def _loads(system: System) -> Iterator[Load]:
    """What was loaded from memories and stored there."""
    for place, _, num_bytes in moved_bytes(system):
        yield Load(POOL if place.tier == "cxl" else place.device, _COMPONENT[place.tier], num_bytes)


def _absent(servers: Mapping[int, ServerPower], instances: Sequence[Instance]) -> dict[str, list[str]]:
    """Parts of servers of which nobody said what they draw."""
    found = {}
    for number, server in servers.items():
        if number == POOL:
            continue
        parts = [name for name in ("base", "cpu", "dram", "link", "nic", "storage") if name not in server.constant_w]
        unknown = sorted({i.hardware for i in instances if i.node == number and i.power is None})
        if parts or unknown:
            found[f"node:{number}"] = [*parts, *unknown]
    return found
