"""What a run with attention in memory exports, `llmservingsim astra` times alike, to the nanosecond."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.graph import NodeType
from llmservingsim.trace.chakra import read_traces
from tests.offload_device import run_file

Cli = Callable[..., Any]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"sub_batch_interleaving": "always"},
        {"tensor_parallel_size": 2, "sub_batch_interleaving": "always"},
        {"operators": {"attention": "cpu", "o_proj": "cpu", "gate_up_proj": "cpu"}},
    ],
    ids=["whole", "halves", "halves on two ranks", "other operators"],
)
def test_exported_iterations_take_as_long_as_in_the_run(
    cli: Cli, write_config: Callable[..., Path], tmp_path: Path, keys: dict[str, Any]
) -> None:
    """Prompts come while others decode: iterations of all forms."""
    data = run_file(max_num_batched_tokens=64, max_num_seqs=8, **keys)
    data["serving"]["latency"]["source"] = "roofline"
    lines = [{"input_toks": 20 + 50 * i, "output_toks": 6, "arrival_time_ns": 3_000_000 * i} for i in range(4)]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "traces"
    answer = cli(
        *("run", write_config(data), "-w", trace, "-o", tmp_path / "out", "--emit-traces", folder),
        *("--emit-iterations", "0:12"),
    )
    assert answer.code == 0, answer.err
    computing = 0
    for row in csv.DictReader((folder / "iterations.csv").open()):
        names = {"workload": row["prefix"], "system": "system.json", "network": "network.yml"}
        names["remote-memory"] = "memory.json"
        flags = [part for k, name in names.items() for part in (f"--{k}-configuration", folder / name)]
        answer = cli("astra", *flags, "--dialect", "llmservingsim", "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["finish_ns"] == int(row["duration_ns"])
        ranks = keys.get("tensor_parallel_size", 1)
        graph = read_traces(folder / row["prefix"], ranks=ranks, dialect="llmservingsim2")
        computing += int((graph.type == NodeType.PIM_COMP).sum())
    assert computing > 0
