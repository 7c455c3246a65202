"""The sections of the run file that say what the parts of a server draw. `docs/concepts/power.md` has the formulas.

Every part is optional. One that is not stated is not counted, and the outputs name it; only accelerators are known to
the catalogue.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.quantities import Count, QuantityError, check_quantities
from llmservingsim.units import (
    parse_carbon_intensity,
    parse_energy_per_bit,
    parse_power_w,
    parse_size_bytes,
    parse_time_ns,
)

Utilisation = Annotated[float, Meta(ge=0, le=1)]
Quantity = Annotated[int, Meta(ge=0, le=2**16)]


class AcceleratorPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one accelerator draws; what is not stated is the catalogue's.

    Attributes:
        idle: With nothing to do, as ``"33W"``.
        standby: After work, and while it waits within an iteration.
        standby_duration: How long after work, as ``"18s"``.
        active: While it computes at its maximum clock.
    """

    idle: str | None = None
    standby: str | None = None
    standby_duration: str | None = None
    active: str | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", "standby", "active", may_be_zero=True)
        check_quantities(self, parse_time_ns, "standby_duration", may_be_zero=True)


class CpuPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processors of a server: ``idle + (active - idle) * utilisation``.

    Attributes:
        idle, active: At utilisation 0 and 1.
        utilisation: In the background, all the time.
        serving_utilisation: At least that while an instance of the server computes; 0.7 as in LLMServingSim 2.0.
    """

    idle: str
    active: str
    utilisation: Utilisation = 0.0
    serving_utilisation: Utilisation = 0.7

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", "active", may_be_zero=True)
        _check_order(self.idle, self.active)


class DramPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The modules of host memory.

    Attributes:
        idle: Of each module.
        dimm_size: Of a module, as ``"32GiB"``; there are as many as ``cpu_memory.size`` needs.
        dimms: How many, instead.
        energy_per_bit: Of what accelerators load from there and store there, as ``"6pJ/bit"``.
    """

    idle: str
    dimm_size: str | None = None
    dimms: Quantity | None = None
    energy_per_bit: str = "0pJ/bit"

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", may_be_zero=True)
        check_quantities(self, parse_size_bytes, "dimm_size")
        check_quantities(self, parse_energy_per_bit, "energy_per_bit", may_be_zero=True)
        if (self.dimm_size is None) == (self.dimms is None):
            raise QuantityError("dimms: expected either dimm_size or dimms")


class LinkPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The links between accelerators.

    Attributes:
        count: How many there are.
        idle: Of each.
        energy_per_bit: Of what accelerators of the server send over them, as ``"4pJ/bit"``.
    """

    idle: str
    count: Quantity = 1
    energy_per_bit: str = "0pJ/bit"

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", may_be_zero=True)
        check_quantities(self, parse_energy_per_bit, "energy_per_bit", may_be_zero=True)


class NicPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Network cards.

    Attributes:
        count: How many there are.
        idle: Of each, at any load.
    """

    idle: str
    count: Quantity = 1

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", may_be_zero=True)


class StoragePowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Drives.

    Attributes:
        count: How many there are.
        idle: Of each.
        energy_per_bit: Of what accelerators load from there and store there.
    """

    idle: str
    count: Quantity = 1
    energy_per_bit: str = "0pJ/bit"

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", may_be_zero=True)
        check_quantities(self, parse_energy_per_bit, "energy_per_bit", may_be_zero=True)


class PimPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Host memory that computes; modules of ``dram`` are not counted beside its channels, which are that memory.

    Attributes:
        idle, active: Of each channel.
        channels: How many there are.
    """

    idle: str
    active: str
    channels: Count

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", "active", may_be_zero=True)
        _check_order(self.idle, self.active)


class CxlPowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The CXL memory that all servers reach, which is no part of any.

    Attributes:
        idle: Of each device of ``cxl_memory``.
        energy_per_bit: Of what accelerators load from there and store there.
    """

    idle: str
    energy_per_bit: str = "0pJ/bit"

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "idle", may_be_zero=True)
        check_quantities(self, parse_energy_per_bit, "energy_per_bit", may_be_zero=True)


class NodePowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the parts of a server draw.

    Attributes:
        base: Mainboard, fans and whatever else draws the same all the time.
        accelerators: By name; those without an entry are the catalogue's.
        power_cap: Of each accelerator, unless its instance has one.
        cpu: Processors.
        dram: Host memory.
        link: Between accelerators.
        nic: Network cards.
        storage: Drives.
        pim: Host memory that computes.
    """

    base: str | None = None
    accelerators: dict[str, AcceleratorPowerSpec] = {}
    power_cap: str | None = None
    cpu: CpuPowerSpec | None = None
    dram: DramPowerSpec | None = None
    link: LinkPowerSpec | None = None
    nic: NicPowerSpec | None = None
    storage: StoragePowerSpec | None = None
    pim: PimPowerSpec | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_power_w, "base", may_be_zero=True)
        check_quantities(self, parse_power_w, "power_cap")


class PowerRunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Power of the whole run; ``{}`` counts accelerators with the catalogue's numbers.

    Attributes:
        model: What an accelerator draws in each state: ``states``, ``utilisation``, or ``package.module:Class``.
        options: Of the model.
        stopped: What an instance draws that autoscaling has stopped: nothing, or as if it had nothing to do.
        node: Of every server without a ``power`` section of its own.
        cxl: The CXL memory.
        pue: Power of the whole facility over that of its computers.
        grid_carbon_intensity: As ``"400gCO2/kWh"``; by default carbon is not counted.
    """

    model: str = "states"
    options: dict[str, Any] | None = None
    stopped: Literal["off", "idle"] = "off"
    node: NodePowerSpec | None = None
    cxl: CxlPowerSpec | None = None
    pue: Annotated[float, Meta(ge=1, le=100)] = 1.0
    grid_carbon_intensity: str | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_carbon_intensity, "grid_carbon_intensity", may_be_zero=True)


def _check_order(idle: str, active: str) -> None:
    if parse_power_w(active) < parse_power_w(idle):
        raise QuantityError(f"active: expected at least idle, {idle!r}, got {active!r}")
