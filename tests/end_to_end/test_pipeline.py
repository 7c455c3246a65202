"""Pipeline stages: times worked out by hand, and nothing lost.

Attention takes 125 us per block and nothing else takes time, so a stage with 8 of the 16 blocks of Llama-3.2-1B takes 1
ms. Hidden states are 2,048 * 2 bytes per token; a link moves 1 byte per nanosecond and costs 1,000 ns.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

MS, US = 1_000_000, 1_000
HIDDEN_BYTES = 2048 * 2


class EighthOfAMillisecond:
    """Latencies by which a block takes 125 us."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 125 * US if operator == "attention" else 0

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def config(pp: int = 2, tp: int = 1, **options: object) -> dict[str, Any]:
    instance = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "num_gpu_blocks": 1001}
    instance |= {"pipeline_parallel_size": pp, "tensor_parallel_size": tp, **options}
    return {
        "nodes": [{"instances": [instance]}],
        "network": {"bandwidth": "1GB/s", "latency": "1us"},
        "serving": {"latency": {"source": f"{__name__}:EighthOfAMillisecond"}, "enforce_eager": True},
    }


def run(spec: dict[str, Any], *requests: tuple[int, int, int]) -> Run:
    """Serve requests given as (prompt, output, arrival in us)."""
    made = Run(spec, [RequestSpec(i, at * US, p, o) for i, (p, o, at) in enumerate(requests)])
    made.execute()
    return made


def times(made: Run) -> list[Any]:
    """First and last token of every request; a message's time drops its fraction, so a few ns are open."""
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    return [pytest.approx((r.first_token_ns, r.finish_ns), abs=10) for r in records]


def message(tokens: int) -> int:
    return 1000 + tokens * HIDDEN_BYTES


def test_a_batch_passes_through_the_stages() -> None:
    first = 2 * MS + message(100)
    assert times(run(config(), (100, 2, 0))) == [(first, first + 2 * MS + message(1))]


def test_four_stages_send_three_messages() -> None:
    assert times(run(config(pp=4), (100, 1, 0))) == [(2 * MS + 3 * message(100),) * 2]


def test_two_chunks_of_a_prompt_are_in_flight_together() -> None:
    """The second chunk is in the first stage while the first is in the second: 3 ms and a message, not 4 and two."""
    got = times(run(config(max_num_batched_tokens=64, max_num_seqs=8), (128, 1, 0)))
    assert got == [(3 * MS + message(64),) * 2]


def test_a_short_message_does_not_overtake_a_long_one() -> None:
    """Over a slow link the first chunk's 64 tokens travel for 26 ms; the second's one token waits, on the same link."""
    spec = config(max_num_batched_tokens=64, max_num_seqs=8)
    spec["network"]["bandwidth"] = "0.01GB/s"
    assert times(run(spec, (65, 1, 0))) == [(3 * MS + 1000 + 64 * HIDDEN_BYTES * 100,) * 2]


def test_requests_that_decode_alternate_between_the_stages() -> None:
    """The second request comes while the first is on its way and joins when that has ended; then both are in flight.

    The first has its token at 2 ms and a message; its next batch holds both, since nothing else was in flight.
    """
    first = 2 * MS + message(50)
    joined = first + 2 * MS + message(50 + 1)
    assert times(run(config(), (50, 2, 0), (50, 1, 500))) == [(first, joined), (joined, joined)]


def test_a_short_message_does_not_let_its_batch_overtake() -> None:
    """The first chunk is long on its way, the second, of one token, is behind the first stage when the first arrives.

    A message of 600 tokens takes 2.46 ms, and that of one token is there before it.
    """
    made = run(config(max_num_batched_tokens=600, max_num_seqs=8), (601, 1, 0))
    assert times(made) == [(1 * MS + message(600) + 2 * MS,) * 2]


def test_stages_of_several_ranks_reduce_within_themselves() -> None:
    made = run(config(pp=2, tp=2), (100, 1, 0))
    (instance,) = made.system.instances
    assert instance.ranks == (0, 1, 2, 3)
    assert instance.collective_bytes == 32 * 100 * HIDDEN_BYTES  # two all-reduces per block
    assert [b.groups for b in [instance.builder.template]] == [((0, 1),)]


requests = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 30), st.integers(0, 9000)), min_size=1, max_size=20)


@given(drawn=requests, pp=st.integers(2, 4), blocks=st.integers(13, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_ends_and_every_block_comes_back(drawn: list[tuple[int, int, int]], pp: int, blocks: int) -> None:
    made = run(config(pp, num_gpu_blocks=blocks, max_num_batched_tokens=64, max_num_seqs=6), *drawn)
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [(r.status, r.output_tokens) for r in records] == [("finished", output) for _, output, _ in drawn]
    (instance,) = made.system.instances
    assert (instance.engine.kv.pool.num_held, instance.engine.holds_requests) == (0, False)
