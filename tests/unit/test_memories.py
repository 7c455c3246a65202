"""The memories of a run: where things lie, and that no more lies there than fits."""

from typing import Any

import pytest

from llmservingsim.config import RunSpec
from llmservingsim.errors import CapacityError, ConfigError
from llmservingsim.memories import INTERLEAVED, Memories, Place
from llmservingsim.strict import convert

INSTANCE = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100"}
GIB = 2**30


def memories(**changes: Any) -> Memories:
    """Two nodes with host memories of their own, and a pool of four devices."""
    data = {
        "nodes": [
            {"instances": [INSTANCE], "cpu_memory": {"size": "64GiB", "bandwidth": "100GB/s"}},
            {"instances": [INSTANCE], "cpu_memory": {"size": "32GiB", "bandwidth": "50GB/s", "latency": "7ns"}},
        ],
        "cxl_memory": {"size": "16GiB", "bandwidth": "30GB/s", "latency": "250ns", "num_devices": 4},
    }
    return Memories(convert(data | changes, RunSpec, "run", ConfigError))


def test_a_memory_of_a_node_is_that_nodes_device() -> None:
    found = memories()
    assert [found.find("cpu", node) for node in (0, 1)] == [Place("cpu", 0), Place("cpu", 1)]
    level = found.model.remote
    assert [(rate.latency_ns, rate.bandwidth_gbps) for rate in level.rates] == [(0, 100.0), (7, 50.0)]


def test_a_pool_is_interleaved_unless_a_device_is_named() -> None:
    found = memories()
    assert found.find("cxl", 1) == Place("cxl", INTERLEAVED)
    assert found.find("cxl:2", 0) == Place("cxl", 2)
    assert found.size_bytes(Place("cxl", INTERLEAVED)) == 64 * GIB


def test_the_backend_is_told_only_of_memories_that_somebody_uses() -> None:
    found = memories()
    assert found.model.remote.type == found.model.cxl.type == "NO_MEMORY_EXPANSION"
    found.find("cxl:0", 0)
    assert (found.model.remote.type, found.model.cxl.type) == ("NO_MEMORY_EXPANSION", "MEMORY_DEVICES")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cpux", "'cpux' is no memory (did you mean 'cpu'?); expected cpu, cxl, cxl:<i> or storage"),
        ("cpu:1", "is no memory"),
        ("cxl:4", "the pool has 4 devices; expected cxl:0 to cxl:3"),
        ("storage", "the run describes no such memory; expected nodes[0].storage"),
    ],
)
def test_a_memory_that_is_not_there_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        memories().find(name, 0)
    assert said in str(caught.value)


def test_what_does_not_fit_is_refused_with_a_table_of_what_is_there() -> None:
    found = memories()
    place = found.find("cxl", 0)
    found.claim("weights of instance 0", found.find("cxl:1", 0), 10 * GIB)
    assert found.free_bytes(place) == 4 * 6 * GIB  # an even stripe takes as much of every device
    assert found.free_bytes(Place("cxl", 0)) == 16 * GIB
    found.claim("weights of instance 1", place, 8 * GIB)
    with pytest.raises(CapacityError) as caught:
        found.claim("prefix cache", place, 16 * GIB + 1)
    said = str(caught.value)
    assert "do not fit into cxl, which holds 64.00 GiB, of which 16.00 GiB are free" in said
    assert "cxl:1  weights of instance 0" in said
    assert "cxl  weights of instance 1" in said
