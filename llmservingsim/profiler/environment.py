"""The machine that is measured: its name, versions, clocks, and what it can do."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from llmservingsim.profiler.engine import Facts
from llmservingsim.units import NS_PER_S, parse_size_bytes

_UNKNOWN_CACHE_BYTES = 64 * 2**20
_READ_BYTES = 2**29
_CPU = Path("/sys/devices/system/cpu/cpu0")


def describe_device(device: str) -> dict[str, Any]:
    """Return what has to be the same when measuring goes on."""
    found: dict[str, Any] = {"torch": str(torch.__version__), "device_name": device_name(device)}
    if device == "cuda":
        return found | {"cuda": torch.version.cuda, "driver": _nvidia("driver_version")}
    return found | {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability()}


def clocks(device: str) -> str:
    """Say whether clocks are held, as far as the system tells."""
    if device == "cuda":
        now, most = _nvidia("clocks.applications.graphics"), _nvidia("clocks.max.graphics")
        return f"application clock {now}, maximum {most}" if now else "not known: nvidia-smi does not tell"
    governor = _CPU / "cpufreq" / "scaling_governor"
    if not governor.is_file():
        return "not known: the system shows no frequency governor"
    return f"governor {governor.read_text(encoding='utf-8').strip()}"


def device_name(device: str) -> str:
    """Return the model of the processor."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def last_level_cache_bytes(device: str) -> int:
    """Return the size of the last cache before the memory; a generous guess where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    sizes = [path.read_text(encoding="utf-8").strip() for path in (_CPU / "cache").glob("index*/size")]
    return max((parse_size_bytes(f"{size}iB") for size in sizes), default=_UNKNOWN_CACHE_BYTES)


def measure_facts(device: str, dtype: torch.dtype) -> Facts:
    """Measure memory bandwidth by a long read, FLOP/s by a large product, and the least time of an operator."""
    large = torch.ones(_READ_BYTES // 4, device=device)
    edge = 8192 if device == "cuda" else 1536
    square = torch.randn(edge, edge, device=device, dtype=dtype)
    little = torch.ones(1, device=device)
    with torch.inference_mode():
        read_s, product_s = _best_s(large.sum, device), _best_s(lambda: square @ square, device)
        least_s = min(_best_s(lambda: little + 1, device) for _ in range(20))
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        memory, units = int(properties.total_memory), int(properties.multi_processor_count)
    else:
        memory, units = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), torch.get_num_threads()
    cache = last_level_cache_bytes(device)
    return Facts(memory, _READ_BYTES / read_s, 2 * edge**3 / product_s, cache, units, round(least_s * NS_PER_S))


def _best_s(run: Callable[[], object], device: str) -> float:
    best = float("inf")
    for _ in range(7):
        begun = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return best


def _nvidia(field: str) -> str:
    """Ask the driver's tool, empty where it is not there."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""


def circumstances(device: str) -> Mapping[str, Any]:
    """Return what may be different when measuring goes on: clocks, and what else runs."""
    load = Path("/proc/loadavg")
    return {
        "clocks": clocks(device),
        "python": platform.python_version(),
        "load_average": load.read_text(encoding="utf-8").split()[0] if load.is_file() else "not known",
    }
