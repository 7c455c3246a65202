"""LLMServingSim 2.0's study of a GPU with memory that computes, beside what that program found."""

from pathlib import Path

import pytest

from llmservingsim import simulate

DATA = Path(__file__).parents[3] / "shared" / "data"
STUDY = DATA / "measured" / "pim-case-study"
LINEAR = "nodes.0.cpu_memory.pim_model=linear"
ATTENTION = "nodes.0.instances.0.operators.attention=cpu"
HALVES = "nodes.0.instances.0.sub_batch_interleaving=always"

pytestmark = pytest.mark.skipif(not STUDY.is_dir(), reason="the study is not beside the repository")


def duration_s(config: str, *overrides: str) -> float:
    workload = DATA / "workloads" / "fixed_in128_out512_req256_rate10.jsonl"
    limits = ["serving.max_num_seqs=256", *overrides]
    result = simulate(STUDY / config, workload, overrides=limits, profiles=[DATA / "profiles_v0"])
    return max(record.finish_ns for record in result.requests) / 1e9


@pytest.mark.parametrize(
    ("config", "overrides", "found_s"),
    [
        ("config_gpu_only.json", (), 52.4),
        ("config.json", (LINEAR, ATTENTION), 45.5),
        ("config.json", (LINEAR, ATTENTION, HALVES), 52.8),
    ],
    ids=["GPU only", "attention in memory", "in halves"],
)
def test_the_study_takes_as_long_within_3_percent(config: str, overrides: tuple[str, ...], found_s: float) -> None:
    assert duration_s(config, *overrides) == pytest.approx(found_s, rel=0.03)


def test_splitting_never_pays_in_the_study_and_auto_knows() -> None:
    auto = ATTENTION, "nodes.0.instances.0.sub_batch_interleaving=auto"
    assert duration_s("config.json", LINEAR, *auto) == duration_s("config.json", LINEAR, ATTENTION)


def test_a_published_cluster_with_memory_that_computes_runs() -> None:
    config = DATA / "clusters" / "single_node_pim_instance.json"
    workload = DATA / "workloads" / "fixed_in128_out512_req256_rate10.jsonl"
    result = simulate(config, workload, overrides=[ATTENTION], profiles=[DATA / "profiles"], num_requests=20)
    assert len(result.requests) == 20
    told = result.summary["instances"][0]["offloading"]["devices"]["cpu"]
    assert told["device"] == "DDR4_8GB_3200_pim"
    assert told["source"] == "linear fit of LLMServingSim 2.0"
