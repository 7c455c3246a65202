"""Requests in: JSONL traces, sessions, arrival processes and generators."""

from __future__ import annotations

from os import PathLike

import msgspec

from llmservingsim.workload.arrival import ARRIVAL_PROCESSES, ArrivalProcess, make_arrival_process
from llmservingsim.workload.closed_loop import ClosedLoop
from llmservingsim.workload.generate import generate
from llmservingsim.workload.jsonl import iter_requests, read_jsonl, write_jsonl
from llmservingsim.workload.protocol import Session, Workload
from llmservingsim.workload.request import RequestSpec
from llmservingsim.workload.spec import (
    ArrivalSpec,
    CountSpec,
    DurationSpec,
    EmpiricalLength,
    ExponentialDuration,
    FixedLength,
    GeneratorSpec,
    LengthSpec,
    LognormalDuration,
    LognormalLength,
    ModelShare,
    PairedLength,
    PrefixSpec,
    PresetLength,
    PriorityShare,
    SessionSpec,
    UniformDuration,
    UniformLength,
)
from llmservingsim.workload.stream import JsonlWorkload, ListWorkload, StreamWorkload, cut

__all__ = [
    "ARRIVAL_PROCESSES",
    "ArrivalProcess",
    "ArrivalSpec",
    "ClosedLoop",
    "CountSpec",
    "DurationSpec",
    "EmpiricalLength",
    "ExponentialDuration",
    "FixedLength",
    "GeneratorSpec",
    "JsonlWorkload",
    "LengthSpec",
    "ListWorkload",
    "LognormalDuration",
    "LognormalLength",
    "ModelShare",
    "PairedLength",
    "PrefixSpec",
    "PresetLength",
    "PriorityShare",
    "RequestSpec",
    "Session",
    "SessionSpec",
    "StreamWorkload",
    "UniformDuration",
    "UniformLength",
    "Workload",
    "generate",
    "iter_requests",
    "make_arrival_process",
    "open_workload",
    "read_jsonl",
    "write_jsonl",
]


def open_workload(
    source: str | PathLike[str] | GeneratorSpec, limit: int | None = None, *, max_model_len: int | None = None
) -> Workload:
    """Make a workload from a trace file or from a generator's specification.

    Args:
        source: Path of a JSONL trace (``.gz`` too), or a `GeneratorSpec`.
        limit: Use the first so many calls only.
        max_model_len: End outputs where prompt and output reach so many tokens.

    Raises:
        WorkloadError: If there is no request, or if something is wrong with the file or the specification.
    """
    if not isinstance(source, GeneratorSpec):
        return JsonlWorkload(source, limit=limit, max_model_len=max_model_len)
    total = source.num_requests if limit is None else min(limit, source.num_requests)
    drawn = generate(source if limit is None else msgspec.structs.replace(source, num_requests=total))
    return StreamWorkload(cut(drawn, limit, max_model_len), total_requests=total)
