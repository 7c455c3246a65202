"""What limited a run: tiny runs whose shares are worked out by hand, to the nanosecond.

An iteration takes a millisecond, or each of the 16 blocks of Llama-3.2-1B 40 us, unless a test says otherwise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim import simulate
from llmservingsim.backend import NativeBackend, Ticket
from llmservingsim.config.catalog import find_model
from llmservingsim.graph import Graph
from llmservingsim.latency import ExpertWork
from llmservingsim.model import block_operators
from llmservingsim.model.weights import operator_weights
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

MS = 1_000_000
BLOCK_NS, BLOCKS = 40_000, 16
SMALL = find_model("meta-llama/Llama-3.2-1B")
KV_BYTES = 2048 * BLOCKS
"""Of a token: keys and values of 8 heads of 64 elements of 2 bytes."""


class Blocks:
    """Attention takes 40 us, experts 10 us, everything else nothing."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return BLOCK_NS if operator == "attention" else 0

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.full(work.pairs.shape, 10_000, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


class Reticent:
    """A backend that does not say what ranks waited for."""

    def __init__(self, *models: Any) -> None:
        self._native = NativeBackend(*models)

    @property
    def now_ns(self) -> int:
        return self._native.now_ns

    def register(self, graph: Graph) -> int:
        return self._native.register(graph)

    def submit(self, *work: Any) -> Ticket:
        return self._native.submit(*work)

    def advance(self, until_ns: int) -> Sequence[Ticket]:
        return self._native.advance(until_ns)


def instance(**keys: Any) -> dict[str, Any]:
    return {"model": SMALL.name, "hardware": "H100", "num_gpu_blocks": 1001, **keys}


def config(*instances: dict[str, Any], source: str = "constant_latency:Constant", **keys: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "nodes": [{"instances": list(instances or (instance(),))}],
        "network": {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns"},
        "serving": {"latency": {"source": source}, "enforce_eager": True, "async_scheduling": False},
    }
    return data | keys


def limits(data: dict[str, Any], *requests: tuple[int, int, int], **options: Any) -> dict[str, Any]:
    """Serve requests given as (prompt, output, arrival in ns)."""
    specs = [RequestSpec(i, at, prompt, output) for i, (prompt, output, at) in enumerate(requests)]
    result = simulate(data, specs, **options)
    found: dict[str, Any] = result.summary["limits"]
    return found | {"end_ns": round(result.summary["simulated_s"] * 1e9)}


def device_ns(of: dict[str, Any]) -> dict[str, int]:
    """Device nanoseconds by part, those that are not 0; the two sides of the roofline together."""
    spent = {part: share * of["device_time"]["device_s"] * 1e9 for part, share in of["device_time"]["shares"].items()}
    spent["compute"] = sum(spent.pop(part) for part in ("compute_bound", "bandwidth_bound", "other_compute"))
    return {part: round(ns) for part, ns in spent.items() if ns}


def request_ns(of: dict[str, Any]) -> dict[str, int]:
    spent = of["requests"]["shares"].items()
    return {part: round(share * of["requests"]["e2e_s"] * 1e9) for part, share in spent if share}


# Where the time of devices went


def test_a_lone_device_computes_or_has_nothing_to_do() -> None:
    found = limits(config(), (8, 3, MS))
    assert device_ns(found) == {"idle": MS, "compute": 3 * MS}
    assert request_ns(found) == {"prefill": MS, "decode": 2 * MS}


def test_what_two_ranks_exchange_over_a_slow_link_is_exposed_communication() -> None:
    """What is no computation is communication: 32 all-reduces of 8 KiB for two tokens, that send half of it twice."""
    data = config(instance(tensor_parallel_size=2), source=f"{__name__}:Blocks")
    found = limits(data, (2, 1, 0))
    compute_ns = BLOCKS * BLOCK_NS
    assert device_ns(found) == {"compute": 2 * compute_ns, "communication": 2 * (found["end_ns"] - compute_ns)}
    reduced_ns = 2 * BLOCKS * 2 * (2 * SMALL.hidden_size * 2 / 2 + 1000)
    assert found["end_ns"] - compute_ns == pytest.approx(reduced_ns, rel=0.01)


@pytest.mark.parametrize("model", ["unaware", "aware", "flow"])
def test_communication_is_told_by_every_network_model(model: str) -> None:
    data = config(instance(tensor_parallel_size=2), source=f"{__name__}:Blocks")
    data["network"]["model"] = model
    found = limits(data, (20, 3, 0))
    compute_ns = 3 * BLOCKS * BLOCK_NS
    assert device_ns(found) == {"compute": 2 * compute_ns, "communication": 2 * (found["end_ns"] - compute_ns)}


def test_a_backend_that_does_not_tell_leaves_the_rest_unknown() -> None:
    data = config(instance(tensor_parallel_size=2), source=f"{__name__}:Blocks")
    found = limits(data, (2, 1, 0), backend=Reticent)
    compute_ns = BLOCKS * BLOCK_NS
    assert device_ns(found) == {"compute": 2 * compute_ns, "unknown": 2 * (found["end_ns"] - compute_ns)}
    assert (found["busiest_link"], found["busiest_memory"]) == (None, None)


def test_loads_that_computation_does_not_hide_are_memory_fetch() -> None:
    """A block has 60,821,504 weights of 2 bytes, at 100 bytes/ns: 1,216,430 ns, behind which 15 of 16 blocks hide."""
    memory = {"size": "400GiB", "bandwidth": "100GB/s", "latency": "0ns"}
    placed = instance(placement={"blocks": [{"blocks": "0-15", "weights": "cxl:0"}]})
    data = config(placed, source=f"{__name__}:Blocks", cxl_memory=memory)
    found = limits(data, (8, 3, 0))
    load_ns = sum(operator_weights(SMALL, op.name).size_bytes(SMALL) for op in block_operators(SMALL)) // 100
    assert device_ns(found) == {
        "compute": 3 * BLOCKS * BLOCK_NS,
        "memory_fetch": 3 * (BLOCKS * load_ns - (BLOCKS - 1) * BLOCK_NS),
    }
    busiest = found["busiest_memory"]
    assert (busiest["tier"], busiest["place"]) == ("cxl", "cxl:0")
    assert busiest["busy_share"] == pytest.approx(BLOCKS * load_ns / (BLOCKS * load_ns + BLOCK_NS))


def test_the_busiest_part_of_a_memory_behind_ports_is_named() -> None:
    """The port lets half as much through as the device gives, so it carries something twice as long."""
    memory = {"size": "400GiB", "bandwidth": "100GB/s", "latency": "0ns"}
    memory["ports"] = [{"of": "accelerator", "bandwidth": "50GB/s"}]
    placed = instance(placement={"blocks": [{"blocks": "0-15", "weights": "cxl:0"}]})
    found = limits(config(placed, source=f"{__name__}:Blocks", cxl_memory=memory), (8, 1, 0))
    part = found["busiest_memory"]["busiest_part"]
    assert part["name"].startswith("loads of ")
    fetched_ns = found["end_ns"] - BLOCK_NS
    assert part["busy_share"] == pytest.approx(fetched_ns / found["end_ns"], rel=1e-3)


def test_a_stage_waits_for_the_other_stages_and_for_what_they_send() -> None:
    data = config(instance(pipeline_parallel_size=2), source=f"{__name__}:Blocks")
    found = limits(data, (8, 1, 0))
    stage_ns = BLOCKS // 2 * BLOCK_NS
    message_ns = found["end_ns"] - 2 * stage_ns
    assert 8 * SMALL.hidden_size * 2 < message_ns
    assert device_ns(found) == {
        "compute": 2 * stage_ns,
        "pipeline_bubble": 2 * stage_ns,
        "communication": 2 * message_ns,
    }


def test_a_member_of_a_group_without_a_batch_is_kept_in_step() -> None:
    moe = {"model": "Qwen/Qwen3-30B-A3B", "data_parallel_group": "experts"}
    data = config(instance(**moe), instance(**moe), source=f"{__name__}:Blocks")
    found = limits(data, (8, 2, 0))
    busy, dummy = (device_ns(entry) for entry in found["instances"])
    assert dummy == {"in_step": found["end_ns"]}
    assert busy["compute"] == 2 * 48 * (BLOCK_NS + 10_000)
    assert sum(busy.values()) == found["end_ns"]


def test_an_instance_that_decodes_waits_for_the_kv_of_its_prompts() -> None:
    """Three iterations: the prompt here, its last position and a token there, behind 100 tokens of KV at 1 byte/ns."""
    data = config(instance(kv_role="kv_producer"), instance(kv_role="kv_consumer"), source=f"{__name__}:Blocks")
    found = limits(data, (100, 2, 0))
    iteration_ns = BLOCKS * BLOCK_NS
    crossing_ns = found["end_ns"] - 3 * iteration_ns
    assert crossing_ns == pytest.approx(1000 + 100 * KV_BYTES, abs=2 * BLOCKS)
    first, second = (device_ns(entry) for entry in found["instances"])
    assert first == {"compute": iteration_ns, "idle": 2 * iteration_ns + crossing_ns}
    assert second == {"compute": 2 * iteration_ns, "idle": iteration_ns, "kv_transfer": crossing_ns}
    assert request_ns(found) == {"prefill": iteration_ns, "transfer": crossing_ns, "decode": 2 * iteration_ns}


def test_a_batch_that_waits_for_kv_waits_for_a_transfer() -> None:
    pair = instance(kv_role="kv_producer"), instance(kv_role="kv_consumer")
    data = config(*pair, source=f"{__name__}:Blocks", kv_transfer={"load_kv_async": False})
    found = limits(data, (100, 2, 0))
    iteration_ns = BLOCKS * BLOCK_NS
    _, second = (device_ns(entry) for entry in found["instances"])
    crossing_ns = found["end_ns"] - 3 * iteration_ns
    assert second == {"compute": 2 * iteration_ns, "idle": iteration_ns, "kv_transfer": crossing_ns}


def test_blocks_that_are_held_until_they_have_crossed_keep_the_next_prompt_out() -> None:
    """Three blocks: the second prompt has to wait, and the device with it, until the KV of the first has crossed."""
    pair = instance(kv_role="kv_producer", num_gpu_blocks=4), instance(kv_role="kv_consumer")
    found = limits(config(*pair, source=f"{__name__}:Blocks"), (32, 2, 0), (32, 2, 0))
    iteration_ns, crossing_ns = BLOCKS * BLOCK_NS, 1000 + 32 * KV_BYTES
    first = device_ns(found["instances"][0])
    assert first["compute"] == 2 * iteration_ns
    assert first["idle_kv_blocks"] == pytest.approx(crossing_ns, abs=2 * BLOCKS)
    assert request_ns(found)["queued_for_kv_blocks"] == first["idle_kv_blocks"] + iteration_ns
    assert found["instances"][0]["kv_cache"]["blocked_share"] == pytest.approx(
        (iteration_ns + first["idle_kv_blocks"]) / found["end_ns"]
    )


def test_prompts_that_wait_for_blocks_of_the_decode_side_stall() -> None:
    """Both are computed at once; the second crosses when the first has crossed and decoded both of its tokens."""
    pair = instance(kv_role="kv_producer"), instance(kv_role="kv_consumer", num_gpu_blocks=4)
    found = limits(config(*pair, source=f"{__name__}:Blocks"), (32, 2, 0), (32, 2, 0))
    iteration_ns = BLOCKS * BLOCK_NS
    crossing_ns = (found["end_ns"] - 5 * iteration_ns) // 2
    assert crossing_ns == pytest.approx(1000 + 32 * KV_BYTES, abs=2 * BLOCKS)
    assert request_ns(found) == {
        "prefill": 2 * iteration_ns,
        "transfer_stall_kv_blocks": crossing_ns + 2 * iteration_ns,
        "transfer": 2 * crossing_ns,
        "decode": 4 * iteration_ns,
    }
    assert found["verdict"][-1].endswith("of their time computed, until the decode side had KV blocks.")


def test_starting_and_stopped_instances_are_told_apart() -> None:
    scaled = {"policy": "queue", "options": {"target": 1}, "min_instances": 0, "start_up_delay": "5ms"}
    data = config(instance(), autoscaling=scaled | {"interval": "1ms", "window": "20ms"})
    found = limits(data, (8, 2, 0))
    spent = device_ns(found)
    assert (spent["starting"], spent["compute"]) == (5 * MS, 2 * MS)
    assert sum(spent.values()) == found["end_ns"]


# Where the time of requests went


def test_requests_that_wait_for_blocks_are_kv_pressure() -> None:
    """Three blocks: the first request has two and takes the third, so the second waits for its end."""
    found = limits(config(instance(num_gpu_blocks=4)), (32, 3, 0), (32, 3, 0))
    assert request_ns(found) == {"prefill": 2 * MS, "decode": 4 * MS, "queued_for_kv_blocks": 3 * MS}
    assert found["kv_cache"]["blocked_share"] == pytest.approx(1 / 2)
    assert found["kv_cache"]["mean_wait_s"] == pytest.approx(0.0015)
    assert found["kv_cache"]["peak_usage_pct"] == 100
    assert "The queue lacked KV blocks 50 % of the time" in found["verdict"][1]


def test_preempted_requests_lose_time_until_they_run_again() -> None:
    """Both fit with their prompts; the 17th token of the first takes the block of the second, for three tokens more."""
    found = limits(config(instance(num_gpu_blocks=3)), (16, 4, 0), (16, 2, 0))
    assert found["kv_cache"]["preemptions"] == 1
    spent = request_ns(found)
    assert spent == {"prefill": 2 * MS, "decode": 4 * MS, "preempted": 3 * MS}
    assert found["requests"]["recomputed_tokens"] == 16


@pytest.mark.parametrize(
    ("keys", "part", "waited_ms"),
    [
        ({"max_num_seqs": 1}, "queued_for_max_num_seqs", 3),
        ({"max_num_batched_tokens": 16, "max_num_seqs": 8}, "queued_for_token_budget", 2),
    ],
)
def test_requests_wait_for_what_the_scheduler_lacks(keys: dict[str, Any], part: str, waited_ms: int) -> None:
    """Seats: until the first request has all three tokens. Tokens: until both chunks of its prompt are computed."""
    found = limits(config(instance(**keys)), (32, 3, 0), (8, 3, 0))
    assert request_ns(found)[part] == waited_ms * MS


def test_a_request_that_comes_while_a_batch_runs_waits_for_its_end() -> None:
    found = limits(config(), (8, 3, 0), (8, 1, MS // 4))
    assert request_ns(found)["queued_otherwise"] == 3 * MS // 4


def test_requests_that_the_router_holds_wait_there() -> None:
    """One may wait. The second runs from 3 ms on, so the third is sent when the clock moves next, and waits 2 ms."""
    data = config(instance(max_num_seqs=1), admission={"max_waiting_total": 1, "policy": "queue"})
    found = limits(data, (8, 3, 0), (8, 3, 1), (8, 3, 2))
    spent = request_ns(found)
    assert spent["queued_at_router"] == 4 * MS - 2
    assert (spent["queued_for_max_num_seqs"], spent["queued_otherwise"]) == (2 * MS + 2 * MS, MS - 1)


def test_classes_are_listed_where_there_are_several() -> None:
    specs = [RequestSpec(i, 0, 8, 1 + i, priority=i) for i in range(2)]
    found = simulate(config(), specs).summary["limits"]["classes"]
    assert [(entry["priority"], entry["finished"]) for entry in found] == [(0, 1), (1, 1)]
    assert [entry["e2e_s"] for entry in found] == pytest.approx([0.001, 0.002])


# In words


@pytest.mark.parametrize("model", ["aware", "flow"])
def test_the_busiest_link_has_a_name(model: str) -> None:
    pair = instance(kv_role="kv_producer"), instance(kv_role="kv_consumer")
    data = config(*pair, source=f"{__name__}:Blocks")
    data["network"] |= {"topology": "FullyConnected", "model": model}
    found = limits(data, (100, 2, 0))
    link = found["busiest_link"]
    assert (link["from"], link["to"]) == ("rank 0 (instance 0, node 0)", "rank 1 (instance 1, node 0)")
    assert link["bytes"] == 100 * KV_BYTES
    assert link["busy_share"] == pytest.approx(100 * KV_BYTES / found["end_ns"], rel=1e-3)
    assert found["verdict"][0].startswith("Not limited by the devices: 50 % of device time has nothing to do; of the ")


def test_without_requests_nothing_ran() -> None:
    assert limits(config(), num_requests=0)["verdict"] == ["Nothing ran."]
