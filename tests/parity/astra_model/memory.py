"""Memories: what an access takes, and who queues behind whom."""

from __future__ import annotations

from collections import deque

from astra_model.engine import AbortError, Action, Engine
from llmservingsim.backend.config import MemoryLevelModel, MemoryModel
from llmservingsim.graph import MemoryLocation, Node


class Server:
    """Serves one request after another, in the order in which they came."""

    def __init__(self, engine: Engine, picks_next_first: bool) -> None:
        self._engine = engine
        self._picks_next_first = picks_next_first
        self._waiting: deque[tuple[int, int, Action]] = deque()
        self._is_busy = False

    def request(self, rank: int, time_ns: int, done: Action) -> None:
        """Serve, or let wait."""
        if self._is_busy:
            self._waiting.append((rank, time_ns, done))
        else:
            self._is_busy = True
            self._engine.after(rank, time_ns, lambda: self._finish(done))

    def _finish(self, done: Action) -> None:
        if self._picks_next_first:
            self._next()
            done()
        else:
            done()
            self._next()

    def _next(self) -> None:
        if self._waiting:
            rank, time_ns, done = self._waiting.popleft()
            self._engine.after(rank, time_ns, lambda: self._finish(done))
        else:
            self._is_busy = False


class Memories:
    """The levels, each with its servers."""

    def __init__(self, model: MemoryModel, engine: Engine, is_fork: bool) -> None:
        self._levels = {
            MemoryLocation.LOCAL: model.local,
            MemoryLocation.REMOTE: model.remote,
            MemoryLocation.CXL: model.cxl,
            MemoryLocation.STORAGE: model.storage,
        }
        self._engine = engine
        self._is_fork = is_fork
        self._servers: dict[tuple[str, MemoryLocation, int], Server] = {}

    def access(self, rank: int, node: Node, done: Action) -> None:
        """Load or store."""
        level = self._level(node)
        time_ns = service_ns(level, node.size_bytes)
        if level.type == "PER_NPU_MEMORY_EXPANSION":
            self._engine.after(rank, time_ns, done)
            return
        place = 0
        if level.queues_per_device:
            place = node.device
        elif level.type == "PER_NODE_MEMORY_EXPANSION":
            place = rank // level.npus_per_node
        self._server("access", node.location, place).request(rank, time_ns, done)

    def compute(self, rank: int, node: Node, done: Action) -> None:
        """Compute in memory (PIM)."""
        level = self._level(node)
        if level.pim_channels == 0:
            raise AbortError("a memory that cannot compute")
        time_ns = node.duration_ns + service_ns(level, node.size_bytes)
        place = level.num_devices * node.device + node.channel
        self._server("compute", node.location, place).request(rank, time_ns, done)

    def _level(self, node: Node) -> MemoryLevelModel:
        level = self._levels[node.location]
        if level.type == "NO_MEMORY_EXPANSION":
            raise AbortError("no such memory")
        return level

    def _server(self, use: str, location: MemoryLocation, place: int) -> Server:
        key = (use, location, place)
        if key not in self._servers:
            self._servers[key] = Server(self._engine, self._is_fork)
        return self._servers[key]


def service_ns(level: MemoryLevelModel, size: int) -> int:
    """One request alone; latency and bandwidth lose their fractions."""
    rate = int(level.bandwidth_gbps)
    return int(level.latency_ns) + (int(float(size) / rate) if rate else 0)
