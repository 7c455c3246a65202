"""The older bundles beside the repository load, answer, and are found through a run."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
from synthetic_bundle import batch

from llmservingsim import Run, RunOptions
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ProfileError
from llmservingsim.latency import ExpertWork, OlderBundleSource, find_bundle
from llmservingsim.model import ParallelLayout, block_operators, end_operators, start_operators

PRICE_US = 20.0
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B"
PHI, MIXTRAL = "microsoft/Phi-mini-MoE-instruct", "mistralai/Mixtral-8x7B-v0.1"
COMPLETE = [
    ("A6000", LLAMA_8B, 1),
    ("A6000", LLAMA_8B, 2),
    ("A6000", PHI, 1),
    ("A6000", PHI, 2),
    ("H100", LLAMA_70B, 4),
    ("H100", MIXTRAL, 4),
    ("TPU-v6e-1", LLAMA_8B, 1),
]


@pytest.fixture(scope="module")
def profiles(shared: Path) -> Path:
    if not (shared / "data" / "profiles_v0").is_dir():
        pytest.skip("no older profile bundles beside the repository")
    return shared / "data" / "profiles_v0"


def load(profiles: Path, hardware: str, model: str, tp: int) -> OlderBundleSource:
    described = find_model(model, [profiles.parent / "models"])
    folder = find_bundle([profiles], hardware, model, "bf16", tp)
    return OlderBundleSource(folder, described, ParallelLayout(tp=tp), find_accelerator(hardware))


@pytest.mark.parametrize(("hardware", "model", "tp"), COMPLETE)
def test_every_operator_of_the_model_takes_time(profiles, hardware, model, tp):
    source = load(profiles, hardware, model, tp)
    described = find_model(model, [profiles.parent / "models"])
    shape = batch([(300, 0), (64, 640)], [700] * 60)
    operators = {o.name for o in (*start_operators(), *block_operators(described), *end_operators())}
    for operator in operators - {"moe"}:
        assert source.latency_ns(operator, shape) >= 0
    if "moe" in operators:
        few, many = source.moe_latency_ns(ExpertWork(30, 30, np.array([[60.0, 60.0]]), np.array([[2.0, 7.5]])))[0]
        assert 0 < few < many
    assert source.latency_ns("attention", shape) > source.latency_ns("attention", batch([], [700] * 60)) > 0
    assert source.provenance()["roofline_operators"] == ["sampler"]


def test_nobody_decodes_faster_than_memory_delivers(profiles):
    source = load(profiles, "A6000", LLAMA_8B, 1)
    shape = batch([], [1000] * 100)
    assert source.latency_ns("attention", shape) >= 100 * 1000 * 4096 / 768e9 * 1e9
    assert source.latency_ns("gate_up_proj", shape) >= 2 * 4096 * 14336 * 2 / 768e9 * 1e9


@pytest.mark.parametrize(("hardware", "model", "tp"), [("A6000", PHI, 2), ("H100", MIXTRAL, 4)])
def test_the_times_of_experts_are_those_of_whole_ones_whatever_the_degree(profiles, hardware, model, tp):
    """Three matrices of one expert cannot be read faster, which times of a slice of 1/tp would say."""
    described, device = find_model(model, [profiles.parent / "models"]), find_accelerator(hardware)
    source = load(profiles, hardware, model, tp)
    idle, four = (ExpertWork(1, 1, np.array([[n]]), np.array([[n]])) for n in (0.0, 4.0))
    expert_bytes = 3 * described.hidden_size * described.moe_intermediate_size * described.dtype_bytes
    read_ns = 4 / tp * expert_bytes / device.memory_bandwidth * 1e9
    assert read_ns <= source.moe_latency_ns(four)[0, 0] - source.moe_latency_ns(idle)[0, 0] <= 2 * read_ns


def test_a_batch_is_priced_within_twenty_microseconds(profiles):
    """Best of three runs of 2,000 prices. Measured: 5 us."""
    source, shape = load(profiles, "H100", LLAMA_70B, 4), batch([(300, 0), (64, 640)], [700] * 60)
    spent = []
    for _ in range(3):
        start = perf_counter()
        for _ in range(2000):
            source.latency_ns("attention", shape)
        spent.append((perf_counter() - start) / 2000 * 1e6)
    assert min(spent) <= PRICE_US


def test_a_degree_without_attention_names_the_file(profiles):
    with pytest.raises(ProfileError, match=r"tp2/attention.csv: file is missing"):
        load(profiles, "H100", LLAMA_70B, 2)


RUNS = [("A6000", LLAMA_8B, 2), ("TPU-v6e-1", LLAMA_8B, 1), ("A6000", PHI, 1), ("H100", MIXTRAL, 4)]


@pytest.mark.parametrize(("hardware", "model", "tp"), RUNS)
def test_a_run_takes_the_bundle_by_the_name_of_its_device(profiles, hardware, model, tp):
    instance = {"model": model, "hardware": hardware, "tensor_parallel_size": tp, "num_gpu_blocks": 4000}
    config = {"nodes": [{"instances": [instance]}], "serving": {"latency": {"source": "bundle"}}}
    trace = profiles.parent / "workloads" / "sharegpt_pulse_req10_n3_delay60.jsonl"
    result = Run(config, trace, RunOptions(profiles=[profiles], models=[profiles.parent / "models"])).execute()
    latency = result.summary["instances"][0]["latency"]
    assert (latency["layout"], latency["roofline_operators"]) == ("older", ["sampler"])
    assert result.summary["requests"]["finished"] == 30
