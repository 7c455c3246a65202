"""Every device of the catalogue, and one of a user's own file, serves a model that fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.config.catalog import catalogued_accelerators, load_accelerators
from llmservingsim.errors import CapacityError
from llmservingsim.workload import ArrivalSpec, FixedLength, GeneratorSpec

MODEL = "meta-llama/Llama-3.2-1B"
OWN = Path(__file__).parents[2] / "inputs" / "hardware" / "my-chip.toml"
LOAD = GeneratorSpec(3, FixedLength(64), FixedLength(6), ArrivalSpec("poisson", {"request_rate": 100}))
SMALL: dict[str, Any] = {"max_num_batched_tokens": 512, "max_num_seqs": 4, "max_model_len": 1024}
OVER_CHIPS: dict[str, dict[str, Any]] = {
    "GroqLPU": {"tensor_parallel_size": 8, "pipeline_parallel_size": 4, **SMALL},  # 2.5 GB of weights in 230 MB each
}


def serve(hardware: str, **keys: Any) -> dict[str, Any]:
    instance = {"model": MODEL, "hardware": hardware, **keys}
    summary: dict[str, Any] = simulate({"nodes": [{"instances": [instance]}]}, LOAD).summary
    return summary


@pytest.mark.parametrize("hardware", catalogued_accelerators())
def test_every_device_serves_and_no_token_comes_sooner_than_the_weights_are_read(hardware: str) -> None:
    device = catalogued_accelerators()[hardware]
    keys = OVER_CHIPS.get(hardware, {})
    summary = serve(hardware, **keys)
    assert summary["requests"]["finished"] == 3
    assert summary["instances"][0]["latency"]["accelerator"] == hardware
    ranks = keys.get("tensor_parallel_size", 1)  # stages read theirs one after the other
    least_ms = 2.47e9 / ranks / device.memory_bandwidth * 1e3
    # a server's devices stay below 100 ms; two cores of a CPU take 39 ms to read the weights alone
    assert least_ms < summary["latency_ms"]["tpot"]["mean"] < max(100, 5 * least_ms)


def test_a_model_that_lies_in_too_few_chips_of_sram_is_refused_with_the_sum() -> None:
    with pytest.raises(CapacityError, match=r"(?s)device memory +219.35 MiB.*runtime +0 B"):
        serve("Groq LPU", **SMALL)


def test_the_chip_of_the_example_file_is_known_with_all_that_it_states() -> None:
    chip = load_accelerators([OWN])["MyChip"]
    assert chip.array_dims == (128, 128)
    assert chip.bf16_flops == pytest.approx(8 * 128 * 128 * 2 * 940e6, rel=1e-3)
    assert chip.power is not None
    assert chip.price is not None
    assert (chip.power.active_w, chip.price.buy_usd) == (250, 9000)
