"""A rank's graph: which node starts when."""

from __future__ import annotations

from dataclasses import dataclass

from astra_model.engine import AbortError, Action, Engine
from astra_model.memory import Memories
from astra_model.network import Messages
from astra_model.system import COLLECTIVE_TAGS, SystemLayer
from llmservingsim.backend.config import SystemModel
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType

MEMORY_NODES = (NodeType.MEM_LOAD, NodeType.MEM_STORE)


@dataclass(frozen=True)
class Machine:
    """What ranks share."""

    engine: Engine
    messages: Messages
    memories: Memories
    system: SystemModel

    @property
    def is_fork(self) -> bool:
        """Whether LLMServingSim's rules hold."""
        return self.system.dialect == "llmservingsim"


class Rank:
    """Runs one workload of one rank; nodes are named by their indices, which ascend as their ids do."""

    def __init__(self, rank: int, nodes: dict[int, Node], graph: Graph, machine: Machine, layer: SystemLayer) -> None:
        self._rank, self._nodes, self._graph, self._machine, self._layer = rank, nodes, graph, machine, layer
        self._waits = {i: set(n.data_deps) | (set() if machine.is_fork else set(n.ctrl_deps)) for i, n in nodes.items()}
        self._ready = {i for i, waits in self._waits.items() if not waits}
        self._running: set[int] = set()
        self._slots: dict[str, int] = {}
        self._unfinished = len(nodes)
        self.compute_ns = 0
        self.finish_ns: int | None = None
        if nodes and not self._ready:
            raise AbortError("no node without dependencies")

    def begin(self) -> None:
        """Make the first pass."""
        self._issue_pass()
        self._finish_test()

    def _issue_pass(self) -> None:
        if not self._machine.is_fork:
            for i in sorted(self._ready):
                if self._can_start(self._nodes[i]):
                    self._start(i)
            return
        put_back = set()
        while self._ready:
            i = min(self._ready)
            if self._can_start(self._nodes[i]):
                self._start(i)
            else:
                self._ready.remove(i)
                put_back.add(i)
        self._ready |= put_back

    def _slot(self, node: Node) -> str | None:
        if node.is_cpu_op:
            if node.type != NodeType.COMP:
                raise AbortError("a CPU operation that does not compute")
            return "cpu"
        if node.type == NodeType.COMP:
            return "compute"
        if node.type == NodeType.COMM_RECV:
            return None
        if self._machine.is_fork and (node.type in MEMORY_NODES or node.type == NodeType.PIM_COMP):
            return None
        return "comm"

    def _can_start(self, node: Node) -> bool:
        slot = self._slot(node)
        return slot is None or slot not in self._slots.values()

    def _start(self, i: int) -> None:
        node = self._nodes[i]
        self._ready.remove(i)
        if self._is_instant(node):
            self._release(i)
            return
        self._running.add(i)
        slot = self._slot(node)
        if slot:
            self._slots = {**self._slots, str(i): slot}
        self._run(node, lambda: self._complete(i))

    def _is_instant(self, node: Node) -> bool:
        system = self._machine.system
        if system.replay_only:
            return False
        if node.type in (NodeType.INVALID, NodeType.METADATA):
            return True
        if node.type != NodeType.COMP:
            return False
        if self._machine.is_fork:
            return node.duration_ns == 0 and node.num_ops == 0
        return system.roofline_enabled and not node.is_cpu_op and node.size_bytes == 0

    def _run(self, node: Node, done: Action) -> None:
        engine, messages = self._machine.engine, self._machine.messages
        tag = node.tag % COLLECTIVE_TAGS
        if self._machine.system.replay_only:
            self._count(node, max(node.duration_ns, 1))
            engine.after(self._rank, max(node.duration_ns, 1), done)
        elif node.type == NodeType.COMP:
            time_ns = self._compute_ns(node)
            self._count(node, time_ns)
            engine.after(self._rank, time_ns, done)
        elif node.type in MEMORY_NODES:
            self._machine.memories.access(self._rank, node, done)
        elif node.type == NodeType.PIM_COMP:
            self._machine.memories.compute(self._rank, node, done)
        elif node.type == NodeType.COMM_SEND:
            messages.send(self._rank, node.peer, tag, node.size_bytes, done)
        elif node.type == NodeType.COMM_RECV:
            messages.receive(node.peer, self._rank, tag, node.size_bytes, done)
        elif node.collective == CollectiveType.BROADCAST:
            engine.after(self._rank, max(node.duration_ns, 1), done)
        else:
            self._layer.issue(node, self._graph, done)

    def _count(self, node: Node, time_ns: int) -> None:
        if not node.is_cpu_op:
            self.compute_ns += time_ns

    def _compute_ns(self, node: Node) -> int:
        system = self._machine.system
        if not system.roofline_enabled or node.is_cpu_op:
            return max(node.duration_ns, 1)
        rate, peak = system.local_mem_bw_gbps * 1e9, system.peak_perf_tflops * 1e12
        reached = peak
        if node.size_bytes:
            reached = min(rate * (float(node.num_ops) / float(node.size_bytes)), peak)
        return int(node.num_ops / reached * 1e9)

    def _complete(self, i: int) -> None:
        self._running.remove(i)
        self._slots.pop(str(i), None)
        self._release(i)
        self._issue_pass()
        self._finish_test()

    def _release(self, i: int) -> None:
        self._unfinished -= 1
        for j, waits in self._waits.items():
            if i in waits:
                waits.remove(i)
                if not waits:
                    self._ready.add(j)

    def _finish_test(self) -> None:
        left = self._unfinished if self._machine.is_fork else len(self._ready) + len(self._running)
        if left == 0 and self.finish_ns is None:
            self.finish_ns = self._machine.engine.now
