"""Blocks are said to be ready when their attention ends, as the backend times the iteration node by node."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim import Run
from llmservingsim.backend import MemoryModel, NativeBackend
from llmservingsim.instance import Instance
from llmservingsim.latency import ExpertWork
from llmservingsim.rehearsal import Rehearsal
from llmservingsim.resolve import System
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import BlockTimes
from llmservingsim.workload import RequestSpec

BATCHES = [
    BatchShape((Chunk(50, 0),), 0, 0, 0, 50),
    BatchShape((Chunk(7, 16), Chunk(90, 0)), 3, 400, 300, 100),
]


class Uneven:
    """Latencies that differ from operator to operator."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return len(operator) * 1000 + shape.num_tokens * (300 if operator == "attention" else 20)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.asarray(1000 + 50 * work.pairs, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def resolved(count: int, **options: object) -> System:
    instance: dict[str, Any] = {"hardware": "H100", "num_gpu_blocks": 101, **options}
    spec = {
        "nodes": [{"instances": [instance] * count}],
        "network": {"topology": "Switch", "bandwidth": "10GB/s", "latency": "3us"},
        "serving": {"latency": {"source": f"{__name__}:Uneven"}, "enforce_eager": True},
    }
    return Run(spec, [RequestSpec(0, 0, 1, 1)]).system


def measured(system: System, instance: Instance, shapes: list[BatchShape]) -> NDArray[np.int64]:
    """When the attentions of the exported iteration end, by rank class."""
    backend = NativeBackend(system.network, _recording(system), MemoryModel())
    graph = instance.builder.export(shapes)
    ticket = backend.submit(backend.register(graph))
    assert backend.advance(2**62) == [ticket]
    ends = backend.node_times(ticket)[1]
    is_attention = np.array([name.endswith(".attention") for name in graph.names])
    return np.array([ends[is_attention & (graph.rank_class == c)] for c in range(len(graph.rank_classes))])


def _recording(system: System) -> Any:
    import msgspec

    return msgspec.structs.replace(system.system, record_nodes=True)


MIXTURE = {"model": "Qwen/Qwen3-30B-A3B", "enable_expert_parallel": True}
CASES = {
    "one rank": (1, {"model": "meta-llama/Llama-3.2-1B"}),
    "four ranks": (1, {"model": "meta-llama/Llama-3.2-1B", "tensor_parallel_size": 4}),
    "experts": (1, MIXTURE | {"tensor_parallel_size": 2}),
    "instances that share experts": (2, MIXTURE | {"data_parallel_group": "A"}),
}


@pytest.mark.parametrize(("count", "options"), CASES.values(), ids=CASES.keys())
def test_the_times_are_those_of_the_iteration(count: int, options: dict[str, Any]) -> None:
    system = resolved(count, **options)
    instance = system.instances[0]
    shapes = BATCHES[:count]
    instance.builder.durations_ns(shapes)
    rehearsal = Rehearsal(lambda: NativeBackend(system.network, system.system, MemoryModel()))
    template = instance.builder.template
    times = BlockTimes(instance.builder, partial(rehearsal.collective_ns, template))
    found = times.ready_ns(shapes)
    expected = measured(system, instance, shapes)
    assert found.shape == expected.shape
    assert found.tolist() == expected.tolist()
