"""Speculative decoding by hand: an iteration of the model takes 1 ms, each forward step of a drafter another."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from constant_latency import ITERATION_NS, Constant, PerToken

from llmservingsim import Run, SimulationResult, simulate
from llmservingsim.serving import Speculation
from llmservingsim.serving.acceptance import DecayingAcceptance, FixedAcceptance, TableAcceptance
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import ArrivalSpec, GeneratorSpec, RequestSpec, UniformLength

Clusters = Callable[..., dict[str, Any]]
DRAFTER = "meta-llama/Llama-3.2-1B"
STANDARD_ERRORS = 3.29
"""Of a 99.9 % confidence interval."""


def speculative(clusters: Clusters, source: str = "Constant", **keys: Any) -> dict[str, Any]:
    latency = {"source": f"constant_latency:{source}"}
    data = clusters(serving={"enforce_eager": True, "latency": latency})
    data["serving"]["async_scheduling"] = keys.pop("async_scheduling", None)
    data["nodes"][0]["instances"][0].update(keys.pop("instance", {}))
    data["serving"]["speculative_config"] = keys or None
    return data


def fixed(rate: float) -> dict[str, Any]:
    return {"policy": "fixed", "rate": rate}


def finish_ns(data: dict[str, Any], prompt: int = 20, output: int = 30) -> int:
    (record,) = simulate(data, [RequestSpec(0, 0, prompt, output, None)]).requests
    assert record.output_tokens == output
    assert record.finish_ns is not None
    return record.finish_ns


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize(
    ("method", "keys", "drafter_steps"),
    [("ngram_gpu", {}, 0), ("draft_model", {"model": DRAFTER}, 1), ("eagle", {}, 1)],
)
def test_an_answer_takes_an_iteration_for_its_first_token_and_one_for_each_k_plus_1_after_it(
    clusters: Clusters, asynchronous: bool, k: int, method: str, keys: dict[str, Any], drafter_steps: int
) -> None:
    iteration_ns = ITERATION_NS * (1 + drafter_steps * k)
    for rate, tokens_per_step in ((1.0, k + 1), (0.0, 1)):
        data = speculative(
            clusters,
            method=method,
            num_speculative_tokens=k,
            acceptance=fixed(rate),
            async_scheduling=asynchronous,
            **keys,
        )
        assert finish_ns(data) == iteration_ns * (1 + math.ceil(29 / tokens_per_step))


def test_a_search_takes_its_time_once_per_iteration(clusters: Clusters) -> None:
    data = speculative(clusters, method="ngram", num_speculative_tokens=2, acceptance=fixed(1.0), search_time="30us")
    assert finish_ns(data) == (ITERATION_NS + 30_000) * (1 + math.ceil(29 / 3))


@pytest.mark.parametrize(
    "table", [{"conditional": [1, 1, 0, 1]}, {"per_position": [1, 1, 0, 0]}, {"counts": [0, 0, 7, 0, 0]}]
)
def test_a_table_that_always_accepts_two_gives_three_tokens_per_step(clusters: Clusters, table: dict[str, Any]) -> None:
    acceptance = {"policy": "table", **table}
    data = speculative(clusters, method="ngram", num_speculative_tokens=4, acceptance=acceptance)
    result = simulate(data, [RequestSpec(0, 0, 20, 31, None)])
    assert result.requests[0].finish_ns == ITERATION_NS * 11
    told = result.summary["speculative_decoding"]
    assert (told["num_drafts"], told["num_draft_tokens"], told["num_accepted_tokens"]) == (10, 40, 20)
    assert (told["acceptance_rate"], told["mean_acceptance_length"]) == (0.5, 3.0)
    assert told["acceptance_per_position"] == [1, 1, 0, 0]
    assert result.summary["instances"][0]["speculative_decoding"] == told | {"drafter_latency": None}


def test_tokens_that_come_out_together_are_one_message_with_one_gap(clusters: Clusters) -> None:
    """As vLLM's benchmark counts: 30 tokens behind the first come in 10 messages; TPOT is per token all the same."""
    data = speculative(clusters, method="ngram", num_speculative_tokens=2, acceptance=fixed(1.0))
    made = Run(data, [RequestSpec(0, 0, 20, 31, None)])
    latency = made.execute().summary["latency_ms"]
    assert made.recorder.token_gaps_ns == {ITERATION_NS: 10}
    assert (latency["itl"]["mean"], latency["tpot"]["mean"]) == (1.0, pytest.approx(1 / 3))


def test_every_token_of_a_verification_is_computed(clusters: Clusters) -> None:
    """A microsecond per token: the prompt, then 4 tokens in each of 10 steps, the dropped ones behind the end too."""
    data = speculative(clusters, "PerToken", method="ngram", num_speculative_tokens=3, acceptance=fixed(1.0))
    assert finish_ns(data, prompt=20, output=38) == 20_000 + 10 * 4_000


def test_a_drafter_computes_the_batch_once_and_then_a_token_per_sequence(clusters: Clusters) -> None:
    """EAGLE with k = 3 behind a prompt of 20: 20 + (20 + 1 + 1); behind a verification of 4: 4 + (4 + 1 + 1)."""
    keys = {"num_speculative_tokens": 3, "acceptance": fixed(1.0)}
    eagle = speculative(clusters, "PerToken", method="eagle", **keys)
    assert finish_ns(eagle, prompt=20, output=5) == (20 + 22 + 4 + 6) * 1_000
    own = speculative(clusters, "PerToken", method="draft_model", model=DRAFTER, **keys)
    assert finish_ns(own, prompt=20, output=5) == (20 + 23 + 4 + 7) * 1_000


class PairsAndRows(Constant):
    """A nanosecond per (query, key) pair in one attention, a millisecond per row of the head, nothing else."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        if operator == "lm_head":
            return 1_000_000 * shape.num_sequences
        pairs = shape.decode_kv_tokens + shape.draft_pairs
        return pairs if operator == "attention" else 0


def test_the_head_sees_every_draft_and_attention_every_pair(clusters: Clusters) -> None:
    """Behind a prompt of 20, k = 2: 3 rows; queries see 21, 22 and 23 keys in each of the model's 16 blocks."""
    data = speculative(clusters, method="ngram", num_speculative_tokens=2, acceptance=fixed(1.0))
    data["serving"]["latency"]["source"] = f"{__name__}:PairsAndRows"
    assert finish_ns(data, prompt=20, output=4) == 1_000_000 + 3_000_000 + 16 * (21 + 22 + 23)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_attention_reads_what_was_accepted_and_not_what_was_refused(clusters: Clusters, asynchronous: bool) -> None:
    """Without any acceptance contexts are 20, 21, 22 ..., also where a batch is formed before the one before ends."""
    keys = {"method": "ngram_gpu", "num_speculative_tokens": 2, "acceptance": fixed(0.0)}
    data = speculative(clusters, async_scheduling=asynchronous, **keys)
    data["serving"]["latency"]["source"] = f"{__name__}:PairsAndRows"
    steps = sum(3_000_000 + 16 * (c + 1 + c + 2 + c + 3) for c in range(20, 24))
    assert finish_ns(data, prompt=20, output=5) == 1_000_000 + steps


WORKLOAD = GeneratorSpec(
    60, UniformLength(1, 60), UniformLength(1, 60), arrival=ArrivalSpec("poisson", {"request_rate": 400.0}), seed=5
)


def same_run(first: SimulationResult, second: SimulationResult) -> None:
    assert first.requests == second.requests
    assert first.timeseries == second.timeseries


def test_free_drafts_that_are_never_accepted_change_nothing(clusters: Clusters) -> None:
    wide = {"max_num_batched_tokens": 512, "num_gpu_blocks": 200}
    plain = speculative(clusters, async_scheduling=False, instance=wide)
    drafts = speculative(clusters, method="ngram", num_speculative_tokens=3, acceptance=fixed(0.0), instance=wide)
    same_run(simulate(plain, WORKLOAD), simulate(drafts, WORKLOAD))


def test_no_draft_is_no_speculation(clusters: Clusters) -> None:
    plain = simulate(speculative(clusters), WORKLOAD)
    none = simulate(speculative(clusters, method="ngram", num_speculative_tokens=0), WORKLOAD)
    same_run(plain, none)
    for result in (plain, none):
        del result.summary["wall_s"], result.summary["provenance"]["config_hash"]
    assert plain.summary == none.summary
    assert "speculative_decoding" not in plain.summary


def verdicts(speculation: Speculation, requests: int = 200, steps: int = 100, drafts: int = 4) -> list[int]:
    return [speculation.verify(r, 10, 20 + s, drafts) for r in range(requests) for s in range(steps)]


@pytest.mark.parametrize("rate", [0.2, 0.6, 0.9])
def test_the_tokens_per_step_are_those_of_leviathan_and_others(rate: float) -> None:
    """(1 - p^(k+1)) / (1 - p) for k = 4, within a 99.9 % confidence interval of 20,000 independent steps."""
    emitted = [1 + a for a in verdicts(Speculation(4, FixedAcceptance(4, rate=rate), seed=1))]
    mean = sum(emitted) / len(emitted)
    deviation = math.sqrt(sum((e - mean) ** 2 for e in emitted) / (len(emitted) - 1))
    half_width = STANDARD_ERRORS * deviation / math.sqrt(len(emitted))
    assert half_width < 0.05  # else the test could not fail
    assert abs(mean - (1 - rate**5) / (1 - rate)) <= half_width


def test_each_position_is_accepted_with_its_own_probability() -> None:
    """Unconditional shares of a decaying and of a counted policy, within 99.9 % confidence intervals."""
    cases = {
        DecayingAcceptance(4, rate=0.9, decay=0.8): [0.9, 0.9 * 0.72, 0.9 * 0.72 * 0.576, 0.9 * 0.72 * 0.576 * 0.4608],
        TableAcceptance(4, counts=[10, 40, 0, 30, 20]): [0.9, 0.5, 0.5, 0.2],
        TableAcceptance(4, per_position=[0.7, 0.4, 0.1, 0.0]): [0.7, 0.4, 0.1, 0.0],
    }
    for policy, shares in cases.items():
        found = verdicts(Speculation(4, policy, seed=2))
        for position, share in enumerate(shares):
            seen = sum(a > position for a in found) / len(found)
            assert abs(seen - share) <= STANDARD_ERRORS * math.sqrt(share * (1 - share) / len(found)) + 1e-12


def test_the_whole_simulator_reaches_the_expected_length(clusters: Clusters) -> None:
    """Through scheduler, pool and counts: 600 answers of 50 tokens, k = 3, p = 0.7."""
    load = GeneratorSpec(600, UniformLength(1, 30), UniformLength(50, 50), seed=3)
    keys = {"method": "eagle", "num_speculative_tokens": 3, "acceptance": fixed(0.7)}
    told = simulate(speculative(clusters, **keys), load).summary["speculative_decoding"]
    expected = (1 - 0.7**4) / (1 - 0.7)
    assert told["num_drafts"] > 9_000
    assert abs(told["mean_acceptance_length"] - expected) < STANDARD_ERRORS * 1.2 / math.sqrt(told["num_drafts"])


def test_constants_are_what_this_page_takes_them_for() -> None:
    shape = BatchShape((), 1, 1, 1, 1)
    assert Constant.latency_ns(None, "embedding", shape) == 1_000_000  # type: ignore[arg-type]
    assert PerToken.latency_ns(None, "embedding", shape) == 1_000  # type: ignore[arg-type]
