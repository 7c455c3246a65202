"""Energy worked out by hand: every iteration takes a millisecond, and a watt for a millisecond is a millijoule."""

from array import array
from typing import Any

import numpy as np
import pytest

from llmservingsim import Run, RunOptions, SimulationResult
from llmservingsim.activity import Activity
from llmservingsim.power import ComputingMemory, attribute
from llmservingsim.power.accelerators import Uptime
from llmservingsim.power.ledger import POOL, Load, StageRun, account
from llmservingsim.power.models import Rest
from llmservingsim.power.requests import Asked
from llmservingsim.power.server import ServerPower
from llmservingsim.workload import RequestSpec

MS = 1_000_000
H100 = {"H100": {"idle": "100W", "standby": "200W", "standby_duration": "2ms", "active": "500W"}}
INSTANCE = {
    "model": "meta-llama/Llama-3.2-1B",
    "hardware": "H100",
    "latency": {"source": "constant_latency:Constant"},
}


def serve(requests: list[tuple[int, int]], node: dict[str, Any], instances: Any = (INSTANCE,), **keys: Any) -> Run:
    """Serve requests of 100 prompt tokens, given by arrival in ms and output tokens."""
    spec = {"nodes": [{"instances": list(instances), "power": node}], "timeseries_interval": "1ms", **keys}
    return Run(spec, [RequestSpec(k, at * MS, 100, out) for k, (at, out) in enumerate(requests)])


def energy_of(result: SimulationResult) -> Any:
    return result.summary["energy_j"]


def power_of(result: SimulationResult, scope: str = "cluster") -> list[float | None]:
    return [sample.power_w for sample in result.timeseries if sample.scope == scope]


def test_states_follow_the_work() -> None:
    """Idle to 1 ms, active to 4, standby to 6, idle to 10, active to 11."""
    result = serve([(1, 3), (10, 1)], {"accelerators": H100}).execute()
    expected = [100, 500, 500, 500, 200, 200, 100, 100, 100, 100, 500]
    assert power_of(result) == power_of(result, "instance:0") == expected
    assert energy_of(result)["components"] == pytest.approx({"npu": sum(expected) * 1e-3})


def test_a_server_adds_its_parts_and_its_cpu_rises_while_it_serves() -> None:
    """Base 50 W; CPU 10 + 100 * 0.2 W, and 100 * (0.7 - 0.2) W more for the 4 ms of iterations."""
    cpu = {"idle": "10W", "active": "110W", "utilisation": 0.2}
    result = serve([(1, 3), (10, 1)], {"accelerators": H100, "base": "50W", "cpu": cpu}).execute()
    energy = energy_of(result)
    assert energy["components"] == pytest.approx({"base": 0.55, "npu": 2.9, "cpu": 0.33 + 0.2})
    busy, idle = 500 + 50 + 80, 100 + 80
    assert power_of(result) == [idle, busy, busy, busy, idle + 100, idle + 100, idle, idle, idle, idle, busy]
    assert [row.energy_j for row in result.request_metrics] == pytest.approx([3 * busy / 1e3, busy / 1e3])
    assert energy["phases"]["idle"] == pytest.approx((5 * idle + 2 * (idle + 100)) / 1e3)
    assert (energy["phases"]["prefill"], energy["phases"]["decode"]) == pytest.approx((2 * busy / 1e3, 2 * busy / 1e3))
    assert energy["absent"] == {"node:0": ["dram", "link", "nic", "storage"]}


def test_a_busier_background_does_not_rise() -> None:
    cpu = {"idle": "10W", "active": "110W", "utilisation": 0.9}
    assert energy_of(serve([(0, 2)], {"cpu": cpu}).execute())["components"]["cpu"] == pytest.approx(0.2)


def test_two_instances_of_a_server_share_what_it_draws_while_both_compute() -> None:
    """From 0 to 2 ms both compute, from 2 to 4 one of them: 60 W of base are 30 W each, then 60 W for one."""
    node = {"accelerators": {"H100": {"idle": "0W", "standby": "0W", "active": "100W"}}, "base": "60W"}
    result = serve([(0, 2), (0, 4)], node, [INSTANCE] * 2).execute()
    assert [row.energy_j for row in result.request_metrics] == pytest.approx([0.26, 0.26 + 0.32])
    assert energy_of(result)["phases"]["idle"] == pytest.approx(0)


def test_an_instance_that_is_stopped_draws_nothing_and_one_that_starts_waits() -> None:
    """The second instance starts at 0 ms for 5 ms, and is never needed; stopped, it could also be idle."""
    schedule = {
        "policy": "schedule",
        "options": {"times": [{"at": "0ns", "instances": 1}, {"at": "4ms", "instances": 2}]},
    }
    scaling = schedule | {"start_up_delay": "3ms", "interval": "1ms"}
    run = {"accelerators": H100}
    off = serve([(0, 8)], run, [INSTANCE] * 2, autoscaling=scaling).execute()
    assert power_of(off, "instance:0") == [500] * 8
    assert power_of(off, "instance:1") == [0, 0, 0, 0, 200, 200, 200, 200]
    idle = serve([(0, 8)], run, [INSTANCE] * 2, autoscaling=scaling, power={"stopped": "idle"}).execute()
    assert power_of(idle, "instance:1") == [100, 100, 100, 100, 200, 200, 200, 200]


def test_what_waits_for_a_collective_is_in_standby() -> None:
    """Two devices; the all-reduces of 16 blocks, 32 of them, take their time on a slow link."""
    network = {"topology": "FullyConnected", "bandwidth": "1GB/s", "latency": "10us"}
    made = serve([(0, 2)], {"accelerators": H100}, [INSTANCE | {"tensor_parallel_size": 2}], network=network)
    result = made.execute()
    activity = made.system.instances[0].activity[0].activity()
    assert (activity.compute_ns == 2 * MS).all()
    spent_ms = made.recorder.end_ns / MS
    assert spent_ms > 2.5
    assert energy_of(result)["components"]["npu"] == pytest.approx(2 * (2 * 0.5 + (spent_ms - 2) * 0.2))


def test_bits_on_links_cost_energy() -> None:
    """A ring all-reduce of S bytes puts 2 (n - 1) / n of them on each device's link."""
    link = {"idle": "0W", "energy_per_bit": "10pJ/bit"}
    made = serve([(0, 2)], {"link": link}, [INSTANCE | {"tensor_parallel_size": 2}])
    energy = energy_of(made.execute())
    sent = 2 * made.system.instances[0].collective_bytes  # two devices, each 2 * 1/2 of it
    assert energy["components"]["link"] == pytest.approx(sent * 8 * 10e-12)


def test_weights_in_host_memory_cost_energy_where_they_are_read() -> None:
    dram = {"idle": "4W", "dimm_size": "32GiB", "energy_per_bit": "6pJ/bit"}
    spec = {
        "nodes": [
            {
                "instances": [INSTANCE | {"placement": {"default": {"weights": "cpu"}}}],
                "cpu_memory": {"size": "100GiB", "bandwidth": "64GB/s"},
                "power": {"dram": dram},
            }
        ]
    }
    made = Run(spec, [RequestSpec(0, 0, 100, 3)])
    result = made.execute()
    loaded = result.summary["bytes_moved"]["memories"]["cpu"]["loaded_bytes"]
    assert loaded > 0
    moving = loaded * 8 * 6e-12
    assert energy_of(result)["components"]["dram"] == pytest.approx(4 * 4 * made.recorder.end_ns / 1e9 + moving)
    assert result.request_metrics[0].energy_j == pytest.approx(energy_of(result)["requests"])


def test_channels_of_a_memory_that_computes_draw_more_while_they_do() -> None:
    """Four of eight channels compute for 2 of 4 ms: 8 * 1 W for 4 ms, and 4 * 2 W for 2 ms."""
    done = activity((0, 4, 0, 1))._replace(offload_ns=np.array([2 * MS], dtype=np.int64))
    memory = ComputingMemory(channels=8, per_node=4, idle_w=1, active_w=3)
    run = StageRun(0, {0: 1}, done, np.zeros(1), None, [Uptime(0, 0, 4 * MS)], channels=memory.per_node)
    ledger = account([run], {0: ServerPower().with_memory(memory)}, [], 4 * MS)
    assert ledger.by_component() == pytest.approx({"pim": 0.032 + 0.016})
    assert ledger.graph_j[0].tolist() == pytest.approx([0.048])


def test_channels_of_host_memory_stand_for_its_modules_and_those_of_other_memories_do_not() -> None:
    modules = ServerPower({"dram": 16.0}, j_per_byte={"dram": 1e-9})
    host = ComputingMemory(channels=8, per_node=8, idle_w=1, active_w=3)
    assert modules.with_memory(host).constant_w == {"dram": 0.0, "pim": 8.0}
    assert modules.with_memory(host).j_per_byte == modules.j_per_byte
    assert modules.with_memory(host._replace(is_host=False)).constant_w == {"dram": 16.0, "pim": 8.0}
    assert modules.with_memory(host._replace(idle_w=0.0)).constant_w == {"dram": 16.0, "pim": 0.0}
    assert modules.with_memory(host._replace(active_w=0.0)) == modules
    assert modules.with_memory(host).with_memory(host) == modules.with_memory(host)


@pytest.mark.parametrize("limit", [0, 1], ids=["no request", "one that never fits"])
def test_a_run_without_work_spends_nothing_but_is_told(limit: int) -> None:
    spec = {"nodes": [{"instances": [INSTANCE], "power": {"base": "10W"}}]}
    result = Run(spec, [RequestSpec(0, 0, 10**6, 1)], RunOptions(num_requests=limit)).execute()
    assert energy_of(result)["total"] == 0
    assert energy_of(result)["per_request"] is None
    assert Run(spec, [RequestSpec(0, 0, 10, 1)]).result().summary["energy_j"]["total"] == 0


def test_facility_and_carbon() -> None:
    """3.6 MJ are a kilowatt-hour."""
    run = {"pue": 1.5, "grid_carbon_intensity": "400gCO2/kWh"}
    energy = energy_of(serve([(0, 4)], {"accelerators": H100}, power=run).execute())
    assert energy["total"] == pytest.approx(2.0)
    assert energy["facility"] == pytest.approx(3.0)
    assert energy["carbon_g"]["per_output_token"] == pytest.approx(3.0 / 3.6e6 * 400 / 4)
    assert energy["output_tokens_per_j"] == pytest.approx(2.0)


class Fixed:
    """100 W at work, then 10 W."""

    def running_w(self, compute_share: Any) -> Any:
        return np.full(len(compute_share), 100.0)

    def resting(self) -> list[Rest]:
        return [Rest(0.0, 10.0)]


def activity(*rows: tuple[int, int, int, int]) -> Activity:
    """Graphs as (begin, end, prompt tokens, decodes), in ms."""
    begin, end, prompt, decodes = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    nothing = np.zeros(len(rows), dtype=np.int64)
    known = (begin * MS, end * MS, (end - begin) * MS, nothing, nothing, nothing, prompt, decodes)
    return Activity(*known, *[nothing] * (len(Activity._fields) - len(known)))


def test_a_mixed_batch_is_split_by_what_each_part_takes_alone() -> None:
    """4 prompt tokens alone take 6 ms, 2 decodes 2 ms; so of a batch with both, the prompt pays three quarters.

    Request 0 computes 4 tokens in batch 0, and decodes in 1, with request 1, and 2, with the prompt of request 2.
    """
    done = activity((0, 6, 4, 0), (6, 8, 0, 2), (8, 16, 4, 2))
    joules = np.array([0.6, 0.2, 0.8])
    chunks = array("q", [0, 0, 4, 2, 2, 4])
    asked = Asked([0, 1, 2], [0, 0, 0], [array("q", [0, 2, 1]), array("q", [1, 2, 1]), array("q", [2, 2, 0])])
    shared = attribute([(0, done, joules)], [chunks], asked)
    assert shared.request_j.tolist() == pytest.approx([0.6 + 0.1 + 0.1, 0.1 + 0.1, 0.6])
    assert (shared.prefill_j[0], shared.decode_j[0], shared.lost_j) == pytest.approx((1.2, 0.4, 0.0))


def test_what_nobody_got_anything_from_is_lost() -> None:
    """A dummy, a prompt whose request has not ended, and one of two decodes, which was voided."""
    done = activity((0, 1, 0, 0), (1, 3, 4, 0), (3, 4, 0, 2))
    shared = attribute(
        [(0, done, np.array([0.1, 0.2, 0.4]))],
        [array("q", [9, 0, 4])],
        Asked([0], [0], [array("q", [1, 1, 0])]),
    )
    assert shared.request_j.tolist() == pytest.approx([0.2])
    assert shared.lost_j == pytest.approx(0.1 + 0.2 + 0.2)
    assert shared.dummy_j.tolist() == [0.1]


def test_batches_of_every_other_turn_are_counted_one_by_one() -> None:
    """As under two pipeline stages: tokens of batches 0, 2, 4 and of 1, 3."""
    done = activity(*((k, k + 1, 0, 1) for k in range(5)))
    joules = np.arange(5) * 0.1
    asked = Asked([3, 1], [0, 0], [array("q", [0, 4, 2]), array("q", [1, 3, 2])])
    shared = attribute([(0, done, joules)], [array("q")], asked)
    assert shared.request_j.tolist() == pytest.approx([0.6, 0.4])


def test_traffic_is_paid_by_who_accessed_memory_else_by_time_else_by_nobody() -> None:
    def spent(stage: Activity, load: Load) -> tuple[list[float], float]:
        run = StageRun(0, {0: 1}, stage, np.zeros(len(stage.begin_ns)), Fixed(), [Uptime(0, 0, 4 * MS)])
        servers = {0: ServerPower(j_per_byte={"dram": 1e-3}), POOL: ServerPower(j_per_byte={"cxl": 2e-3})}
        ledger = account([run], servers, [load], 4 * MS)
        assert ledger.until_j(np.array([4.0 * MS]))[0] == pytest.approx(ledger.total_j)
        return ledger.graph_j[0].tolist(), ledger.total_j

    two = activity((0, 1, 1, 0), (1, 4, 0, 1))
    by_bytes = two._replace(memory_bytes=np.array([0, 5], dtype=np.int64))
    assert spent(by_bytes, Load(0, "dram", 100))[0] == pytest.approx([0.1, 0.3 + 0.1])
    assert spent(two, Load(POOL, "cxl", 100))[0] == pytest.approx([0.1 + 0.05, 0.3 + 0.15])
    assert spent(activity(), Load(0, "dram", 100)) == ([], pytest.approx(0.04 + 0.1))
