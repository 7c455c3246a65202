"""Everything at once: whatever a run file combines, nobody is lost, nothing is left over, and the run ends.

The clusters are small and short of everything: blocks, tiers, devices. A combination that is not simulated is refused
by name.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shares import check_cost, check_limits

from llmservingsim import Run, RunOptions
from llmservingsim.backend import NativeBackend, Ticket
from llmservingsim.errors import CapacityError, ConfigError
from llmservingsim.latency import ExpertWork
from llmservingsim.report import RequestRecord
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec, Session
from tests import offload_device
from tests.properties.drawn_sections import clients, money, scaling

US, MS = 1_000, 1_000_000
DENSE, LARGER = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B"
SMALL_EXPERTS = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "vocab_size": 64,
    "max_position_embeddings": 4096,
    "torch_dtype": "bfloat16",
}
MOVING = ("prefix_storage", "prefix_sharing", "preemption_mode", "swap_space")
REFUSALS = {
    "lock step and cannot stop one by one": "groups are not scaled",
    "pushes choose a decode instance before": "pushes need all decode instances",
    "beside which blocks are not pushed one by one": "drafts or placed weights are not pushed by layer",
    "drafts beside fetched weights are not simulated": "drafts or fetched weights",
    "drafts are not simulated with pipeline stages": "drafts or stages",
    "drafts are not simulated in a data-parallel group": "drafts or groups",
    "ngram cannot be scheduled asynchronously": "n-grams are searched on the host",
    "draft_model cannot be scheduled asynchronously": "drafts of a model need the tokens",
    "makes a batch wait for memory": "tiers in line need one stage and no group",
    "whose batches cannot wait for KV": "blocking loads need one stage and no group",
    "where attention runs; expected no": "KV that lies where attention runs does not move",
    "operators: other devices beside": "other devices follow one stage without drafts and groups",
    "between which no load goes on": "graphs of several forms have no loads across iterations",
    "not simulated for a mixture of experts": "halves of a mixture of experts",
}
"""What combinations are refused, by a part of the message."""


class Blocks:
    """Latencies by which a block takes 60 us and each end of the model 20 us and 1 us per token."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        ends = 20 * US + US * shape.num_tokens
        return {"attention": 60 * US, "embedding": ends, "lm_head": ends}.get(operator, 0)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.full(work.pairs.shape, 10 * US, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


class Counted(NativeBackend):
    """A backend that sees whether the clock falls, and what was submitted and has not ended."""

    def __init__(self, *models: Any) -> None:
        super().__init__(*models)
        self.under_way: set[Ticket] = set()

    def submit(self, *work: Any, **keys: Any) -> Ticket:
        ticket = super().submit(*work, **keys)
        self.under_way.add(ticket)
        return ticket

    def advance(self, until_ns: int) -> Sequence[Ticket]:
        before_ns = self.now_ns
        ended = super().advance(until_ns)
        assert before_ns <= self.now_ns <= until_ns
        self.under_way -= set(ended)
        return ended


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a mixture of experts of four blocks."""
    path = tmp_path_factory.mktemp("experts") / "config.json"
    path.write_text(json.dumps(SMALL_EXPERTS))
    return str(Path(path))


def acceptance(method: str) -> dict[str, Any]:
    made = {
        "method": method,
        "num_speculative_tokens": 3,
        "acceptance": {"policy": "decaying", "rate": 0.7, "decay": 0.8},
    }
    return made | ({"model": DENSE} if method == "draft_model" else {})


drafts = st.sampled_from(["ngram_gpu", "eagle", "ngram", "draft_model"]).map(acceptance)
sizes = st.sampled_from(["4MiB", "8MiB", "64MiB"])
links = st.sampled_from([{}, {"link_bandwidth": "6GB/s"}])
fabrics = st.fixed_dictionaries(
    {},
    optional={
        "ports": st.sampled_from(
            [
                {"bandwidth": "5GB/s"},
                [{"of": "accelerator", "bandwidth": "3GB/s", "latency": "50ns"}, {"bandwidth": "8GB/s"}],
            ]
        ),
        "switches": st.sampled_from([[{"name": "a", "devices": "0-1", "bandwidth": "7GB/s", "latency": "70ns"}]]),
    },
)
policies = st.sampled_from(["lru", "lfu", "fifo", "cost_aware"])
tiers = st.lists(st.sampled_from(["cpu", "cxl", "storage"]), unique=True, max_size=2).flatmap(
    lambda names: st.tuples(
        *(st.builds(lambda s, e, n=n: {"tier": n, "size": s, "eviction": e}, sizes, policies) for n in names)
    )
)


@st.composite
def servings(draw: st.DrawFn) -> dict[str, Any]:
    """Options of all instances."""
    drawn: dict[str, Any] = {
        "latency": {"source": f"{__name__}:Blocks"},
        "enforce_eager": draw(st.booleans()),
        "async_scheduling": draw(st.sampled_from([None, False, True])),
        "num_gpu_blocks": draw(st.integers(13, 24)),
        "max_num_seqs": draw(st.sampled_from([2, 6, 40])),
        "max_num_batched_tokens": draw(st.sampled_from([48, 128, 2048])),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "priority"])),
        "scheduler_reserve_full_isl": draw(st.booleans()),
    }
    if draw(st.booleans()):
        drawn["enable_prefix_caching"] = True
        below = draw(tiers)
        if below:
            drawn |= {
                "prefix_storage": list(below),
                "prefix_sharing": draw(st.sampled_from([False, True, "node", "cluster"])),
                "prefix_chunk_size": draw(st.sampled_from([16, 32])),
                "prefix_write": draw(st.sampled_from(["through", "back"])),
                "prefix_recall": draw(st.sampled_from(["async", "blocking"])),
            }
    if draw(st.booleans()):
        drawn |= {"preemption_mode": "swap", "swap_space": draw(sizes)}
    return drawn


@st.composite
def instances(draw: st.DrawFn, experts: str, role: str, model: str) -> list[dict[str, Any]]:
    """An instance, or the two of a group."""
    made: dict[str, Any] = {
        "model": model,
        "hardware": "H100",
        "kv_role": role,
        "tensor_parallel_size": draw(st.sampled_from([1, 1, 2])),
        "pipeline_parallel_size": draw(st.sampled_from([1, 1, 2])),
        "speculative_config": draw(drafts) if draw(st.booleans()) else None,
    }
    if (drafted := made["speculative_config"]) is not None:
        if model == experts and drafted["method"] == "draft_model":
            made["speculative_config"] = acceptance("eagle")
        if draw(st.integers(0, 5)):
            made["pipeline_parallel_size"] = 1
    elif draw(st.integers(0, 2)) == 0:
        where = draw(st.sampled_from(["cpu", "cxl", "cxl:1", "cxl:0-1", "storage"]))
        made["placement"] = {
            "blocks": [{"blocks": draw(st.sampled_from(["0", "1-2", "0-3"])), "weights": where}],
            "prefetch_depth": draw(st.integers(0, 2)),
            "prefetch_across_iterations": draw(st.booleans()),
            "expert_prefetch": draw(st.sampled_from(["all", "on_demand"])) if model == experts else "all",
            "cached_experts": draw(st.integers(0, 1)) if model == experts else 0,
        }
    if role == "kv_both" and draw(st.integers(0, 2)) == 0:
        made |= {
            "operators": {"attention": draw(st.sampled_from(["cpu", "cxl:1"]))},
            "sub_batch_interleaving": draw(st.sampled_from(["never", "always", "auto"])),
        }
        if draw(st.integers(0, 5)):
            return [made | {"speculative_config": None, "pipeline_parallel_size": 1}]
    if (
        model == experts
        and draw(st.booleans())
        and (made["speculative_config"] is None or draw(st.integers(0, 5)) == 0)
    ):
        return [made | {"data_parallel_group": role}] * 2
    return [made]


routers = st.sampled_from(
    ("round_robin", "least_loaded", "least_kv", "random", "power_of_two", "session_affinity", "prefix_aware")
) | st.just("expected_time")


@st.composite
def configs(draw: st.DrawFn, experts: str) -> dict[str, Any]:
    models = draw(st.sampled_from([[DENSE], [DENSE], [experts], [DENSE, LARGER], [DENSE, experts]]))
    listed = []
    for model in models:
        split = draw(st.booleans())
        roles = ["kv_producer", "kv_consumer"] if split else ["kv_both"]
        roles += draw(st.lists(st.sampled_from([*roles, "kv_both"]), max_size=2))
        for role in roles:
            made = draw(instances(experts, role, model))
            listed += [one | {"data_parallel_group": f"{role} {len(listed)}"} if len(made) > 1 else one for one in made]
    serving = draw(servings())
    in_line = serving.get("prefix_write") == "back" or serving.get("prefix_recall") == "blocking"
    if (in_line or "swap_space" in serving) and draw(st.integers(0, 5)):  # they need one stage and no group
        listed = [one | {"pipeline_parallel_size": 1, "data_parallel_group": None} for one in listed]
    memory = {"size": "40GiB", "bandwidth": draw(st.sampled_from(["20GB/s", "200GB/s"])), "latency": "100ns"}
    computes = {"pim": f"{offload_device.__name__}:Memory"}
    if any(one.get("operators") for one in listed) and draw(st.integers(0, 5)):  # KV in a memory does not move
        serving = {key: value for key, value in serving.items() if key not in MOVING}
    cut = draw(st.integers(1, len(listed)))
    while (
        0 < cut < len(listed)
        and listed[cut - 1].get("data_parallel_group") == listed[cut].get("data_parallel_group") is not None
    ):
        cut += 1
    nodes = [part for part in (listed[:cut], listed[cut:]) if part]
    data: dict[str, Any] = {
        "nodes": [
            {"instances": part, "cpu_memory": memory | draw(links) | computes, "storage": memory} for part in nodes
        ],
        "cxl_memory": memory | {"num_devices": 3} | draw(fabrics) | computes,
        "network": {
            "topology": draw(st.sampled_from(["Switch", "FullyConnected"])),
            "bandwidth": draw(st.sampled_from(["1GB/s", "20GB/s"])),
            "latency": "500ns",
            "model": draw(st.sampled_from(["unaware", "aware", "flow"])),
        },
        "serving": serving,
        "router": draw(routers),
        "decode_router": draw(routers),
        "seed": draw(st.integers(0, 9)),
        "load_update_interval": draw(st.sampled_from(["0ns", "0ns", "3ms"])),
        "timeseries_interval": "100ms",
    }
    if any(one["kv_role"] == "kv_producer" for one in listed):
        mode = draw(st.sampled_from(["pull", "push", "push_layerwise"]))
        data["kv_transfer"] = {
            "mode": mode,
            "first_token": draw(st.sampled_from(["decode", "prefill"])),
            "get_finished": draw(st.sampled_from(["at_launch", "at_end"])),
            "proxy_latency": draw(st.sampled_from(["0ns", "300us"])),
            "load_kv_async": mode != "pull" or draw(st.integers(0, 3)) > 0,
        }
    data |= draw(clients())
    priced, drawing = draw(money(len(data["nodes"])))
    data |= priced
    for node, power in zip(data["nodes"], drawing, strict=True):
        node["power"] = power
    if draw(st.booleans()):
        data["autoscaling"] = draw(scaling(sorted({one["kv_role"] for one in listed})))
    return data


calls = st.lists(
    st.tuples(st.integers(1, 170), st.integers(1, 30), st.none() | st.integers(1, 60_000)), min_size=1, max_size=3
)
workloads = st.lists(
    st.tuples(calls, st.integers(0, 40), st.sampled_from([None, 0, 0, 1]), st.integers(0, 2)), min_size=1, max_size=14
)
"""Sessions: calls as (prompt, output, patience in us), arrival in ms, whose tokens they share, priority."""


def sessions(drawn: list[tuple[Any, int, int | None, int]], models: list[str]) -> list[Session]:
    made, number = [], 0
    for turns, at_ms, family, priority in sorted(drawn, key=lambda session: session[1]):
        specs = []
        for prompt, output, patience_us in turns:
            ids = None if family is None else tuple(range(1000 * family, 1000 * family + prompt + output))
            patience_ns = None if patience_us is None else patience_us * US
            model = models[(prompt + output) % len(models)] if len(models) > 1 else None
            name = None if len(turns) == 1 else f"session {len(made)}"
            specs.append(RequestSpec(number, at_ms * MS, prompt, output, ids, name, priority, model, patience_ns))
            number += 1
        made.append(Session(tuple(specs), (3 * MS,) * len(specs)))
    return made


@given(data=st.data(), drawn=workloads)
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_combined_nobody_is_lost_and_nothing_is_left(
    experts: str, data: st.DataObject, drawn: list[tuple[Any, int, int | None, int]]
) -> None:
    spec = data.draw(configs(experts))
    event(check_run(spec, drawn))


def check_run(spec: dict[str, Any], drawn: list[tuple[Any, int, int | None, int]]) -> str:
    """Serve it and check everything; tell why it was refused, if it was."""
    models = list(dict.fromkeys(one["model"] for node in spec["nodes"] for one in node["instances"]))
    asked = sessions(drawn, models)
    try:
        made = Run(spec, asked, RunOptions(backend=Counted))
    except (ConfigError, CapacityError) as error:
        return f"refused: {next(why for part, why in REFUSALS.items() if part in str(error))}"
    result = made.execute()
    check_records(result.requests, asked, spec.get("timeouts") or {})
    counts = result.summary["requests"]
    assert counts["held"] == 0
    assert counts["arrived"] == counts["finished"] + counts["aborted"] + counts["rejected"] == len(result.requests)
    check_at_rest(made)
    check_limits(result.summary["limits"])
    check_cost(spec.get("cost"), result.summary)
    json.dumps(result.summary, allow_nan=False)
    return "served"


def check_records(records: Sequence[RequestRecord], asked: Sequence[Session], timeouts: dict[str, Any]) -> None:
    """Every call has a record, unless its session ended before; whoever finished got all tokens, in order of time."""
    calls = {call.request_id: call for session in asked for call in session.calls}
    assert len({record.request_id for record in records}) == len(records)
    if timeouts.get("session") != "end":
        assert len(records) == len(calls)
    for record in records:
        call = calls[record.request_id]
        times = [
            t
            for t in (record.arrival_ns, record.scheduled_ns, record.first_token_ns, record.finish_ns)
            if t is not None
        ]
        assert times == sorted(times)
        if record.status == "finished":
            assert record.output_tokens == call.output_tokens
            assert len(times) == 4
        else:
            assert record.status == "rejected" or (
                record.status == "aborted" and record.output_tokens < call.output_tokens
            )
            assert record.finish_ns is None


def check_at_rest(made: Run) -> None:
    """No instance, tier, hand-over or start-up holds anything."""
    system = made.system
    for one in system.instances:
        engine = one.engine
        engine.kv.pool.check([])
        assert engine.is_idle
        assert (engine.num_running, engine.num_waiting) == (0, 0)
    for owner in system.owners:
        assert owner.describe_waiting() == []
    if system.traffic is not None:
        for side in system.traffic.sides:
            tiers = side.tiers
            assert (tiers.reads, tiers.writes) == ([], [])
            assert tiers.swap is None or tiers.swap.used_tokens == 0
            for store in tiers.stores:
                store.check()
                assert all(chunk.has_arrived and not chunk.pins for chunk in store)
    if system.transfers is not None:
        assert all(r.start_ns <= r.end_ns for r in system.transfers.records)
        assert all(0 <= r.hidden_bytes <= r.num_bytes for r in system.transfers.records)
    if system.autoscaler is None:
        assert isinstance(system.backend, Counted)
        assert not system.backend.under_way
