"""Random small programs, made for ties: few ranks, few distinct sizes and times, random dependencies."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmservingsim.backend.config import (
    Dialect,
    MemoryLevelModel,
    MemoryModel,
    NetworkModel,
    SharedBusModel,
    SystemModel,
)
from llmservingsim.graph import ALL_DIMENSIONS, CollectiveType, Graph, MemoryLocation, Node, NodeType

SHAPES = ([2], [3], [4], [5], [8], [2, 2], [4, 2], [2, 3], [3, 4], [8, 2], [2, 2, 2], [2, 3, 2], [4, 2, 3], [6], [16])
SIZES = (1, 2, 3, 7, 8, 10, 24, 63, 64, 100, 999, 1000, 4096, 65536, 65537, 1_000_003, 1 << 20)
TIMES = (0, 1, 5, 10, 20, 30, 500, 510, 520, 1000, 2000)
KINDS = (CollectiveType.ALL_REDUCE, CollectiveType.ALL_GATHER, CollectiveType.REDUCE_SCATTER, CollectiveType.ALL_TO_ALL)


@dataclass(frozen=True)
class Program:
    """What both simulators take.

    Attributes:
        ranks: Per rank its nodes; dependencies count within the rank.
        groups: Communicators.
        network, system, memory: The machine.
        repeats: How often the workload runs.
    """

    ranks: tuple[tuple[Node, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    network: NetworkModel
    system: SystemModel
    memory: MemoryModel
    repeats: int = 1

    @property
    def graphs(self) -> list[Graph]:
        """The workloads."""
        nodes: list[Node] = []
        for rank, own in enumerate(self.ranks):
            first = len(nodes)
            for node in own:
                data = tuple(first + d for d in node.data_deps)
                ctrl = tuple(first + d for d in node.ctrl_deps)
                nodes.append(replace(node, rank_class=rank, data_deps=data, ctrl_deps=ctrl))
        return [Graph.from_nodes(nodes, [(r,) for r in range(len(self.ranks))], self.groups)] * self.repeats


def random_program(seed: int) -> Program:
    """Return the program of a seed."""
    rng = random.Random(seed)
    dialect: Dialect = "llmservingsim" if rng.random() < 0.3 else "astra-sim"
    network = _network(rng, dialect)
    system = _system(rng, network, dialect)
    return _Writer(rng, network, system).write(_memory(rng, dialect))


def _network(rng: random.Random, dialect: Dialect) -> NetworkModel:
    shape = list(rng.choice(SHAPES))
    is_aware = len(shape) == 1 and rng.random() < 0.6
    if dialect == "llmservingsim" and not is_aware and rng.random() < 0.1:
        shape.insert(rng.randrange(len(shape) + 1), 1)
    topologies = ["Ring", "FullyConnected", "Switch"]
    if is_aware and shape == [2]:
        topologies = topologies[1:]
    return NetworkModel(
        [rng.choice(topologies) for _ in shape],
        shape,
        [float(rng.choice((1, 16, 50, 50, 200, 0.9313225746154785))) for _ in shape],
        [float(rng.choice((0, 1, 0.5, 5, 10, 500, 500, 1000.7))) for _ in shape],
        model="aware" if is_aware else "unaware",
    )


def _system(rng: random.Random, network: NetworkModel, dialect: Dialect) -> SystemModel:
    shape = network.npus_count
    plain = rng.random() < 0.4
    has_roofline = rng.random() < 0.1
    return SystemModel(
        preferred_dataset_splits=1 if plain else rng.choice((1, 2, 3, 4, 8)),
        active_chunks_per_dimension=1 if plain else rng.choice((1, 1, 2, 3, 4)),
        num_queues_per_dim=1 if plain else rng.choice((1, 1, 2, 3, 4)),
        scheduling_policy=rng.choice(("LIFO", "FIFO", "EXPLICIT")),
        collective_optimization=rng.choice(("baseline", "localBWAware")),
        endpoint_delay_ns=rng.choice((10, 10, 10, 0, 1, 20, 500)),
        local_mem_bw_gbps=float(rng.choice((50 if has_roofline else 0, 1600, 1600, 50, 1, 0.3))),
        peak_perf_tflops=float(rng.choice((1, 312))),
        roofline_enabled=has_roofline,
        replay_only=rng.random() < 0.03,
        local_reduction_delay_ns=rng.choice((1, 2)),
        shared_bus=_bus(rng) if rng.random() < 0.1 else None,
        rendezvous=rng.random() < 0.15,
        dialect=dialect,
        all_reduce=_algorithms(rng, shape, "tree"),
        all_gather=_algorithms(rng, shape, "tree"),
        reduce_scatter=_algorithms(rng, shape, "tree"),
        all_to_all=_algorithms(rng, shape, ""),
    )


def _bus(rng: random.Random) -> SharedBusModel:
    # The numbers are binary32, as they come out of a file.
    return SharedBusModel(rng.choice((0, 1, 10)), rng.choice((0, 1, 5)), rng.choice((0, 2, 7)), rng.choice((0, 0.5, 1)))


def _algorithms(rng: random.Random, shape: Sequence[int], extra: str) -> list[str]:
    total = 1
    for n in shape:
        total *= n

    def of(n: int) -> str:
        names = ["ring", "ring", "direct", "direct", f"direct{rng.randint(1, 4)}"]
        if extra and n & (n - 1) == 0 and n > 1:
            names += ["halvingDoubling", "doubleBinaryTree"]
        return rng.choice(names)

    names = [of(n) for n in shape[: len(shape) if rng.random() < 0.9 else 1]]
    if rng.random() < 0.1:
        one = "oneRing" if rng.random() < 0.5 else f"oneDirect{rng.choice(('', 2))}"
        if extra and total & (total - 1) == 0 and rng.random() < 0.4:
            one = "oneHalvingDoubling"
        return [one]  # behind other names it is not known from any run what it does
    return names


def _memory(rng: random.Random, dialect: Dialect) -> MemoryModel:
    def level() -> MemoryLevelModel:
        kind = rng.choice(("PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"))
        is_fork = dialect == "llmservingsim"
        return MemoryLevelModel(
            kind,
            latency_ns=rng.choice((0, 1, 10, 500)),
            bandwidth_gbps=float(rng.choice((0, 1, 100))),
            npus_per_node=1 if is_fork else rng.choice((1, 2, 3)),
            num_devices=2 if is_fork else 1,
            pim_channels=3 if is_fork else 0,
            queues_per_device=is_fork,
        )

    if dialect == "astra-sim":
        return MemoryModel(remote=level())
    return MemoryModel(local=level(), remote=level(), cxl=level())


@dataclass
class _Writer:
    """Writes the nodes of a program, operation by operation."""

    rng: random.Random
    network: NetworkModel
    system: SystemModel
    own: list[list[Node]] = field(default_factory=list)
    last_comm: list[int] = field(default_factory=list)

    def write(self, memory: MemoryModel) -> Program:
        """Return the program."""
        rng, npus = self.rng, self.network.npus
        self.own = [[] for _ in range(npus)]
        self.last_comm = [-1] * npus
        self.is_ordered = rng.random() < 0.85
        self.is_uniform = rng.random() < 0.4
        self.is_fork = self.system.dialect == "llmservingsim"
        self.has_instants = rng.random() < (0.0 if self.is_fork else 0.06)
        self.groups = self._groups()
        if rng.random() < 0.9 if self.system.endpoint_delay_ns == 0 else rng.random() < 0.3:
            for rank in range(npus):
                self._add([rank], Node("first", NodeType.COMP, duration_ns=10, size_bytes=10, num_ops=10**10))
        operations = [self._compute, self._collective, self._collective, self._transfer, self._transfer, self._access]
        for _ in range(rng.choice((1, 2, 3, 4, 6, 9, 14))):
            rng.choice(operations)()
        for rank in range(npus):
            if not self.own[rank] and not self.is_fork:
                self._add([rank], Node("idle", NodeType.COMP, duration_ns=1, size_bytes=1, num_ops=1))
        ranks = tuple(tuple(nodes) for nodes in self.own)
        repeats = 2 if self.is_fork and rng.random() < 0.2 else 1
        return Program(ranks, self.groups, self.network, self.system, memory, repeats)

    def _groups(self) -> tuple[tuple[int, ...], ...]:
        rng, npus = self.rng, self.network.npus
        if rng.random() < 0.6:
            return ()
        ranks = list(range(npus))
        if rng.random() < 0.5:
            rng.shuffle(ranks)
        if self.is_fork or rng.random() < 0.5:
            size = rng.randint(2, npus)
            return tuple(tuple(ranks[i : i + size]) for i in range(0, npus - size + 1, size))
        return tuple(tuple(rng.sample(ranks, rng.randint(2, npus))) for _ in range(rng.randint(1, 3)))

    def _add(self, ranks: Sequence[int], node: Node) -> None:
        """Append a node to each of some ranks, with dependencies on earlier ones."""
        rng = self.rng
        common = [rng.random() for _ in range(3)]
        for rank in ranks:
            draws = common if self.is_uniform else [rng.random() for _ in range(3)]
            before = len(self.own[rank])
            deps = {int(draws[0] * before)} if before and draws[1] < 0.5 else set()
            if before and self.own[rank][0].name == "first":
                deps.add(0)
            is_comm = node.type in (NodeType.COMM_COLL, NodeType.COMM_SEND)
            if is_comm and self.is_ordered and self.last_comm[rank] >= 0:
                deps.add(self.last_comm[rank])
            if is_comm:
                self.last_comm[rank] = before
            is_control = not self.is_fork and draws[2] < 0.2
            data, ctrl = ((), tuple(sorted(deps))) if is_control else (tuple(sorted(deps)), ())
            self.own[rank].append(replace(node, data_deps=data, ctrl_deps=ctrl))

    def _some(self) -> list[int]:
        npus = self.network.npus
        if self.rng.random() < 0.5:
            return list(range(npus))
        return sorted(self.rng.sample(range(npus), self.rng.randint(1, npus)))

    def _compute(self) -> None:
        rng = self.rng
        if self.has_instants and rng.random() < 0.5:
            self._add(self._some(), Node("invalid", NodeType.INVALID))
            return
        node = Node("compute", NodeType.COMP, is_cpu_op=rng.random() < 0.2, num_ops=rng.choice((0, 1000, 10**6)))
        sizes = (1, 1000, 10**6)
        if self.system.roofline_enabled:
            sizes = (0, *sizes) if self.has_instants else sizes
            node = replace(node, num_ops=rng.choice((1000, 10**6, 10**9)))
        node = replace(node, duration_ns=rng.choice(TIMES), size_bytes=rng.choice(sizes))
        for rank in self._some():
            self._add([rank], node)
            if rng.random() < 0.3:
                node = replace(node, duration_ns=rng.choice(TIMES))

    def _collective(self) -> None:
        rng = self.rng
        kind = rng.choice(KINDS) if rng.random() < 0.97 else CollectiveType.BROADCAST
        group = rng.randrange(-1, len(self.groups))
        size = max(rng.choice(SIZES), self.system.preferred_dataset_splits)
        dims = ALL_DIMENSIONS
        if rng.random() < 0.15:
            dims = rng.randrange(1, 1 << len(self.network.npus_count))
        node = Node(
            "collective",
            NodeType.COMM_COLL,
            collective=kind,
            size_bytes=size,
            duration_ns=rng.choice(TIMES),
            involved_dims=dims,
            priority=rng.choice((0, 0, 1, 5, -3)),
        )
        if self.is_fork and self.groups:
            for index, members in enumerate(self.groups):
                self._add(sorted(members), replace(node, group=index))
            return
        ranks = sorted(self.groups[group]) if group >= 0 else list(range(self.network.npus))
        self._add(ranks, replace(node, group=group))

    def _transfer(self) -> None:
        rng = self.rng
        source, target = rng.sample(range(self.network.npus), 2)
        fields: dict[str, Any] = {"size_bytes": rng.choice(SIZES), "tag": rng.choice((0, 1, 2)), "duration_ns": 7}
        send = Node("send", NodeType.COMM_SEND, peer=target, **fields)
        receive = Node("receive", NodeType.COMM_RECV, peer=source, **fields)
        self._add([source], send)
        self._add([target], receive)

    def _access(self) -> None:
        rng = self.rng
        node = Node("access", rng.choice((NodeType.MEM_LOAD, NodeType.MEM_STORE)), size_bytes=rng.choice(SIZES))
        if self.is_fork:
            location = rng.choice((MemoryLocation.LOCAL, MemoryLocation.REMOTE, MemoryLocation.CXL))
            node = replace(node, location=location, device=rng.randrange(2))
            if rng.random() < 0.4:
                node = replace(node, type=NodeType.PIM_COMP, channel=rng.randrange(3), duration_ns=rng.choice(TIMES))
        self._add(self._some(), node)
