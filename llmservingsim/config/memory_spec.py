"""The sections of the run file that describe memories beside those of the accelerators."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmservingsim.config.quantities import Chunks, QuantityError, check_quantities
from llmservingsim.units import parse_bandwidth, parse_size_bytes, parse_time_ns


class MemorySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory of a node. What goes there and comes from there at one moment shares its bandwidth in equal parts.

    Attributes:
        size: As ``"512GiB"``.
        bandwidth: That the accelerators have of it together, as ``"256GB/s"``: of the memory, or of the links to it
            where these are slower.
        latency: Of an access, as ``"100ns"``.
        write_bandwidth: Of what is stored; by default ``bandwidth``.
        pim: What it is made of if it computes: a catalogued memory, or the path of a DRAMSim3-style INI file; or what
            computes there, as ``package.module:Class``. `docs/concepts/offloading.md` explains it.
        pim_model: What times it: the numbers of the device, or the fits of LLMServingSim 2.0.
        processor: A catalogued processor that computes on what lies there, instead: a host's.
    """

    size: str
    bandwidth: str
    latency: str = "0ns"
    write_bandwidth: str | None = None
    pim: str | None = None
    pim_model: Literal["device", "linear"] = "device"
    processor: str | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_size_bytes, "size")
        check_quantities(self, parse_bandwidth, "bandwidth", "write_bandwidth")
        check_quantities(self, parse_time_ns, "latency", may_be_zero=True)
        if self.pim is not None and self.processor is not None:
            raise QuantityError("processor: the memory computes itself (pim); expected one of both")


class CxlSpec(MemorySpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CXL memory that the accelerators of all nodes reach; size, bandwidths and latency are of each device.

    Attributes:
        num_devices: How many.
    """

    num_devices: Chunks = 1
