"""Low-rank adapters beside linear layers: sizes and times by hand."""

from __future__ import annotations

from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ConfigError
from llmservingsim.latency import RooflineSource, with_adapters
from llmservingsim.model import Adapters, ParallelLayout
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

LLAMA = find_model("meta-llama/Llama-3.1-8B")  # hidden 4096, 32 heads, 8 KV heads of 128, MLP 14336, 32 blocks
H100 = find_accelerator("H100")
TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_an_adapter_of_packed_layers_has_a_matrix_in_front_for_each_of_them() -> None:
    adapters = Adapters(16, 4, 4, TARGETS)
    one = ParallelLayout()
    assert adapters.layer_bytes(LLAMA, one)["qkv_proj"] == 16 * (3 * 4096 + 4096 + 2 * 1024) * 2
    assert adapters.layer_bytes(LLAMA, one)["gate_up_proj"] == 16 * (2 * 4096 + 2 * 14336) * 2
    assert adapters.layer_bytes(LLAMA, one)["down_proj"] == 16 * (14336 + 4096) * 2


def test_over_ranks_the_side_that_is_cut_is_cut_with_the_layer() -> None:
    two = ParallelLayout(2)
    widths = Adapters(16, 1, 1, TARGETS).widths(LLAMA, two)
    assert widths["qkv_proj"] == (4096, 3072)
    assert widths["down_proj"] == (7168, 4096)


def test_the_device_keeps_room_for_all_adapters_used_or_not() -> None:
    adapters = Adapters(8, 5, 100, ("o_proj",))
    assert adapters.stage_bytes(LLAMA, ParallelLayout(), 0) == 5 * 32 * 8 * (4096 + 4096) * 2


@pytest.mark.parametrize(("count", "sequences", "expected"), [(1, 7, 1.0), (2, 1, 1.0), (2, 2, 1.5), (1000, 64, 8.0)])
def test_a_batch_uses_as_many_adapters_as_are_drawn_and_fit(count: int, sequences: int, expected: float) -> None:
    assert Adapters(16, 8, count, TARGETS).active(sequences) == pytest.approx(expected)


def test_the_time_of_an_adapter_is_that_of_its_two_kernels() -> None:
    without = RooflineSource(LLAMA, ParallelLayout(), H100)
    source = with_adapters(without, Adapters(16, 4, 4, ("o_proj",)), LLAMA, ParallelLayout(), H100)
    shape = BatchShape((), 1, 100, 100, 1)
    moved = 16 * 8192 * 2 + (4096 + 2 * 16 + 2 * 4096) * 2
    by_hand = 2 * H100.kernel_launch_ns + moved / (H100.memory_bandwidth * H100.efficiency.memory) * 1e9
    assert source.latency_ns("o_proj", shape) - without.latency_ns("o_proj", shape) == pytest.approx(by_hand, abs=1)
    assert source.latency_ns("down_proj", shape) == without.latency_ns("down_proj", shape)


def test_many_tokens_are_bound_by_the_arithmetic_of_the_adapter() -> None:
    without = RooflineSource(LLAMA, ParallelLayout(), H100)
    source = with_adapters(without, Adapters(1024, 1, 1, ("o_proj",)), LLAMA, ParallelLayout(), H100)
    few, many = (BatchShape((), n, n, 1, n) for n in (8192, 16384))
    beside = [source.latency_ns("o_proj", s) - without.latency_ns("o_proj", s) for s in (few, many)]
    flops = 2 * 1024 * 8192 * 8192 / (H100.bf16_flops * H100.efficiency.gemm) * 1e9
    assert beside[1] - beside[0] == pytest.approx(flops, rel=1e-3)


def run(**stated: Any) -> dict[str, Any]:
    instance = {"model": LLAMA.name, "hardware": "H100", **stated}
    requests = [RequestSpec(number, number * 10_000_000, 200, 30) for number in range(20)]
    return simulate({"nodes": [{"instances": [instance]}]}, requests).summary


def test_a_run_with_adapters_takes_longer_and_has_fewer_blocks() -> None:
    plain, tuned = run(), run(lora={"max_lora_rank": 64, "max_loras": 8, "adapters": 100})
    assert tuned["latency_ms"]["tpot"]["mean"] > 1.05 * plain["latency_ms"]["tpot"]["mean"]
    blocks = [told["instances"][0]["kv_cache"]["num_gpu_blocks"] for told in (plain, tuned)]
    widths = (3 * 4096 + 6144) + (4096 + 4096) + (2 * 4096 + 28672) + (14336 + 4096)
    missing = 8 * 32 * 64 * widths * 2 / (16 * 131072)
    assert blocks[0] - blocks[1] == pytest.approx(missing, abs=1.01)  # rounded down twice
    assert tuned["instances"][0]["latency"]["adapters"]["rank"] == 64


def test_a_layer_that_the_model_lacks_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"lora: targets: .* has no layer 'o_prj' .did you mean 'o_proj'"):
        run(lora={"targets": ["o_prj"]})
