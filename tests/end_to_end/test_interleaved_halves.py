"""Batches in two halves, one of which the accelerator computes while the memory computes the attention of the other."""

from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.workload import RequestSpec
from tests.offload_device import (
    ACCELERATOR_NS,
    BLOCKS,
    LATENCY_NS,
    READ_BYTES,
    REQUEST_NS,
    WRITTEN_BYTES,
    access_ns,
    run_file,
)

ENDS_NS = ACCELERATOR_NS["embedding"] + ACCELERATOR_NS["sampler"]
QKV_NS, PROMPT_ATTENTION_NS, O_NS = (ACCELERATOR_NS[name] for name in ("qkv_proj", "attention", "o_proj"))
LAYERS_NS = QKV_NS + O_NS


def decode_ns(interleaving: str, prompt: int, requests: int = 2, **keys: Any) -> tuple[int, dict[str, Any]]:
    """The one iteration in which requests of equal prompts decode."""
    data = run_file(sub_batch_interleaving=interleaving, max_num_batched_tokens=131_072, **keys)
    result = simulate(data, [RequestSpec(i, 0, prompt, 2) for i in range(requests)])
    (taken,) = {record.finish_ns - record.first_token_ns for record in result.requests}
    return taken, result.summary["instances"][0]["offloading"]


def test_where_the_accelerator_takes_longer_it_never_waits() -> None:
    """Both halves' layers one after the other; their attention is hidden behind each other's layers."""
    taken, told = decode_ns("always", 8)
    assert taken == 2 * (ENDS_NS + BLOCKS * LAYERS_NS)
    assert told["interleaved_iterations"] == 1


def test_where_the_memory_takes_longer_it_never_waits() -> None:
    """From the arrival of the first half's queries it computes 32 times, then the second half is brought to its end.

    Four requests: both halves have one in each of the two groups.
    """
    taken, _ = decode_ns("always", 30_000, requests=4)
    attention_ns = LATENCY_NS + REQUEST_NS + 30_001
    assert attention_ns > LAYERS_NS
    begin_ns = ACCELERATOR_NS["embedding"] + QKV_NS + access_ns(2 * READ_BYTES)
    end_ns = access_ns(2 * WRITTEN_BYTES) + O_NS + ACCELERATOR_NS["sampler"]
    assert taken == begin_ns + 2 * BLOCKS * attention_ns + end_ns


def test_halves_in_different_groups_do_not_wait_for_each_other() -> None:
    """Two requests, each in a group of its own, and each a half: both are in memory at the same time.

    The second half's queries come later by one projection; from then on both go round at the same pace.
    """
    taken, _ = decode_ns("always", 60_000)
    away_ns = access_ns(READ_BYTES) + LATENCY_NS + REQUEST_NS + 60_001 + access_ns(WRITTEN_BYTES)
    assert away_ns > LAYERS_NS
    first_ns = ACCELERATOR_NS["embedding"] + QKV_NS + BLOCKS * away_ns + (BLOCKS - 1) * LAYERS_NS
    second_ns = first_ns + ACCELERATOR_NS["embedding"] + QKV_NS
    behind = max(second_ns, first_ns + O_NS + ACCELERATOR_NS["sampler"])
    assert taken == pytest.approx(behind + O_NS + ACCELERATOR_NS["sampler"], abs=BLOCKS * (LATENCY_NS + LAYERS_NS))


def test_a_batch_in_one_piece_takes_everything_in_turn() -> None:
    """Both requests' groups compute at the same time; their data travels together."""
    taken, told = decode_ns("never", 60_000)
    attention_ns = access_ns(2 * READ_BYTES) + LATENCY_NS + REQUEST_NS + 60_001 + access_ns(2 * WRITTEN_BYTES)
    assert taken == ENDS_NS + BLOCKS * (LAYERS_NS + attention_ns)
    assert told["interleaved_iterations"] == 0


def test_one_request_cannot_be_split() -> None:
    assert decode_ns("always", 8, requests=1) == decode_ns("never", 8, requests=1)


def test_prompts_are_computed_while_decodes_are_in_memory() -> None:
    """The decode is one half, the prompt the other: the memory's time hides behind the prompt's layers.

    The accelerator takes the decode's layers first; behind its last attention, shorter than the other's layers, its
    last layer runs between those of the prompt.
    """
    data = run_file(sub_batch_interleaving="always")
    prompt_ns = ENDS_NS + BLOCKS * (LAYERS_NS + PROMPT_ATTENTION_NS)
    requests = [RequestSpec(0, 0, 8, 2), RequestSpec(1, prompt_ns - 1, 8, 1)]
    result = simulate(data, requests)
    assert {r.finish_ns - prompt_ns for r in result.requests} == {prompt_ns + ENDS_NS + BLOCKS * LAYERS_NS}


@pytest.mark.parametrize("prompt", [8, 2_000, 10_000, 20_000, 40_000, 60_000])
@pytest.mark.parametrize("requests", [2, 8])
def test_auto_takes_whichever_is_shorter(prompt: int, requests: int) -> None:
    prompt = prompt * 2 // requests
    times = {how: decode_ns(how, prompt, requests)[0] for how in ("never", "always", "auto")}
    assert times["auto"] == min(times["never"], times["always"])


def test_auto_is_sometimes_the_one_and_sometimes_the_other() -> None:
    """Four requests of a group each half: splitting halves the memory's time per half, which pays if that is long."""
    split = {prompt: decode_ns("auto", prompt, 4)[1]["interleaved_iterations"] for prompt in (8, 30_000)}
    assert split == {8: 0, 30_000: 1}


def test_halves_on_two_ranks_take_turns_in_collectives() -> None:
    """Two ranks do not get into each other's way: the time is that of one, for layers that hide all else."""
    network = {"bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"}
    data = run_file(sub_batch_interleaving="always", tensor_parallel_size=2) | {"network": network}
    result = simulate(data, [RequestSpec(i, 0, 8, 2) for i in range(2)])
    for record in result.requests:
        assert record.finish_ns - record.first_token_ns == pytest.approx(2 * (ENDS_NS + BLOCKS * LAYERS_NS), abs=2000)
