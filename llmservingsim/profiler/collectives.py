"""All-reduces over the devices of this machine, through ``torch.distributed``; none where there is one device."""

from __future__ import annotations

import csv
import os
import socket
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

SIZES = tuple(2**exponent for exponent in range(10, 29, 2))
"""Bytes of a message: 1 KiB to 256 MiB."""

_WARMUP, _REPEATS = 5, 20
_PATIENCE_S = 600.0
Row = tuple[int, int, float]
"""Ranks, bytes, microseconds."""


def measure_all_reduces(device: str, path: Path) -> str:
    """Write ``collectives.csv`` where the machine has several devices; return what was done, for the provenance."""
    if device != "cuda":
        return "not measured: one device"
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return "not measured: one device"
    degrees = [2**power for power in range(1, count.bit_length()) if 2**power <= count]
    write_collectives([row for ranks in degrees for row in all_reduce_times(ranks, "nccl", SIZES)], path)
    return f"all-reduces of {degrees} devices through NCCL in {path.name}"


def write_collectives(rows: Iterable[Row], path: Path) -> None:
    """Write times as ``network.measured_collectives`` reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("collective", "ranks", "size_bytes", "time_us"))
        writer.writerows(("all_reduce", ranks, size, round(time_us, 4)) for ranks, size, time_us in rows)


def all_reduce_times(ranks: int, backend: str, sizes: Sequence[int]) -> list[Row]:
    """Run all-reduces in processes of their own; return the median time of each size.

    Args:
        ranks: How many processes, one device each under ``nccl``.
        backend: Of torch.distributed: ``nccl`` or ``gloo``.
        sizes: Bytes of a message.
    """
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (ranks, port, backend, tuple(sizes), results)
    started = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(ranks)]
    for process in started:
        process.start()
    found: list[Row] = results.get(timeout=_PATIENCE_S)
    for process in started:
        process.join()
    return found


def _rank(rank: int, ranks: int, port: int, backend: str, sizes: Sequence[int], results: Any) -> None:
    import torch
    from torch import distributed

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = f"cuda:{rank}" if backend == "nccl" else "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
    distributed.init_process_group(backend, rank=rank, world_size=ranks)
    rows = []
    for size in sizes:
        message = torch.ones(size // 2, dtype=torch.bfloat16, device=device)
        times = []
        for _ in range(_WARMUP + _REPEATS):
            distributed.barrier()
            begun = time.perf_counter()
            distributed.all_reduce(message)
            if backend == "nccl":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
        rows.append((ranks, size, statistics.median(times[_WARMUP:]) * 1e6))
    if rank == 0:
        results.put(rows)
    distributed.destroy_process_group()
