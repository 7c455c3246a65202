"""What the parts of a server beside its accelerators draw, as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from llmservingsim.config.memory_spec import CxlSpec
from llmservingsim.config.power_spec import CxlPowerSpec, DramPowerSpec, NodePowerSpec
from llmservingsim.config.spec import NodeSpec
from llmservingsim.errors import ConfigError
from llmservingsim.units import parse_energy_per_bit, parse_power_w, parse_size_bytes


class ComputingMemory(NamedTuple):
    """A memory that computes for an instance.

    Attributes:
        channels: How many it has.
        per_node: How many of them compute while a PIM_COMP node runs.
        idle_w, active_w: Of a channel that waits, and of one that computes; 0 where nobody says.
        is_host: Whether it is the server's host memory, rather than a CXL device.
    """

    channels: int
    per_node: float
    idle_w: float = 0.0
    active_w: float = 0.0
    is_host: bool = True


COMPONENTS = ("base", "npu", "cpu", "dram", "cxl", "pim", "link", "nic", "storage")
"""In the order of the outputs."""


@dataclass(frozen=True, slots=True)
class ServerPower:
    """Of one server, or of what stands beside all of them.

    Attributes:
        constant_w: Component -> what it draws all the time. A part that nobody stated is not in it.
        serving_w: What the CPU draws more while an instance of the server executes a graph.
        j_per_byte: Component -> energy of a byte moved.
        pim_active_w: What a channel of memory draws more while it computes.
    """

    constant_w: dict[str, float] = field(default_factory=dict)
    serving_w: float = 0.0
    j_per_byte: dict[str, float] = field(default_factory=dict)
    pim_active_w: float = 0.0

    @classmethod
    def of(cls, power: NodePowerSpec | None, node: NodeSpec) -> ServerPower:
        """Read a server's section.

        Raises:
            ConfigError: If it counts modules of host memory that the server does not state.
        """
        if power is None:
            return cls()
        constant: dict[str, float] = {}
        per_byte: dict[str, float] = {}
        serving_w = pim_w = 0.0
        if power.base is not None:
            constant["base"] = parse_power_w(power.base)
        if (cpu := power.cpu) is not None:
            idle_w, span_w = parse_power_w(cpu.idle), parse_power_w(cpu.active) - parse_power_w(cpu.idle)
            constant["cpu"] = idle_w + span_w * cpu.utilisation
            serving_w = span_w * max(cpu.serving_utilisation - cpu.utilisation, 0.0)
        if (dram := power.dram) is not None:
            constant["dram"] = parse_power_w(dram.idle) * _dimms(dram, node)
            per_byte["dram"] = _per_byte(dram.energy_per_bit)
        if (pim := power.pim) is not None:
            constant["pim"] = parse_power_w(pim.idle) * pim.channels
            if dram is not None:
                constant["dram"] = 0.0  # its modules are these channels
            pim_w = parse_power_w(pim.active) - parse_power_w(pim.idle)
        for name, part in (("link", power.link), ("nic", power.nic), ("storage", power.storage)):
            if part is not None:
                constant[name] = parse_power_w(part.idle) * part.count
        for name, moving in (("link", power.link), ("storage", power.storage)):
            if moving is not None:
                per_byte[name] = _per_byte(moving.energy_per_bit)
        return cls(constant, serving_w, per_byte, pim_w)

    def with_memory(self, memory: ComputingMemory) -> ServerPower:
        """Return it with a memory that computes, unless a section says what that draws, or nobody does."""
        if "pim" in self.constant_w or not memory.active_w:
            return self
        constant = self.constant_w | {"pim": memory.idle_w * memory.channels}
        if memory.is_host and memory.idle_w and "dram" in constant:
            constant["dram"] = 0.0  # its modules are these channels
        return replace(self, constant_w=constant, pim_active_w=memory.active_w - memory.idle_w)

    @classmethod
    def of_pool(cls, power: CxlPowerSpec | None, pool: CxlSpec | None) -> ServerPower:
        """Read the section of the CXL memory.

        Raises:
            ConfigError: If there is no such memory.
        """
        if power is None:
            return cls()
        if pool is None:
            raise ConfigError("power.cxl: the run describes no CXL memory; expected cxl_memory")
        idle_w = parse_power_w(power.idle) * pool.num_devices
        return cls({"cxl": idle_w}, j_per_byte={"cxl": _per_byte(power.energy_per_bit)})


def _dimms(dram: DramPowerSpec, node: NodeSpec) -> int:
    if dram.dimms is not None:
        return dram.dimms
    if node.cpu_memory is None:
        raise ConfigError("power.dram: the server states no cpu_memory to count modules of; expected it, or dimms")
    return math.ceil(parse_size_bytes(node.cpu_memory.size) / parse_size_bytes(dram.dimm_size))


def _per_byte(text: str) -> float:
    return 8 * parse_energy_per_bit(text)
