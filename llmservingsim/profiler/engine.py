"""What runs shots: the layers of an engine on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ProfileError
from llmservingsim.model import ParallelLayout
from llmservingsim.plugins import make_plugin
from llmservingsim.profiler.sampling import Pass
from llmservingsim.profiler.shots import Shot


class Facts(NamedTuple):
    """What a device is, as measured; None where it has nothing to say.

    Attributes:
        memory_bytes: Its memory.
        memory_bandwidth: Bytes per second of a long read.
        flops: Dense operations per second of a large product in the model's dtype.
        cache_bytes: Last-level cache.
        units: Cores or multiprocessors.
        launch_ns: The least that an operator takes.
    """

    memory_bytes: int
    memory_bandwidth: float
    flops: float
    cache_bytes: int
    units: int
    launch_ns: int


class Engine(Protocol):
    """Runs shots of one rank of a model."""

    @property
    def is_additive(self) -> bool:
        """Whether the chunks and decodes of a batch run one after another, so that their times add up."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Under which conditions it measures: device, versions, threads, kernels. Resuming needs the same."""
        ...

    def circumstances(self) -> Mapping[str, Any]:
        """What may be different when measuring goes on, for the bundle's provenance."""
        ...

    def prepare(self, shot: Shot) -> Pass:
        """Build the batch; return what runs it once and tells the microseconds of each operator.

        The names are those of the operators; of ``moe``, ``decode``, ``prefill`` and ``mixed`` shots only ``moe`` or
        ``attention``; ``mean``, ``max`` and ``skew`` of uneven decodes; ``step`` of whole steps, beside it ``eager``
        where it is replayed from a graph, and ``operators`` where those of the same step are timed in turn with it.
        """
        ...

    def facts(self) -> Facts:
        """Measure what the catalogue says of a device."""
        ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is built from.

    Attributes:
        model: What is computed.
        layout: How it is cut; one rank of it is measured.
        device: ``cpu`` or ``cuda``.
        threads: Of a CPU, None for all cores.
        max_model_len: Longest sequence, for positions.
    """

    model: ModelSpec
    layout: ParallelLayout
    device: str
    threads: int | None = None
    max_model_len: int = 2048


def default_device() -> str:
    """Return ``cuda`` where torch finds one, else ``cpu``."""
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _need_torch(engine: str) -> None:
    try:
        import_module("torch")
    except ImportError as error:
        raise ProfileError(
            f"--engine {engine}: needs PyTorch, which is not installed here ({error}); "
            "pip install 'llmservingsim[profiler]'"
        ) from error


def _torch(options: EngineOptions) -> Engine:
    _need_torch("torch")
    from llmservingsim.profiler.torch_engine import TorchEngine

    return TorchEngine(options)


def _vllm(options: EngineOptions) -> Engine:
    _need_torch("vllm")
    from llmservingsim.profiler.vllm_engine import VllmEngine

    engine: Engine = VllmEngine(options)
    return engine


def _sglang(options: EngineOptions) -> Engine:
    _need_torch("sglang")
    from llmservingsim.profiler.sglang_engine import SglangEngine

    engine: Engine = SglangEngine(options)
    return engine


ENGINES: Mapping[str, Any] = {"torch": _torch, "vllm": _vllm, "sglang": _sglang}


def make_engine(name: str, options: EngineOptions) -> Engine:
    """Build the engine called ``name``: a built-in one, an entry point or ``package.module:Class``.

    Raises:
        PluginError: Nothing answers to the name, or what does is no engine.
        ProfileError: Its package or its device is not there.
    """
    engine: Engine = make_plugin("engine", name, ENGINES, (options,), ("describe", "circumstances", "prepare", "facts"))
    return engine
