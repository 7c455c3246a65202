"""Memories: what one of your own has to say, and how the native backend is told of a level."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Protocol, get_args

from msgspec.structs import replace

from llmservingsim.backend import _native
from llmservingsim.backend._native import MemoryAccess, MemoryUse
from llmservingsim.backend.config import MEMORY_DEVICES, MemoryLevelModel, MemoryType
from llmservingsim.errors import located
from llmservingsim.plugins import make_plugin

__all__ = ["MemoryAccess", "MemoryTiming", "MemoryUse", "QueuedMemory", "native_level"]

_BUILT_IN = dict.fromkeys((*get_args(MemoryType), MEMORY_DEVICES))
_MOST_NS = 10**18


class MemoryTiming(Protocol):
    """A memory of your own: the time of its accesses, asked per class of accesses and not per access.

    Without a `QueuedMemory.server` method accesses never wait for each other.
    """

    def service_ns(self, access: MemoryAccess) -> int:
        """Return what an access takes that is alone, at most 10^18 ns; ``access.rank`` must not matter.

        Asked once per device, channel, direction and size.
        """
        ...


class QueuedMemory(MemoryTiming, Protocol):
    """A memory of your own in which accesses may wait."""

    def server(self, access: MemoryAccess) -> int | None:
        """Return the number of the queue that serves an access, one after the other; None: it never waits.

        Asked once per rank, device and channel; nothing else may matter.
        """
        ...


def native_level(model: MemoryLevelModel, where: str) -> _native.MemoryLevel:
    """Return the level as the native backend takes it; ``where`` names it in messages.

    Raises:
        PluginError: If the type is neither built in nor found, or its class cannot be built.
        ValueError: If a field is set that has no meaning for the type.
    """
    if not isinstance(model.type, str) or model.type not in _BUILT_IN:
        return _own_level(model, where)
    if model.options:
        raise ValueError(f"memory: {where} options are for a memory of your own, not for {model.type}")
    level = _native.MemoryLevel()
    level.type = model.type
    level.latency_ns = model.latency_ns
    level.bandwidth = model.bandwidth_gbps
    level.npus_per_node = model.npus_per_node
    level.num_devices = model.num_devices
    level.pim_channels = model.pim_channels
    level.queues_per_device = model.queues_per_device
    level.discipline = model.discipline
    level.channels = model.channels
    level.write_bandwidth = model.write_bandwidth_gbps
    level.capacity_bytes = model.capacity_bytes
    level.endpoints = model.endpoints
    level.rates = [
        _native.MemoryRate(rate.latency_ns, rate.bandwidth_gbps, rate.write_bandwidth_gbps) for rate in model.rates
    ]
    level.interleaves = model.interleaves
    level.links = [_native.MemoryLink(link.bandwidth_gbps, link.latency_ns) for link in model.links]
    level.rank_links = model.rank_links
    level.device_links = model.device_links
    return level


def _own_level(model: MemoryLevelModel, where: str) -> _native.MemoryLevel:
    own, name = _own_memory(model, where)
    if replace(model, type=name, options={}) != MemoryLevelModel(name):
        raise ValueError(f"memory: {where} has type {name}, which takes options and no other field of a level")
    level = _native.MemoryLevel()
    level.type = name
    level.service_ns = lambda access: _whole(own.service_ns(access), f"{name}: service_ns({access})")
    if hasattr(own, "server"):
        level.server = _server(own, name)
    return level


def _own_memory(model: MemoryLevelModel, where: str) -> tuple[Any, str]:
    if isinstance(model.type, str):
        with located(f"memory: {where}"):
            return make_plugin("memory", model.type, _BUILT_IN, (), ("service_ns",), model.options), model.type
    kind = type(model.type)
    name = f"{kind.__module__}:{kind.__qualname__}"
    with located(f"memory: {where}"):
        return make_plugin("memory", name, {name: lambda: model.type}, (), ("service_ns",), model.options), name


def _server(own: QueuedMemory, name: str) -> Callable[[MemoryAccess], int | None]:
    def server(access: MemoryAccess) -> int | None:
        answer = own.server(access)
        return None if answer is None else _whole(answer, f"{name}: server({access})")

    return server


def _whole(answer: Any, asked: str) -> int:
    try:
        number = operator.index(answer)
    except TypeError:
        number = -1
    if isinstance(answer, bool) or not 0 <= number <= _MOST_NS:
        raise ValueError(f"{asked} must return a whole number between 0 and 10^18, not {answer!r}")
    return number
