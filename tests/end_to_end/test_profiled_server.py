"""The device at hand is profiled, a real server runs on it, and the simulation from the profile is held against it."""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[1]))

from reference_server import Arrival, Served, Server  # noqa: E402

from llmservingsim import simulate  # noqa: E402
from llmservingsim.config.catalog import find_model  # noqa: E402
from llmservingsim.profiler.collectives import all_reduce_times, write_collectives  # noqa: E402
from llmservingsim.workload.request import RequestSpec  # noqa: E402

CONFIG = {
    "model_type": "llama",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 768,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
LIMITS = {"max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 256}
CALM = 0.25
"""Spread of repeated real runs above which a machine is too busy to be compared with anything."""

TOLERANCE = 0.35
"""The budget is seconds, so the grid is coarse, and a step is 1 ms, of which the host's part is a good share: the study
that takes its time is ``benchmarks/validate_cpu.py``, with a goal of 10 %."""


@pytest.fixture
def one_thread() -> Any:
    """Two threads that wait for each other on a shared machine measure its other users."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tpot_ms(served: list[Served]) -> float:
    return statistics.mean(each.tpot_ms for each in served)


def test_tpot_of_a_real_server_is_near_that_of_a_simulation_from_a_profile(
    cli: Callable[..., Any], tmp_path: Path, one_thread: None
) -> None:
    models = tmp_path / "models"
    (models / "org").mkdir(parents=True)
    (models / "org" / "tiny.json").write_text(json.dumps(CONFIG))
    limits = [word for key, value in LIMITS.items() for word in ("--" + key.replace("_", "-"), value)]
    out = tmp_path / "out"
    options = ("--models", models, "--threads", 1, "--budget", "2s", "--noise", 0.02, "-o", out, *limits)
    answer = cli("profile", "run", "org/tiny", "--hardware", "Here", *options)
    assert answer.code == 0, answer.err
    arrivals = [Arrival(0.005 * i, 20 + 12 * i, 24) for i in range(8)]
    server = Server(find_model("org/tiny", [models]), *LIMITS.values())
    server.serve(arrivals)
    real = [tpot_ms(server.serve(arrivals)) for _ in range(3)]
    if max(real) / min(real) > 1 + CALM:
        pytest.skip(f"the machine is busy: three real runs had a TPOT of {[f'{t:.2f}' for t in real]} ms")
    run = {
        "nodes": [{"instances": [{"model": "org/tiny", "hardware": "Here"}]}],
        "serving": {**LIMITS, "async_scheduling": False, "enforce_eager": True, "enable_prefix_caching": False},
    }
    result = simulate(
        run,
        [RequestSpec(i, round(a.at_s * 1e9), a.prompt, a.output) for i, a in enumerate(arrivals)],
        profiles=[out],
        models=[models],
        hardware=[out / "Here" / "accelerator.yaml"],
    )
    found = [
        Served(arrivals[record.request_id], record.first_token_ns / 1e9, record.finish_ns / 1e9)
        for record in result.requests
    ]
    assert tpot_ms(found) == pytest.approx(statistics.median(real), rel=TOLERANCE)


def test_the_reference_server_gives_the_same_tokens_whatever_shares_the_batch(one_thread: None, tmp_path: Path) -> None:
    """It is a real server: chunks, slots and neighbours do not change what a request is answered."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = find_model(str(tmp_path))

    def answers(arrivals: list[Arrival], budget: int) -> dict[int, list[int]]:
        server = Server(model, 4, budget, 256)
        tokens: dict[int, list[int]] = {}
        compute = server._compute

        def remember(batch: Any) -> Any:
            answered = compute(batch)
            tokens.update({request.arrival.prompt: request.tokens for request in answered})
            return answered

        server._compute = remember  # type: ignore[method-assign]
        served = server.serve(arrivals)
        assert sorted(each.arrival for each in served) == sorted(arrivals)
        return tokens

    arrivals = [Arrival(0.0, prompt, 5) for prompt in (40, 7, 90)]
    together, alone = answers(arrivals, 32), {}
    for arrival in arrivals:
        alone |= answers([arrival], 256)
    assert together == alone


def test_all_reduces_are_measured_between_processes_and_read_as_measured_collectives(tmp_path: Path) -> None:
    rows = all_reduce_times(2, "gloo", (1024, 65536))
    assert [(ranks, size) for ranks, size, _ in rows] == [(2, 1024), (2, 65536)]
    assert all(0 < time_us < 1e6 for _, _, time_us in rows)
    write_collectives(rows, tmp_path / "collectives.csv")
    cluster = {
        "nodes": [{"instances": [{"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "tensor_parallel_size": 2}]}],
        "network": {"measured_collectives": [str(tmp_path / "collectives.csv")]},
    }
    assert simulate(cluster, [RequestSpec(0, 0, 20, 4)]).summary["requests"]["finished"] == 1
