"""The sections of the run file that describe memories beside those of the accelerators."""

from __future__ import annotations

import msgspec

from llmservingsim.config.quantities import Chunks, check_quantities
from llmservingsim.units import parse_bandwidth, parse_size_bytes, parse_time_ns


class MemorySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory of a node. What goes there and comes from there at one moment shares its bandwidth in equal parts.

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


class CxlSpec(MemorySpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """CXL memory that the accelerators of all nodes reach; size, bandwidths and latency are of each device.

    Attributes:
        num_devices: How many.
    """

    num_devices: Chunks = 1
