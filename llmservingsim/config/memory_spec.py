"""The sections of the run file that describe memories beside those of the accelerators."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.placement_spec import parse_blocks
from llmservingsim.config.quantities import Chunks, QuantityError, check_quantities
from llmservingsim.units import parse_bandwidth, parse_size_bytes, parse_time_ns

Numbers = str | tuple[Annotated[int, Meta(ge=0)], ...]
"""A list of numbers, or ``"0-3,8"``."""


def parse_numbers(numbers: Numbers) -> tuple[int, ...]:
    """Read numbers in either form.

    Raises:
        ConfigError: If the text is something else.
    """
    return parse_blocks(numbers) if isinstance(numbers, str) else numbers


class MemorySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory. What goes there and comes from there at one moment shares its bandwidth in equal parts.

    Attributes:
        size: As ``"512GiB"``.
        bandwidth: That the accelerators have of it together, as ``"256GB/s"``: of the memory, or of the links to it
            where these are slower.
        latency: Of an access, as ``"100ns"``.
        write_bandwidth: Of what is stored; by default ``bandwidth``.
    """

    size: str
    bandwidth: str
    latency: str = "0ns"
    write_bandwidth: str | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_size_bytes, "size")
        check_quantities(self, parse_bandwidth, "bandwidth", "write_bandwidth")
        check_quantities(self, parse_time_ns, "latency", may_be_zero=True)


class NodeMemorySpec(MemorySpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory of a node.

    Attributes:
        link_bandwidth: Of each accelerator's own link to it, in each direction, as ``"63GB/s"``; by default nothing
            but the memory limits them.
    """

    link_bandwidth: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantities(self, parse_bandwidth, "link_bandwidth")


class PortSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links through which accelerators reach the pool. `docs/concepts/cxl.md` explains it.

    Attributes:
        bandwidth: Of each, in each direction, as ``"63GB/s"``.
        latency: Of crossing it, as ``"70ns"``.
        of: Whether each ``node`` has one, or each ``accelerator``. Where both are stated, an access crosses both.
        nodes: Whose, as ``"0-3"`` or ``[0, 1]``; by default those of which no other entry says it.
    """

    bandwidth: str
    latency: str = "0ns"
    of: Literal["node", "accelerator"] = "node"
    nodes: Numbers | None = None

    def __post_init__(self) -> None:
        _check_link(self)
        _check_numbers(self, "nodes")


class SwitchSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A switch with devices of the pool behind it, all of whose accesses share its uplink.

    Attributes:
        name: What it is called in the outputs.
        bandwidth: Of the uplink, in each direction, as ``"126GB/s"``.
        latency: Of crossing switch and uplink, as ``"70ns"``.
        devices: Those directly behind it, as ``"0-3"`` or ``[0, 1]``.
        behind: The name of the switch to which the uplink leads; by default to the ports.
        nodes: That reach what is behind it; by default all.
    """

    name: str
    bandwidth: str
    latency: str = "0ns"
    devices: Numbers = ()
    behind: str | None = None
    nodes: Numbers | None = None

    def __post_init__(self) -> None:
        _check_link(self)
        _check_numbers(self, "devices", "nodes")


class CxlSpec(MemorySpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CXL memory that the accelerators of all nodes reach; size, bandwidths and latency are of each device.

    Attributes:
        num_devices: How many.
        ports: Links between accelerators and the pool: a section, or a list of them; by default none that limit.
        switches: Between ports and devices; a device that none names is behind the ports themselves.
        endpoints: Names of memories of the network's topology, one per device: accesses then go over the network, and
            share its links with all messages. Not with ports and switches.
    """

    num_devices: Chunks = 1
    ports: PortSpec | tuple[PortSpec, ...] = ()
    switches: tuple[SwitchSpec, ...] = ()
    endpoints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoints and (self.ports or self.switches):
            raise QuantityError("endpoints: the network is what lies between; expected no ports and no switches")
        if self.endpoints and len(self.endpoints) != self.num_devices:
            raise QuantityError(f"endpoints: expected one per device, {self.num_devices}, got {list(self.endpoints)}")


def _check_link(section: PortSpec | SwitchSpec) -> None:
    check_quantities(section, parse_bandwidth, "bandwidth")
    check_quantities(section, parse_time_ns, "latency", may_be_zero=True)


def _check_numbers(section: msgspec.Struct, *keys: str) -> None:
    for key in keys:
        stated = getattr(section, key)
        if stated is None:
            continue
        try:
            parse_numbers(stated)
        except QuantityError as error:
            text = str(error).removeprefix("blocks: ").replace("no block or range", "no number or range")
            raise QuantityError(f"{key}: {text}") from None
