"""Pipeline stages in groups that share experts: times worked out by hand, and nothing lost.

Each member has two stages of one rank with two of the four blocks. A block takes 100 us, a dispatch, 50 us in its
experts and a combine. Dispatch is an all-gather over the two ranks of a stage, one message of the mean of the tokens;
combine a reduce-scatter, one message of half of all tokens' vectors.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tiny_moe import (
    ATTENTION_NS,
    EXPERTS_NS,
    HIDDEN_BYTES,
    ROUTED_BYTES,
    US,
    Blocks,
    crossing_ns,
    members,
    write_model,
)

from llmservingsim import Run, RunOptions
from llmservingsim.errors import DeadlockError, SimulationError
from llmservingsim.instance import Execution
from llmservingsim.latency import ExpertWork
from llmservingsim.lockstep import DataParallelGroup
from llmservingsim.shapes import BatchShape
from llmservingsim.stages import DUMMY
from llmservingsim.workload import RequestSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first two of its four blocks have no experts."""
    return write_model(tmp_path_factory.mktemp("mixed"), mlp_only_layers=[0, 1], moe_intermediate_size=192)


class Rounds:
    """An iteration listener that keeps what every round computes, and the order in which rounds leave each stage."""

    def __init__(self) -> None:
        self.shapes: dict[tuple[int, int], tuple[BatchShape, ...]] = {}
        self.begun_ns: dict[tuple[int, int], int] = {}
        self.left: dict[int, list[int]] = {}

    def submitted(self, execution: Execution, now_ns: int) -> None:
        assert (execution.number, execution.builder.stage) not in self.shapes
        self.shapes[execution.number, execution.builder.stage] = execution.shapes
        self.begun_ns[execution.number, execution.builder.stage] = now_ns

    def ended(self, execution: Execution, now_ns: int) -> None:
        self.left.setdefault(execution.builder.stage, []).append(execution.number)


def run(spec: dict[str, Any], *requests: tuple[int, int, int]) -> Run:
    """Serve requests given as (prompt, output, arrival in us), which round robin deals out."""
    made = Run(spec, [RequestSpec(i, at * US, p, o) for i, (p, o, at) in enumerate(requests)])
    made.execute()
    return made


def times(made: Run) -> list[tuple[int | None, int | None]]:
    """First and last token of every request."""
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    return [(r.first_token_ns, r.finish_ns) for r in records]


def group(made: Run) -> DataParallelGroup:
    (owner,) = made.system.owners
    assert isinstance(owner, DataParallelGroup)
    return owner


def stage_ns(*tokens: int) -> int:
    """Two blocks of a round in which the members compute so many tokens."""
    dispatch = crossing_ns(sum(tokens) / len(tokens) * ROUTED_BYTES)
    combine = crossing_ns(sum(tokens) * HIDDEN_BYTES / len(tokens))
    return 2 * (ATTENTION_NS + dispatch + EXPERTS_NS + combine)


def message_ns(tokens: int) -> int:
    return crossing_ns(tokens * HIDDEN_BYTES)


def test_a_round_passes_through_the_stages_beside_an_idle_member(model: str) -> None:
    """A prompt of 100 and one dummy token: dispatch of 50.5 * 136 bytes in 3,289 ns, combine of 50.5 * 128 in 3,154.

    A stage takes 2 * (150,000 + 3,289 + 3,154) = 312,886 ns, the message of 100 * 128 bytes 5,266 ns.
    """
    made = run(members(model), (100, 2, 0))
    first = 2 * 312_886 + 5_266
    assert (stage_ns(100, 1), message_ns(100)) == (312_886, 5_266)
    assert times(made) == [(first, first + 2 * stage_ns(1, 1) + message_ns(1))]
    assert (group(made).num_rounds, group(made).num_dummies) == (2, 2)


def test_two_members_move_as_one_and_the_larger_message_counts(model: str) -> None:
    made = run(members(model), (100, 1, 0), (40, 1, 0))
    assert times(made) == [(2 * stage_ns(100, 40) + message_ns(100),) * 2] * 2
    assert (group(made).num_rounds, group(made).num_dummies) == (1, 0)


def test_rounds_follow_each_other_through_the_stages(model: str) -> None:
    """Two chunks of 64: the second is in stage 0 while the first is in stage 1."""
    made = run(members(model, max_num_batched_tokens=64, max_num_seqs=8), (128, 1, 0))
    assert times(made) == [(3 * stage_ns(64, 1) + message_ns(64),) * 2]
    assert (group(made).num_rounds, group(made).num_dummies) == (2, 2)


def test_no_more_rounds_are_in_flight_than_there_are_stages(model: str) -> None:
    """Three chunks on two stages: the third enters when the first has left, with a message to go for the second."""
    made = run(members(model, max_num_batched_tokens=64, max_num_seqs=8), (192, 1, 0))
    third = 2 * stage_ns(64, 1) + message_ns(64)
    assert times(made) == [(third + 2 * stage_ns(64, 1) + message_ns(64),) * 2]


def test_a_third_member_waits_until_a_round_has_left_the_last_of_two_stages(mixed: str) -> None:
    """Requests come at 0, 310 and 320 us, to a member each; stage 0 takes 300 us, so it is free again at 610 us.

    The first round leaves later, and only then the third begins.
    """
    spec = members(mixed, 3)
    spec["serving"]["enable_expert_parallel"] = False
    made = Run(spec, [RequestSpec(i, at * US, 100, 1) for i, at in enumerate((0, 310, 320))])
    heard = Rounds()
    made.system.instances[0].listener = heard
    made.execute()
    (first, _), *_ = times(made)
    assert (heard.begun_ns[0, 0], heard.begun_ns[1, 0]) == (0, 310 * US)
    assert heard.begun_ns[2, 0] == first
    assert (first or 0) > 610 * US


def test_a_member_that_was_idle_fills_the_first_stage(model: str) -> None:
    """Its request comes while the other's round is in stage 1: a round of its own begins at once, with a dummy beside.

    The dummy does not hold the other member up: its next batch is in the third round.
    """
    at = 400 * US
    made = run(members(model), (100, 2, 0), (10, 1, 400))
    first = 2 * stage_ns(100, 1) + message_ns(100)
    second = max(at + stage_ns(1, 10) + message_ns(10), first) + stage_ns(1, 10)
    begun = max(first, at + stage_ns(1, 10))
    third = max(begun + stage_ns(1, 1) + message_ns(1), second) + stage_ns(1, 1)
    assert times(made) == [(first, third), (second, second)]
    assert (group(made).num_rounds, group(made).num_dummies) == (3, 3)


def test_tensor_parallel_ranks_of_a_stage_share_its_experts_alone(model: str) -> None:
    made = run(members(model, tp=2), (100, 1, 0))
    one, two = made.system.instances
    assert (one.ranks, two.ranks) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert one.builder.template.groups == ((0, 1), (4, 5), (0, 1, 4, 5))
    assert one.builder.layout.ep == 4
    assert one.collective_bytes > two.collective_bytes > 0


def test_members_may_stand_on_different_nodes(model: str) -> None:
    spec = members(model)
    spec["nodes"] = [{"instances": [i]} for i in spec["nodes"][0]["instances"]]
    assert times(run(spec, (100, 1, 0))) == [(2 * stage_ns(100, 1) + message_ns(100),) * 2]


def test_two_groups_run_by_themselves(model: str) -> None:
    spec = members(model)
    spec["nodes"] += members(model, data_parallel_group="B")["nodes"]
    made = run(spec, (100, 1, 0), (40, 1, 0), (7, 1, 0), (8, 1, 0))
    first, second = 2 * stage_ns(100, 40) + message_ns(100), 2 * stage_ns(7, 8) + message_ns(8)
    assert times(made) == [(first, first)] * 2 + [(second, second)] * 2
    assert [len(owner.members) for owner in made.system.owners] == [2, 2]


def test_the_kv_capacity_is_that_of_the_stage_with_the_fewest_blocks(model: str) -> None:
    """Of 1 GiB minus a stage's weights; a block of 16 tokens has keys and values of 2 blocks, 2 heads of 16.

    A rank of a stage has one of four experts of each block, 3 * 64 * 64, the router's 64 * 4, its half of the heads'
    projections, 64 * (32 + 64) and 32 * 64, two norms of 64 and two of 16; the first stage 32 rows of the embedding,
    the last as many of the head and a norm.
    """
    options = {"memory_size": "1GiB", "kv_memory_model": "weights_only", "num_gpu_blocks": None}
    memory = Run(members(model, tp=2, **options), [RequestSpec(0, 0, 1, 1)]).system.instances[1].memory
    block = 3 * 64 * 64 + 64 * 4 + 64 * 96 + 32 * 64 + 2 * 64 + 2 * 16
    assert memory.weights_bytes == 2 * (2 * block + 32 * 64 + 64)
    assert memory.block_bytes == 16 * 2 * 2 * 2 * 16 * 2
    assert memory.num_blocks == (int(0.9 * 2**30) - memory.weights_bytes) // memory.block_bytes


def test_a_group_with_stages_hands_prompts_on_to_another(model: str) -> None:
    """Every rank of the decode side pulls what it keeps: 2 blocks of 4 heads of 16, keys and values in two bytes."""
    spec = members(model, kv_role="kv_producer")
    spec["nodes"] += members(model, kv_role="kv_consumer", data_parallel_group="B")["nodes"]
    made = run(spec, (100, 5, 0), (40, 5, 0), (7, 5, 300))
    assert made.system.transfers is not None
    assert sorted(r.num_bytes for r in made.system.transfers.records) == [t * 4 * 4 * 16 * 2 * 2 for t in (7, 40, 100)]
    assert [i.engine.kv.pool.num_held for i in made.system.instances] == [0] * 4


def test_a_group_that_is_stuck_says_whose_requests_wait(model: str) -> None:
    """A scheduler that never schedules: the run ends, and names every request."""
    spec = members(model)
    spec["serving"]["scheduler"] = f"{__name__}:Refuser"
    with pytest.raises(DeadlockError, match=r"(?s)instance 0: Request.*waits for.*instance 1: Request.*waits for"):
        run(spec, (10, 1, 0), (20, 1, 0))


@pytest.mark.parametrize("pp", [1, 2])
def test_a_latency_that_no_clock_can_count_names_the_members(model: str, pp: int) -> None:
    spec = members(model, pp=pp)
    spec["serving"]["latency"]["source"] = f"{__name__}:Negative"
    with pytest.raises(SimulationError, match=r"instances \[0, 1\], iteration 0: "):
        run(spec, (10, 1, 0))


class Negative(Blocks):
    """Operators take less than no time."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return -1


class Refuser:
    """Takes requests and schedules none."""

    def __init__(self, limits: object, kv: object) -> None:
        self.running: list[Any] = []
        self._waiting: list[Any] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def waiting(self) -> list[Any]:
        return self._waiting

    def add(self, request: Any) -> None:
        self._waiting.append(request)

    def schedule(self, now_ns: int) -> list[Any]:
        return []

    def finish(self, request: Any) -> None:
        raise AssertionError("nothing can finish")


class WholeMicroseconds(Blocks):
    """Every operator takes 2 us, experts one more per token that they compute."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 2 * US

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.rint(2 + work.pairs).astype(np.int64) * US


@pytest.mark.parametrize(("tp", "routing"), [(1, "balanced"), (2, "balanced"), (2, "random")])
def test_exported_stages_take_as_long_as_in_the_run(
    cli: Callable[..., Any], model: str, tmp_path: Path, tp: int, routing: str
) -> None:
    spec = members(model, tp=tp)
    spec["serving"] |= {"experts": {"routing": routing}, "latency": {"source": f"{__name__}:WholeMicroseconds"}}
    spec["network"]["endpoint_delay"] = "10ns"  # a stock ASTRA-sim knows no other for groups
    requests = [RequestSpec(i, i * 100 * US, 20 + i, 3) for i in range(4)]
    Run(spec, requests, RunOptions(emit_traces=tmp_path, emit_iterations=range(3))).execute()
    with (tmp_path / "iterations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["prefix"] for row in rows) == [
        f"instances0-1/iteration_0000{number}.stage{stage}" for number in range(3) for stage in range(2)
    ]
    for row in rows:
        files = {"workload": row["prefix"], "system": "system.json", "network": "network.yml"}
        files |= {"remote-memory": "memory.json", "comm-group": "instances0-1/comm_groups.json"}
        words = [part for kind, name in files.items() for part in (f"--{kind}-configuration", tmp_path / name)]
        answer = cli("astra", *words, "--json")
        assert answer.code == 0, answer.err
        ranks = json.loads(answer.out)["ranks"]
        assert len(ranks) == 2 * tp
        assert max(rank["finish_ns"] for rank in ranks) == int(row["duration_ns"])


requests = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 20), st.integers(0, 9000)), min_size=1, max_size=16)
layouts = st.tuples(st.integers(1, 3), st.integers(2, 3), st.sampled_from([1, 2]))


@given(
    drawn=requests,
    layout=layouts,
    routing=st.sampled_from(["balanced", "random"]),
    network=st.tuples(st.sampled_from(["3GB/s", "0.003GB/s"]), st.sampled_from(["unaware", "flow", "aware"])),
    blocks=st.integers(13, 40),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_ends_and_members_share_every_round(
    mixed: str,
    drawn: list[tuple[int, int, int]],
    layout: tuple[int, int, int],
    routing: str,
    network: tuple[str, str],
    blocks: int,
) -> None:
    pp, dp, tp = layout
    sizes = {"max_num_batched_tokens": 64, "max_num_seqs": 6, "num_gpu_blocks": blocks}
    spec = members(mixed, dp, pp, tp, expert_parallel_size=2 if tp * dp % 2 == 0 else 1, **sizes)
    spec["serving"] |= {"experts": {"routing": routing}, "enable_expert_parallel": None}
    spec["network"]["bandwidth"], spec["network"]["model"] = network
    made = Run(spec, [RequestSpec(i, at * US, p, o) for i, (p, o, at) in enumerate(drawn)])
    heard = Rounds()
    for one in made.system.instances:
        one.listener = heard
    made.execute()
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [(r.status, r.output_tokens) for r in records] == [("finished", output) for _, output, _ in drawn]
    for one in made.system.instances:
        assert (one.engine.kv.pool.num_held, one.engine.holds_requests) == (0, False)
    rounds = range(group(made).num_rounds)
    assert heard.left == {stage: list(rounds) for stage in range(pp)}
    assert all(heard.shapes[number, stage] is heard.shapes[number, 0] for number in rounds for stage in range(pp))
    dummies = [sum(shape is DUMMY for shape in heard.shapes[number, 0]) for number in rounds]
    assert max(dummies) < dp
    assert sum(dummies) == group(made).num_dummies
    assert sum(one.engine.iterations for one in made.system.instances) + sum(dummies) == dp * len(rounds)
