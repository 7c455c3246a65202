"""What a run needs beside the bundle: a run file, and an entry for hardware that the catalogue does not know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmservingsim.errors import ProfileError
from llmservingsim.profiler.engine import Facts
from llmservingsim.profiler.plan import Limits

RUN_FILE = "run.yaml"
ACCELERATOR_FILE = "accelerator.yaml"


def write_run_file(folder: Path, hardware: str, model: str, dtype: str | None, tp: int, limits: Limits) -> Path:
    """Write a run file for one instance; return it.

    Args:
        folder: Of the hardware.
        hardware: Its name.
        model: As `find_model` takes it.
        dtype: That was measured, None for the model's own.
        tp: Tensor-parallel size.
        limits: How far the bundle reaches.
    """
    instance: dict[str, Any] = {"model": model, "hardware": hardware, **({"dtype": dtype} if dtype else {})}
    if tp > 1:
        instance["tensor_parallel_size"] = tp
    serving = {
        "max_num_seqs": limits.max_num_seqs,
        "max_num_batched_tokens": limits.max_num_batched_tokens,
        "max_model_len": limits.max_model_len,
        "latency": {"source": "bundle"},
    }
    return _write(folder / RUN_FILE, {"nodes": [{"instances": [instance]}], "serving": serving})


def write_accelerator(folder: Path, hardware: str, facts: Facts, device: str) -> Path:
    """Write what was measured of a device as an accelerator of the user's own; return the file.

    Links were not measured and no number is known: a single device uses none, and the file says so.
    """
    measured = f"measured by llmservingsim profile run on {device}"
    unknown = "not measured: a guess; a run on one device does not use it"
    entry: dict[str, Any] = {
        "vendor": "own",
        "memory_bytes": facts.memory_bytes,
        "memory_bandwidth": round(facts.memory_bandwidth),
        "bf16_flops": round(facts.flops),
        "fp16_flops": round(facts.flops),
        "link_kind": "unknown",
        "link_bandwidth": round(facts.memory_bandwidth),
        "link_latency_ns": 1000,
        "host_bandwidth": round(facts.memory_bandwidth),
        "num_compute_units": facts.units,
        "l2_bytes": facts.cache_bytes,
        "kernel_launch_ns": facts.launch_ns,
        "source": {
            "memory_bytes": f"told by the system of {device}",
            "memory_bandwidth": f"{measured}: a long read",
            "bf16_flops": f"{measured}: a large matrix product in the profiled dtype",
            "fp16_flops": f"{measured}: a large matrix product in the profiled dtype",
            "link_bandwidth": unknown,
            "link_latency_ns": unknown,
            "host_bandwidth": unknown,
            "num_compute_units": f"told by the system of {device}",
            "l2_bytes": f"told by the system of {device}",
            "kernel_launch_ns": f"{measured}: an addition of one element",
        },
    }
    return _write(folder / ACCELERATOR_FILE, {hardware: entry})


def run_command(output: Path, hardware: str, *, own_entry: bool, models: Sequence[Path]) -> str:
    """Return the command that simulates with what was measured."""
    words = [
        "llmservingsim run",
        str(output / hardware / RUN_FILE),
        "--workload WORKLOAD.jsonl",
        f"--profiles {output}",
    ]
    if own_entry:
        words.append(f"--hardware {output / hardware / ACCELERATOR_FILE}")
    return " ".join([*words, *(f"--models {folder}" for folder in models)])


def check_name(hardware: str) -> str:
    """Return a name of hardware that can be a folder.

    Raises:
        ProfileError: It cannot.
    """
    if not hardware or hardware.startswith(".") or set(hardware) & set("/\\:"):
        raise ProfileError(f"--hardware {hardware!r}: expected a name such as MyChip, which becomes a folder")
    return hardware


def _write(path: Path, content: dict[str, Any]) -> Path:
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
