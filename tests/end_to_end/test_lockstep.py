"""Instances that share experts run every round together: times worked out by hand, and nothing lost.

An iteration takes 1 ms and 1 us per token; experts and messages take next to nothing: links and memories move 10^15
bytes per second, links have no latency, preparing a block costs none.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmservingsim import Run
from llmservingsim.errors import ConfigError
from llmservingsim.latency import ExpertWork
from llmservingsim.lockstep import DataParallelGroup
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

MS, US = 1_000_000, 1_000


class MillisecondAndTokens:
    """Latencies by which an iteration takes 1 ms and 1 us per token."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return MS + shape.num_tokens * US if operator == "embedding" else 0

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.zeros(work.pairs.shape, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def config(group: str | None, model: str = "Qwen/Qwen3-30B-A3B", members: int = 2, **options: object) -> dict[str, Any]:
    instance = {"model": model, "hardware": "H100", "memory_bandwidth": "1000000GB/s", "num_gpu_blocks": 101}
    instance |= {"data_parallel_group": group, **options}
    return {
        "nodes": [{"instances": [dict(instance) for _ in range(members)]}],
        "network": {"bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"},
        "serving": {
            "latency": {"source": f"{__name__}:MillisecondAndTokens"},
            "enforce_eager": True,
            "async_scheduling": False,
            "enable_expert_parallel": True,
        },
    }


def run(spec: dict[str, Any], *requests: tuple[int, int, int]) -> Run:
    """Serve requests given as (prompt, output, arrival in ms), which round robin deals out."""
    made = Run(spec, [RequestSpec(i, at * MS, p, o) for i, (p, o, at) in enumerate(requests)])
    made.execute()
    return made


def times(made: Run) -> list[tuple[int, int]]:
    """First and last token of every request, in whole microseconds: messages take less than one."""
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    return [((r.first_token_ns or 0) // US, (r.finish_ns or 0) // US) for r in records]


def group(made: Run) -> DataParallelGroup:
    (owner,) = made.system.owners
    assert isinstance(owner, DataParallelGroup)
    return owner


def test_a_member_with_less_to_do_waits_for_the_other() -> None:
    """Prompts of 200 and 10 tokens: round 1 takes 1,200 us for both, round 2, of one token each, 1,001 us."""
    made = run(config("A"), (200, 2, 0), (10, 2, 0))
    assert times(made) == [(1200, 2201), (1200, 2201)]
    assert (group(made).num_rounds, group(made).num_dummies) == (2, 0)


def test_a_member_without_work_runs_dummies_and_an_idle_group_rests() -> None:
    """Three rounds for the one request, each with a dummy; then nothing until 50 ms, and three rounds more."""
    made = run(config("A"), (100, 3, 0), (100, 3, 50))
    assert times(made) == [(1100, 3102), (51_100, 53_102)]
    assert (group(made).num_rounds, group(made).num_dummies) == (6, 6)


def test_a_request_that_comes_while_a_round_runs_joins_the_next() -> None:
    """The second arrives at 1 ms, in round 1, which ends at 1,400 us; round 2 holds its 100 tokens and one decode."""
    made = run(config("A"), (400, 3, 0), (100, 1, 1))
    assert times(made) == [(1400, 1400 + 1100 + 1001), (1400 + 1100, 1400 + 1100)]


def test_instances_of_a_dense_model_stay_independent() -> None:
    made = run(config("A", "meta-llama/Llama-3.2-1B", enable_expert_parallel=False), (200, 2, 0), (10, 2, 0))
    assert times(made) == [(1200, 2201), (1010, 2011)]
    assert len(made.system.owners) == 2


def test_members_that_differ_are_refused() -> None:
    spec = config("A")
    spec["nodes"][0]["instances"][1]["num_gpu_blocks"] = 99
    message = r"nodes\[0\].instances\[1\]: num_gpu_blocks: members of the data-parallel group 'A' must be alike"
    with pytest.raises(ConfigError, match=message):
        Run(spec, [RequestSpec(0, 0, 1, 1)])


def test_two_groups_run_by_themselves() -> None:
    spec = config("A")
    spec["nodes"].append(config("B")["nodes"][0])
    made = run(spec, (200, 2, 0), (10, 2, 0), (20, 2, 0), (30, 2, 0))
    assert times(made) == [(1200, 2201), (1200, 2201), (1030, 2031), (1030, 2031)]


requests = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=20)


@given(drawn=requests, is_async=st.booleans(), blocks=st.integers(13, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_ends_and_every_block_comes_back(
    drawn: list[tuple[int, int, int]], is_async: bool, blocks: int
) -> None:
    spec = config("A", members=4, num_gpu_blocks=blocks)
    spec["serving"]["async_scheduling"] = is_async
    made = run(spec, *drawn)
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [r.status for r in records] == ["finished"] * len(drawn)
    assert [r.output_tokens for r in records] == [output for _, output, _ in drawn]
    for one in made.system.instances:
        assert (one.engine.kv.pool.num_held, one.engine.holds_requests) == (0, False)
