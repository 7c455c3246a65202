"""LLMServingSim 2.0's study of a GPU with memory that computes, beside what that program found."""

import csv
from pathlib import Path

import pytest

from llmservingsim import SimulationResult, simulate

DATA = Path(__file__).parents[3] / "shared" / "data"
STUDY = DATA / "measured" / "pim-case-study"
LINEAR = "nodes.0.cpu_memory.pim_model=linear"
ATTENTION = "nodes.0.instances.0.operators.attention=cpu"
HALVES = "nodes.0.instances.0.sub_batch_interleaving=always"

pytestmark = pytest.mark.skipif(not STUDY.is_dir(), reason="the study is not beside the repository")


def study(config: str, *overrides: str) -> SimulationResult:
    workload = DATA / "workloads" / "fixed_in128_out512_req256_rate10.jsonl"
    limits = ["serving.max_num_seqs=256", *overrides]
    return simulate(STUDY / config, workload, overrides=limits, profiles=[DATA / "profiles_v0"])


def duration_s(config: str, *overrides: str) -> float:
    return max(record.finish_ns or 0 for record in study(config, *overrides).requests) / 1e9


@pytest.mark.parametrize(
    ("config", "overrides", "found_s", "column"),
    [
        ("config_gpu_only.json", (), 52.4, "gpu-only"),
        ("config.json", (LINEAR, ATTENTION), 45.5, "pim"),
        ("config.json", (LINEAR, ATTENTION, HALVES), 52.8, "pim-sbi"),
    ],
    ids=["GPU only", "attention in memory", "in halves"],
)
def test_the_study_takes_as_long_within_3_percent_and_as_much_energy_within_2(
    config: str, overrides: tuple[str, ...], found_s: float, column: str
) -> None:
    """What is over comes from what differs (docs/concepts/offloading.md): the context grows, and queues are longer.

    Memory alone is up to 10 % apart: channels draw while the longest of them computes, and that program does not say
    how it counts them.
    """
    result = study(config, *overrides)
    assert max(record.finish_ns or 0 for record in result.requests) / 1e9 == pytest.approx(found_s, rel=0.03)
    energy = result.summary["energy_j"]
    per_token = table("peer_energy_per_token.tsv")[0]
    assert energy["per_output_token"] == pytest.approx(float(per_token[column]), rel=0.02)
    ours = energy["components"]
    ours |= {"memory": ours["dram"] + ours.get("pim", 0.0)}
    names = {"Others": "base", "GPU": "npu", "CPU": "cpu", "Memory": "memory", "Link": "link", "NIC": "nic"}
    names["Storage"] = "storage"
    for row in table("peer_component_energy.tsv"):
        name = names[row["component"]]
        assert ours[name] == pytest.approx(float(row[column]), rel=0.10 if name == "memory" else 0.03), name


def table(name: str) -> list[dict[str, str]]:
    with (STUDY / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


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
