"""KV that is pulled, pushed, or pushed block by block: times worked out by hand.

Attention takes 125 us per block and nothing else takes time, so an iteration of the 16 blocks of Llama-3.2-1B takes 2
ms, and block k of an iteration that begins at t is ready at t + 125 us * k. A token has 2 * 8 heads * 64 * 2 bytes =
2,048 bytes of KV per block. A message costs 1,000 ns and moves 1 byte per nanosecond.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim import Run
from llmservingsim.errors import ConfigError, DeadlockError
from llmservingsim.latency import ExpertWork
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.shapes import BatchShape
from llmservingsim.transfer import TransferRecord
from llmservingsim.workload import RequestSpec

US, MS = 1_000, 1_000_000
BLOCK_US, BLOCKS = 125, 16
ITERATION = 2 * MS
KV_BYTES = 2048


class EighthOfAMillisecond:
    """Latencies by which a block takes 125 us."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return BLOCK_US * US if operator == "attention" else 0

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def instance(role: str, **options: object) -> dict[str, Any]:
    return {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "kv_role": role, "num_gpu_blocks": 1001, **options}


PAIR = (instance("kv_producer"), instance("kv_consumer"))


def config(*instances: dict[str, Any], network: str = "unaware", **kv_transfer: object) -> dict[str, Any]:
    return {
        "nodes": [{"instances": list(instances or PAIR)}],
        "network": {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns", "model": network},
        "serving": {
            "latency": {"source": f"{__name__}:EighthOfAMillisecond"},
            "enforce_eager": True,
            "async_scheduling": False,
        },
        "kv_transfer": {"first_token": "prefill", "get_finished": "at_end", **kv_transfer},
    }


def run(spec: dict[str, Any], *requests: tuple[int, int, int]) -> Run:
    """Serve requests given as (prompt, output, arrival in us)."""
    made = Run(spec, [RequestSpec(i, at * US, p, o) for i, (p, o, at) in enumerate(requests)])
    made.execute()
    for one in made.system.instances:
        one.engine.kv.pool.check([])
    return made


def crossed(made: Run) -> list[TransferRecord]:
    """What crossed, by request."""
    assert made.system.transfers is not None
    return sorted(made.system.transfers.records, key=lambda r: r.request_id)


def times(made: Run) -> list[tuple[int, int]]:
    """First and last token of every request."""
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    return [(r.first_token_ns or 0, r.finish_ns or 0) for r in records]


def near(ns: int) -> Any:
    """A message's time drops its fraction, of a bandwidth that is not exactly 1 byte per nanosecond in binary."""
    return pytest.approx(ns, abs=2 * BLOCKS)


def message(tokens: int) -> int:
    """One block's KV."""
    return 1000 + tokens * KV_BYTES


def whole(tokens: int) -> int:
    return 1000 + tokens * KV_BYTES * BLOCKS


# Whose first token


def test_the_decode_side_samples_the_first_token_again() -> None:
    """Four tokens: all of them from the decode side, which computes the last position of the prompt first."""
    made = run(config(first_token="decode"), (100, 4, 0))
    there = ITERATION + whole(100)
    assert times(made) == [(near(there + ITERATION), near(there + 4 * ITERATION))]
    (record,) = made.recorder.records
    assert (record.output_tokens, record.decode_instance) == (4, 1)
    assert made.recorder.output_tokens == 4  # the one thrown away is none


def test_an_answer_of_one_token_crosses_too_if_the_decode_side_samples_it() -> None:
    made = run(config(first_token="decode"), (100, 1, 0))
    assert times(made) == [(near(ITERATION + whole(100) + ITERATION),) * 2]
    assert [r.num_tokens for r in crossed(made)] == [100]


def test_the_proxy_delays_the_decode_side() -> None:
    made = run(config(proxy_latency="5ms"), (100, 2, 0))
    assert times(made) == [(ITERATION, near(ITERATION + 5 * MS + whole(100) + ITERATION))]


# When the decode side hears of it


@pytest.mark.parametrize(("asked", "iterations"), [("at_end", 1), ("at_launch", 2)])
def test_kv_that_comes_while_a_batch_runs_is_heard_of_late(asked: str, iterations: int) -> None:
    """The first request decodes from 2 ms + 33,768 * 16 ns on; the second is prefilled 3..5 ms.

    Its KV begins to cross at the next boundary of the decode side and arrives within the iteration that begins there.
    At launch, the one after is asked, and the request enters the one after that.
    """
    made = run(config(get_finished=asked), (16, 20, 0), (16, 2, 3000))
    decoding = ITERATION + whole(16)
    boundary = decoding + 2 * ITERATION
    assert boundary - ITERATION < 5 * MS < boundary
    (_, second) = times(made)
    assert second == (5 * MS, near(boundary + (iterations + 1) * ITERATION))


def test_an_idle_decode_side_hears_at_once() -> None:
    made = run(config(get_finished="at_launch"), (100, 2, 0))
    assert times(made) == [(ITERATION, near(ITERATION + whole(100) + ITERATION))]


# Loads that block


def test_a_load_that_blocks_holds_up_the_batch_that_it_enters() -> None:
    """As above, but the request enters the batch at the boundary, which waits for its KV: all wait."""
    made = run(config(load_kv_async=False), (16, 6, 0), (50, 2, 3000))
    boundary = ITERATION + whole(16) + 2 * ITERATION
    assert times(made)[1] == (5 * MS, near(boundary + whole(50) + ITERATION))
    assert times(made)[0] == (ITERATION, near(ITERATION + whole(16) + 5 * ITERATION + whole(50)))


def test_two_loads_that_block_come_one_after_the_other() -> None:
    made = run(config(load_kv_async=False), (50, 2, 0), (50, 2, 0))
    assert [finish for _, finish in times(made)] == [near(ITERATION + 2 * whole(50) + ITERATION)] * 2


@pytest.mark.parametrize("mode", ["push", "push_layerwise"])
def test_a_push_cannot_block(mode: str) -> None:
    with pytest.raises(ConfigError, match=r"load_kv_async: with mode push.* expected true, which is the default, or"):
        run(config(mode=mode, load_kv_async=False), (1, 1, 0))


def test_loads_that_block_a_pipeline_are_refused() -> None:
    spec = config(instance("kv_producer"), instance("kv_consumer", pipeline_parallel_size=2), load_kv_async=False)
    with pytest.raises(ConfigError, match="load_kv_async: instance 1 has pipeline stages"):
        run(spec, (1, 1, 0))


# Push


def test_a_push_does_not_wait_for_the_boundary_of_the_decode_side() -> None:
    """The second request is announced at 3 ms and takes its blocks at 4 ms; its KV crosses from 5 ms on."""
    made = run(config(mode="push"), (16, 20, 0), (16, 2, 3000))
    boundary = ITERATION + whole(16) + ITERATION
    assert 3 * MS < boundary < 5 * MS
    second = crossed(made)[1]
    assert (second.start_ns, second.end_ns) == (5 * MS, near(5 * MS + whole(16)))
    assert times(made)[1] == (5 * MS, near(boundary + ITERATION + ITERATION))


def test_connectors_stand_for_modes() -> None:
    pushed = run(config(kv_connector="MooncakeConnector"), (16, 20, 0), (16, 2, 3000))
    assert times(pushed) == times(run(config(mode="push"), (16, 20, 0), (16, 2, 3000)))
    assert times(pushed) != times(run(config(kv_connector="NixlConnector"), (16, 20, 0), (16, 2, 3000)))
    layerwise = run(config(kv_connector="P2pNcclConnector"), (16, 2, 0))
    assert times(layerwise) == [(ITERATION, near(ITERATION + message(16) + ITERATION))]


# Block by block


def test_blocks_that_cross_faster_than_they_are_computed_hide_all_but_the_last() -> None:
    tokens = 50
    assert message(tokens) < BLOCK_US * US
    made = run(config(mode="push_layerwise"), (tokens, 3, 0))
    (record,) = crossed(made)
    assert (record.start_ns, record.end_ns) == (BLOCK_US * US, near(ITERATION + message(tokens)))
    assert times(made) == [(ITERATION, near(ITERATION + message(tokens) + 2 * ITERATION))]
    assert record.num_bytes == tokens * KV_BYTES * BLOCKS
    assert record.hidden_bytes / record.num_bytes == pytest.approx(15 / 16, abs=0.02)
    moved = made.result().summary["kv_transfers"]
    assert moved["exposed_ms"]["mean"] == pytest.approx(message(tokens) / MS)
    assert moved["stall_ms"]["mean"] == 0
    assert moved["hidden_bytes"] == record.hidden_bytes


def test_blocks_that_cross_slower_follow_each_other_without_a_gap() -> None:
    tokens = 100
    assert message(tokens) > BLOCK_US * US
    made = run(config(mode="push_layerwise"), (tokens, 2, 0))
    end = BLOCK_US * US + BLOCKS * message(tokens)
    assert [r.end_ns for r in crossed(made)] == [near(end)]
    assert times(made) == [(ITERATION, near(end + ITERATION))]


def test_every_chunk_leaves_during_its_own_iteration() -> None:
    spec = config(instance("kv_producer", max_num_batched_tokens=48, max_num_seqs=8), PAIR[1], mode="push_layerwise")
    made = run(spec, (96, 2, 0))
    (record,) = crossed(made)
    assert message(48) < BLOCK_US * US
    assert (record.start_ns, record.end_ns) == (BLOCK_US * US, near(2 * ITERATION + message(48)))
    assert record.hidden_bytes / record.num_bytes == pytest.approx(31 / 32, abs=0.02)
    assert times(made) == [(2 * ITERATION, near(2 * ITERATION + message(48) + ITERATION))]


def test_chunks_are_in_flight_together_with_asynchronous_scheduling() -> None:
    """The second chunk is submitted while the first runs, and its push begins with it."""
    prefill = instance("kv_producer", max_num_batched_tokens=48, max_num_seqs=8, async_scheduling=True)
    made = run(config(prefill, PAIR[1], mode="push_layerwise"), (96, 2, 0))
    assert times(made) == [(2 * ITERATION, near(2 * ITERATION + message(48) + ITERATION))]


def test_two_pushes_share_the_link() -> None:
    """Both prompts are in one batch: their messages go side by side, each at half the speed."""
    made = run(config(network="flow", mode="push_layerwise"), (50, 2, 0), (50, 2, 0))
    shared = 1000 + 2 * 50 * KV_BYTES
    assert [r.end_ns for r in crossed(made)] == [near(BLOCK_US * US + BLOCKS * shared)] * 2


def test_a_push_catches_up_when_the_decode_side_takes_the_blocks_late() -> None:
    """The second prompt is computed 3..5 ms; the decode side takes its blocks at its boundary.

    By then 8 blocks are ready. They leave one after another, and the others are ready before their turn.
    """
    made = run(config(mode="push_layerwise"), (16, 20, 0), (50, 2, 3000))
    boundary = ITERATION + message(16) + ITERATION
    assert 3 * MS + 8 * BLOCK_US * US < boundary < 3 * MS + 9 * BLOCK_US * US
    second = crossed(made)[1]
    assert (second.start_ns, second.end_ns) == (near(boundary), near(boundary + BLOCKS * message(50)))


@pytest.mark.parametrize("mode", ["push", "push_layerwise"])
def test_a_push_that_finds_no_room_waits_and_the_prefill_side_holds_its_blocks(mode: str) -> None:
    """8 blocks of 16 hold one request of 112 + 3 tokens at a time: the second crosses when the first has ended."""
    made = run(config(PAIR[0], instance("kv_consumer", num_gpu_blocks=9), mode=mode), (112, 3, 0), (112, 3, 0))
    first, second = crossed(made)
    assert first.end_ns < second.start_ns
    assert second.start_ns == times(made)[0][1] == near(first.end_ns + 2 * ITERATION)
    messages = whole(112) if mode == "push" else BLOCKS * message(112)
    assert second.end_ns == near(second.start_ns + messages)
    assert second.hidden_bytes == 0
    stall_ms = made.result().summary["kv_transfers"]["stall_ms"]
    assert stall_ms["p99"] > stall_ms["p50"] > 0


def test_a_stage_sends_the_blocks_that_it_holds() -> None:
    """Two stages of 8 blocks: the second computes while the first's blocks cross."""
    prefill = instance("kv_producer", pipeline_parallel_size=2)
    made = run(config(prefill, PAIR[1], mode="push_layerwise"), (50, 2, 0))
    computed = ITERATION + 1000 + 50 * 2048 * 2  # and the message of hidden states between the stages
    assert times(made) == [(near(computed), near(computed + message(50) + ITERATION))]


@pytest.mark.parametrize(("prefill", "decode"), [(2, 1), (1, 2), (2, 4)])
def test_unequal_sides_send_each_rank_its_heads(prefill: int, decode: int) -> None:
    """Of two source ranks each sends half of a block; of one, the halves one after another."""
    source = instance("kv_producer", tensor_parallel_size=prefill)
    spec = config(source, instance("kv_consumer", tensor_parallel_size=decode), mode="push_layerwise")
    spec["network"] |= {"endpoint_delay": "0ns"}
    made = run(spec, (50, 2, 0))
    (record,) = crossed(made)
    assert record.num_bytes == 50 * KV_BYTES * BLOCKS
    computed = times(made)[0][0]
    reduce = (computed - ITERATION) // (2 * BLOCKS)  # two all-reduces per block, the last block's behind its attention
    per_source = max(1, decode // prefill)
    last = per_source * 1000 + 50 * KV_BYTES // prefill
    assert record.end_ns == near(computed - 2 * reduce + last)


class Experts(EighthOfAMillisecond):
    """The same, with experts that take no time."""

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.zeros(work.pairs.shape, dtype=np.int64)


def test_prompts_of_instances_in_lock_step_are_pushed_while_the_group_computes() -> None:
    """Two instances that share experts compute two prompts in one round of 48 blocks; nothing else takes time."""
    options = {"model": "Qwen/Qwen3-30B-A3B", "enable_expert_parallel": True, "memory_bandwidth": "1000000GB/s"}
    sides = [instance("kv_producer", data_parallel_group="A", **options)] * 2
    spec = config(*sides, instance("kv_consumer", **options), mode="push_layerwise")
    spec["serving"]["latency"] = {"source": f"{__name__}:Experts"}
    spec["network"] = {"topology": "Switch", "bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"}
    made = run(spec, (16, 2, 0), (16, 2, 0))
    step = 48 * BLOCK_US * US
    assert [r.source for r in crossed(made)] == [0, 1]
    for record in crossed(made):
        assert (record.start_ns, record.end_ns) == (near(BLOCK_US * US), pytest.approx(step, abs=10_000))
        assert record.hidden_bytes > 0.99 * record.num_bytes
    assert times(made) == [(pytest.approx(step, abs=10_000), pytest.approx(2 * step, abs=20_000))] * 2


def test_every_transfer_is_a_row(tmp_path: Path) -> None:
    made = run(config(mode="push_layerwise"), (50, 3, 0), (50, 1, 0))
    result = made.result()
    assert [path.name for path in result.write(tmp_path)][-1] == "kv_transfers.csv"
    header, row = (tmp_path / "kv_transfers.csv").read_text().splitlines()
    assert header == "request_id,source,target,num_tokens,num_bytes,handed_ns,start_ns,end_ns,hidden_bytes"
    (record,) = crossed(made)
    assert row == ",".join(map(str, record))
    frame = result.transfers_frame()
    assert frame["exposed_ms"].tolist() == [(record.end_ns - ITERATION) / MS]
    assert frame["stall_ms"].tolist() == [0]


# Preemption


def test_a_prompt_that_is_preempted_while_it_is_pushed_crosses_whole_when_it_is_computed() -> None:
    """10 blocks: the first prompt holds 3 until its KV has crossed a slow link; the second, of 9, loses its own."""
    prefill = instance("kv_producer", num_gpu_blocks=11, max_num_batched_tokens=32, max_num_seqs=4)
    spec = config(prefill, PAIR[1], mode="push_layerwise")
    spec["network"] |= {"bandwidth": "0.05GB/s"}
    spec["serving"]["scheduler_reserve_full_isl"] = False
    made = run(spec, (40, 2, 0), (140, 2, 0))
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [(r.status, r.preemptions > 0) for r in records] == [("finished", False), ("finished", True)]
    first, second = crossed(made)
    assert (first.hidden_bytes > 0, second.hidden_bytes) == (True, 0)
    assert second.start_ns == second.handed_ns
    assert second.num_bytes == 140 * KV_BYTES * BLOCKS
    assert made.system.transfers is not None
    assert made.system.transfers.wasted_bytes > 0


# Refusals


class NeverLoads(VllmScheduler):
    """Takes no blocks for KV that comes from elsewhere."""

    def _begin_load(self, *parts: object) -> bool:
        return False


class CannotWithdraw:
    """Knows loads, but not how to give one up."""

    def __init__(self, *parts: object) -> None:
        self.running: list[object] = []

    def add(self, request: object) -> None: ...
    def schedule(self, now_ns: int) -> list[object]: ...
    def finish(self, request: object) -> None: ...
    def waiting(self) -> list[object]: ...
    def take_loads(self) -> list[object]: ...
    def loaded(self, request: object) -> None: ...


@pytest.mark.parametrize("mode", ["push", "push_layerwise"])
def test_a_push_that_never_finds_room_is_reported(mode: str) -> None:
    spec = config(PAIR[0], instance("kv_consumer", scheduler=f"{__name__}:NeverLoads"), mode=mode)
    expected = r"instance 0 holds the KV of Request\(0.*, for which instance 1 has no blocks yet"
    with pytest.raises(DeadlockError, match=expected):
        run(spec, (40, 2, 0))


def test_a_scheduler_that_cannot_withdraw_is_refused_where_kv_is_pushed() -> None:
    spec = config(PAIR[0], instance("kv_consumer", scheduler=f"{__name__}:CannotWithdraw"), mode="push")
    with pytest.raises(ConfigError, match="its scheduler 'CannotWithdraw' has no method 'withdraw', which mode push"):
        run(spec, (1, 1, 0))
