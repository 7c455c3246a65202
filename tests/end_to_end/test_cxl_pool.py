"""A CXL pool behind ports and switches: who gets what of it, by hand, and what the outputs say.

An iteration of Llama-3.2-1B loads its 16 blocks of 121,643,008 bytes from the pool. Computing takes 1 ms in the
beginning, behind the first load. So a token takes 16 blocks at the rate that max-min sharing gives.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from llmservingsim import Run, RunOptions, simulate
from llmservingsim.backend.astra_files import read_memory
from llmservingsim.errors import CapacityError, ConfigError, UserError
from llmservingsim.workload import RequestSpec

NETWORKS = Path(__file__).parents[2] / "inputs" / "networks"
BLOCK = 121_643_008
BLOCKS = "0-15"
MEMORY = {"size": "64GiB", "bandwidth": "100GB/s"}
REQUEST = RequestSpec(0, 0, 8, 1)
NS_PER_LOAD = 2
"""An access ends in the nanosecond of its last byte, so a chain of n of them may be n early."""


def config(*places: str, pool: dict[str, Any] | None = None, **instance: Any) -> dict[str, Any]:
    """An instance on a node of its own for each place where weights lie; devices of 100 bytes per nanosecond."""
    shared = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "num_gpu_blocks": 500} | instance
    return {
        "nodes": [
            {"instances": [shared | {"placement": {"blocks": [{"blocks": BLOCKS, "weights": place}]}}]}
            for place in places
        ],
        "cxl_memory": MEMORY | {"num_devices": 4} | (pool or {}),
        "serving": {
            "latency": {"source": "constant_latency:Constant"},
            "enforce_eager": True,
            "async_scheduling": False,
        },
        "network": {"topology": "Switch", "bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"},
    }


def first_tokens_ns(data: dict[str, Any]) -> list[int]:
    """When the first token of a request to each instance is there."""
    count = len(data["nodes"])
    result = simulate(data, [RequestSpec(i, 0, 8, 1) for i in range(count)])
    found = {record.instance: record.first_token_ns for record in result.requests}
    return [found[i] or 0 for i in range(count)]


def expect(times_ns: list[int], rates: list[float]) -> None:
    for time_ns, rate in zip(times_ns, rates, strict=True):
        assert time_ns == pytest.approx(16 * BLOCK / rate, abs=16 * NS_PER_LOAD)


def test_a_port_limits_its_node() -> None:
    assert first_tokens_ns(config("cxl:0", pool={"ports": {"bandwidth": "40GB/s"}})) == [16 * (BLOCK // 40)]


def test_two_nodes_behind_equal_ports_have_equal_parts_of_a_device() -> None:
    expect(first_tokens_ns(config("cxl:0", "cxl:0", pool={"ports": {"bandwidth": "80GB/s"}})), [50, 50])


def test_what_a_narrow_port_leaves_the_other_has() -> None:
    """20 of 100 bytes per nanosecond go through the narrow port; the other node has the remaining 80, its port 90."""
    ports = [{"nodes": [0], "bandwidth": "20GB/s"}, {"bandwidth": "90GB/s"}]
    expect(first_tokens_ns(config("cxl:0", "cxl:0", pool={"ports": ports})), [20, 80])


def test_two_devices_behind_one_uplink_share_it() -> None:
    leaf = {"name": "leaf", "devices": "0-1", "bandwidth": "120GB/s"}
    expect(first_tokens_ns(config("cxl:0", "cxl:1", "cxl:2", pool={"switches": [leaf]})), [60, 60, 100])


def test_a_stripe_shares_the_one_device_that_another_uses() -> None:
    """Half of the stripe's rate r and all of the other's lie on device 0: 3 r / 2 = 100. Both end together."""
    expect(first_tokens_ns(config("cxl:0-1", "cxl:0", pool={"ports": {"bandwidth": "900GB/s"}})), [200 / 3, 200 / 3])


def test_others_have_what_a_stripe_behind_a_narrow_port_does_not_take() -> None:
    """A port of 40 lets the stripe take 20 of each device; the other has 80 of its one."""
    ports = [{"nodes": [0], "bandwidth": "40GB/s"}, {"bandwidth": "900GB/s"}]
    expect(first_tokens_ns(config("cxl:0-1", "cxl:0", pool={"ports": ports})), [40, 80])


def test_a_stripe_goes_at_the_rate_of_its_devices_together() -> None:
    pool = {"bandwidth": "20GB/s", "ports": {"bandwidth": "900GB/s"}}
    expect(first_tokens_ns(config("cxl", pool=pool)), [80])
    expect(first_tokens_ns(config("cxl:1,2,3", pool=pool)), [60])


def test_without_ports_a_stripe_over_some_devices_goes_at_their_rate_too() -> None:
    expect(first_tokens_ns(config("cxl:1-2", "cxl:3")), [200, 100])


def nested(*latencies: str) -> list[dict[str, Any]]:
    """Both leaves are behind the root's uplink of 90; each leaf has 60."""
    switches: list[dict[str, Any]] = [
        {"name": "root", "bandwidth": "90GB/s"},
        {"name": "a", "devices": [0], "behind": "root", "bandwidth": "60GB/s"},
        {"name": "b", "devices": [1, 2], "behind": "root", "bandwidth": "60GB/s"},
    ]
    return [switch | {"latency": latency} for switch, latency in zip(switches, latencies, strict=True)]


def test_switches_stand_behind_switches() -> None:
    switches = nested("0ns", "0ns", "0ns")
    expect(first_tokens_ns(config("cxl:0", "cxl:1", pool={"switches": switches})), [45, 45])


def test_every_hop_has_its_latency() -> None:
    """A rank copies one thing after another, and each waits for port, root, leaf and device: 7 + 100 + 20 + 250 ns."""
    pool = {"switches": nested("100ns", "20ns", "30ns"), "latency": "250ns"}
    pool["ports"] = {"bandwidth": "70GB/s", "latency": "7ns"}
    assert first_tokens_ns(config("cxl:0", pool=pool)) == [16 * (BLOCK // 60 + 377)]


def test_accelerators_have_ports_of_their_own_behind_that_of_their_node() -> None:
    """Four ranks load a quarter each at 10, behind a node port of 100; with a node port of 20 each has 5."""
    ports = [{"of": "accelerator", "bandwidth": "10GB/s"}, {"bandwidth": "100GB/s"}]
    data = config("cxl:0", pool={"ports": ports}, tensor_parallel_size=4)
    wide = first_tokens_ns(data)[0]
    data["cxl_memory"]["ports"][1]["bandwidth"] = "20GB/s"
    assert first_tokens_ns(data)[0] / wide == pytest.approx(2, rel=1e-3)


def test_accelerators_have_links_of_their_own_to_host_memory() -> None:
    """Two ranks of 60 would share 100 bytes per nanosecond; with links of 40 each has its link."""
    data = config("cpu", tensor_parallel_size=2)
    data["nodes"][0]["cpu_memory"] = MEMORY
    shared = first_tokens_ns(data)[0]
    data["nodes"][0]["cpu_memory"] = MEMORY | {"link_bandwidth": "60GB/s"}
    assert first_tokens_ns(data)[0] == pytest.approx(shared, rel=1e-6)
    data["nodes"][0]["cpu_memory"] = MEMORY | {"link_bandwidth": "40GB/s"}
    assert first_tokens_ns(data)[0] / shared == pytest.approx(50 / 40, rel=1e-3)


def test_links_that_limit_nobody_change_next_to_nothing() -> None:
    """The same devices, shared equally by two that load alike: to the nanosecond per load."""
    plain = first_tokens_ns(config("cxl:0", "cxl:0"))
    behind = first_tokens_ns(config("cxl:0", "cxl:0", pool={"ports": {"bandwidth": "100000GB/s"}}))
    assert behind == pytest.approx(plain, abs=16)


def test_the_outputs_tell_what_each_link_carried() -> None:
    """One node loads 16 blocks at 20, the other at 80 until it is done, after a quarter of the time."""
    pool = {
        "ports": [{"nodes": [0], "bandwidth": "20GB/s"}, {"bandwidth": "90GB/s"}],
        "switches": [{"name": "leaf", "devices": "0", "bandwidth": "100GB/s"}],
    }
    data = config("cxl:0", "cxl:0", pool=pool)
    made = Run(data, [RequestSpec(i, 0, 8, 1) for i in range(2)])
    cxl = made.execute().summary["bytes_moved"]["memories"]["cxl"]
    size = 16 * BLOCK
    of_port = {"loaded_bytes": size, "stored_bytes": 0, "store_busy_pct": 0}
    assert cxl["ports"] == {
        "node 0": of_port | {"load_busy_pct": pytest.approx(100, abs=1e-3)},
        "node 1": of_port | {"load_busy_pct": pytest.approx(25, abs=1e-3)},
    }
    assert cxl["uplinks"] == {"switch leaf": cxl["ports"]["node 0"] | {"loaded_bytes": 2 * size}}
    assert cxl["devices"]["cxl:0"] == {"bytes": 2 * size, "busy_pct": pytest.approx(100, abs=1e-3)}
    assert cxl["devices"]["cxl:1"] == {"bytes": 0, "busy_pct": 0}
    assert cxl["places"] == {"cxl:0": {"loaded_bytes": 2 * size, "stored_bytes": 0}}


def test_a_pool_without_links_says_nothing_of_them() -> None:
    result = simulate(config("cxl:0-2"), [RequestSpec(0, 0, 8, 1)])
    cxl = result.summary["bytes_moved"]["memories"]["cxl"]
    assert cxl["places"] == {"cxl:0-2": {"loaded_bytes": 16 * BLOCK, "stored_bytes": 0}}
    assert not {"ports", "uplinks", "devices"} & set(cxl)


def test_nodes_use_what_they_reach() -> None:
    """``cxl`` is interleaved over what the node reaches: two devices for node 0, all four for node 1."""
    leaf = {"name": "leaf", "devices": "2-3", "bandwidth": "900GB/s", "nodes": [1]}
    pool = {"switches": [leaf], "bandwidth": "40GB/s"}
    expect(first_tokens_ns(config("cxl", "npu", pool=pool))[:1], [80])
    expect(first_tokens_ns(config("npu", "cxl", pool=pool))[1:], [160])
    with pytest.raises(ConfigError, match="do not let node 0 reach it; expected cxl:0-1"):
        simulate(config("cxl:2", "npu", pool={"switches": [leaf]}), [REQUEST])


def test_capacity_is_counted_per_device() -> None:
    pool = {"size": "1GiB"}
    with pytest.raises(CapacityError, match=r"1.81 GiB do not fit into cxl:1, which holds 1.00 GiB"):
        simulate(config("cxl:1", pool=pool), [REQUEST])
    simulate(config("cxl:1-2", "cxl:0,3", pool=pool), [REQUEST])
    with pytest.raises(CapacityError, match=r"(?s)do not fit into cxl:2-3, .*1.81 GiB  cxl:1-2  weights of instance 0"):
        simulate(config("cxl:1-2", "cxl:2-3", pool=pool), [REQUEST])


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"ports": {"bandwith": "1GB/s"}}, "bandwith"),
        (
            {"ports": {"bandwidth": "1GB/s", "nodes": [2]}},
            "cxl_memory: ports[0]: nodes: there is no 2; the nodes are 0 to 0",
        ),
        ({"ports": [{"bandwidth": "1GB/s"}] * 2}, "cxl_memory: ports[1]: another entry says it of each node"),
        (
            {"ports": [{"bandwidth": "1GB/s", "nodes": "0"}] * 2},
            "cxl_memory: ports[1]: nodes: another entry of each node names node 0 too",
        ),
        ({"ports": {"bandwidth": "1GB/s", "nodes": "a"}}, "nodes: 'a' in 'a' is no number or range"),
        ({"ports": {"bandwidth": "0GB/s"}}, "bandwidth: expected more than 0"),
        ({"switches": [{"name": "a", "bandwidth": "1GB/s"}]}, "switches[0]: devices: nothing is behind this switch"),
        (
            {"switches": [{"name": "a", "bandwidth": "1GB/s", "devices": [4]}]},
            "switches[0]: devices: there is no 4; the devices are 0 to 3",
        ),
        (
            {"switches": [{"name": n, "bandwidth": "1GB/s", "devices": [1]} for n in "ab"]},
            "switches[1]: devices: 1 is behind 'a' already",
        ),
        (
            {"switches": [{"name": "a", "bandwidth": "1GB/s", "devices": [d]} for d in (0, 1)]},
            "switches[1].name: 'a' is the name of another one too",
        ),
        (
            {
                "switches": [
                    {"name": "leaf", "bandwidth": "1GB/s", "devices": [0], "behind": "rot"},
                    {"name": "root", "bandwidth": "1GB/s", "devices": [1]},
                ]
            },
            "behind: there is no switch 'rot' (did you mean 'root'?)",
        ),
        (
            {"switches": [{"name": "a", "bandwidth": "1GB/s", "devices": [0], "behind": "a"}]},
            "behind: 'a' is behind this switch itself",
        ),
        ({"link_bandwidth": "1GB/s"}, "link_bandwidth"),
    ],
)
def test_a_fabric_that_means_nothing_is_refused(pool: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        simulate(config("cxl:0", pool=pool), [REQUEST])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("cxl:0-9", "the pool has 4 devices; expected cxl:0 to cxl:3"),
        ("cxl:1,1", "names a device twice"),
        ("cxl:3-1", "is no memory"),
        ("cpu:0-1", "is no memory"),
    ],
)
def test_a_set_of_devices_that_is_not_there_is_refused(place: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        simulate(config(place), [REQUEST])


def in_the_network(count: int, **pool: Any) -> dict[str, Any]:
    """Instances on the accelerators of a topology file, which load over its links: 31.5 of each, 63 of the pool."""
    data = config(*["cxl"] * count, pool={"num_devices": 1, "endpoints": ["pool"]} | pool)
    data["network"] = {"topology": str(NETWORKS / "cxl-pool.yaml"), "model": "flow"}
    return data


def test_a_pool_may_stand_in_the_network_of_the_run() -> None:
    """Two have what their own cables carry, four a quarter each of the pool's; 200 ns of latency per load."""
    latency_ns = 16 * 200
    for count, rate in ((1, 31.5), (2, 31.5), (4, 63 / 4)):
        expected = pytest.approx(16 * BLOCK / rate + latency_ns, rel=1e-6)
        assert first_tokens_ns(in_the_network(count)) == [expected] * count


def test_a_memory_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no memory 'pol' \(did you mean 'pool'\?\); expected pool"):
        simulate(in_the_network(1, endpoints=["pol"]), [REQUEST])
    with pytest.raises(ConfigError, match="endpoints: expected one per device, 1, got"):
        simulate(in_the_network(1, endpoints=["pool", "pool"]), [REQUEST])
    with pytest.raises(ConfigError, match="endpoints: the network is what lies between"):
        simulate(in_the_network(1, ports={"bandwidth": "1GB/s"}), [REQUEST])
    with pytest.raises(ConfigError, match="expected a topology file with memories"):
        simulate(config("cxl", pool={"num_devices": 1, "endpoints": ["pool"]}), [REQUEST])


def test_prefix_tiers_use_the_fabric() -> None:
    """KV goes to the pool and comes from it over the node's port."""
    data = config("npu", pool={"ports": {"bandwidth": "10GB/s"}}, prefix_storage="cxl", num_gpu_blocks=20)
    tokens = [tuple(range(f * 1000, f * 1000 + 273)) for f in (0, 1, 0)]
    requests = [RequestSpec(i, i * 500_000_000, 272, 1, ids) for i, ids in enumerate(tokens)]
    summary = simulate(data, requests).summary
    moved = summary["bytes_moved"]["memories"]["cxl"]
    port = moved["ports"]["node 0"]
    assert port["stored_bytes"] == moved["stored_bytes"] == 2 * 256 * 32_768
    assert port["loaded_bytes"] == moved["loaded_bytes"] > 0
    assert summary["prefix_cache"]["cxl"]["reads"]["time_ms"]["mean"] == pytest.approx(
        moved["loaded_bytes"] / 10 / 1e6, rel=1e-3
    )


def test_traces_of_a_run_carry_the_links(tmp_path: Path) -> None:
    pool = {
        "ports": {"bandwidth": "40GB/s", "latency": "7ns"},
        "switches": [{"name": "s", "devices": "0-1", "bandwidth": "60GB/s"}],
    }
    data = config("cxl:0-1", pool=pool, tensor_parallel_size=2)
    Run(data, [RequestSpec(0, 0, 8, 1)], RunOptions(emit_traces=tmp_path)).execute()
    level = read_memory(tmp_path / "memory.json", "llmservingsim").cxl
    assert [(link.bandwidth_gbps, link.latency_ns) for link in level.links] == [(40.0, 7), (60.0, 0)]
    assert (level.rank_links, level.device_links) == ([[0], [0]], [[1], [1], [], []])
    assert level.interleaves == [[0, 1]]
    assert json.loads((tmp_path / "memory.json").read_text())["cxl_mem"]["discipline"] == "flow"
