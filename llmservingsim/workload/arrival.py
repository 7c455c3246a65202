"""Arrival processes: the gaps between one request and the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import count, repeat
from typing import Annotated, Any, Protocol

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from llmservingsim.errors import PluginError, WorkloadError, nearest, one_of
from llmservingsim.plugins import find_plugin
from llmservingsim.strict import explain_value
from llmservingsim.units import NS_PER_S
from llmservingsim.workload.spec import ArrivalSpec

_BLOCK = 1024

Rate = Annotated[float, Meta(ge=1e-6)]


class ArrivalProcess(Protocol):
    """A frozen msgspec Struct or dataclass, whose fields are its options, with this method."""

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield, without end, the time in ns before the first request, then from each request to the next.

        Args:
            rng: The only source of chance; nobody else draws from it.
        """


class PoissonArrivals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exponential gaps: requests that come independently of each other.

    Attributes:
        request_rate: Requests per second; infinity lets all arrive at 0.
    """

    request_rate: Rate

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield gaps of mean ``1 / request_rate``."""
        return _blocks(self.request_rate, lambda mean_ns: rng.exponential(mean_ns, _BLOCK))


class GammaArrivals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Gamma gaps, as vLLM's serving benchmark draws them: shape ``burstiness``, mean ``1 / request_rate``.

    The coefficient of variation of a gap is ``burstiness ** -0.5``: 1 is Poisson, below 1 comes in bursts, above 1
    more evenly.

    Attributes:
        request_rate: Requests per second; infinity lets all arrive at 0.
        burstiness: Shape of the gamma distribution.
    """

    request_rate: Rate
    burstiness: Annotated[float, Meta(ge=1e-3, le=1e9)] = 1.0

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield gaps of mean ``1 / request_rate``."""
        shape = self.burstiness
        return _blocks(self.request_rate, lambda mean_ns: rng.gamma(shape, mean_ns / shape, _BLOCK))


class FixedArrivals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Equal gaps; request ``k`` (from 1) arrives at ``k / request_rate``, rounded once, so that nothing adds up.

    Attributes:
        request_rate: Requests per second; infinity lets all arrive at 0.
    """

    request_rate: Rate

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:  # noqa: ARG002 - the Protocol has it
        """Yield gaps that differ by 1 ns at most."""
        last_ns = 0
        for k in count(1):
            arrival_ns = round(k * NS_PER_S / self.request_rate)
            yield arrival_ns - last_ns
            last_ns = arrival_ns


class AllAtOnce(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every request arrives at 0."""

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:  # noqa: ARG002 - the Protocol has it
        """Yield zeros."""
        return repeat(0)


ARRIVAL_PROCESSES: Mapping[str, type[ArrivalProcess]] = {
    "poisson": PoissonArrivals,
    "gamma": GammaArrivals,
    "fixed": FixedArrivals,
    "all_at_once": AllAtOnce,
}


def make_arrival_process(spec: ArrivalSpec) -> ArrivalProcess:
    """Find the process that ``spec`` names and give it its options.

    Raises:
        PluginError: If nothing has that name, or if it is no Struct or dataclass.
        WorkloadError: If an option is unknown, missing or out of range.
    """
    process = find_plugin("arrival", spec.process, ARRIVAL_PROCESSES)
    known = _option_names(process, spec.process)
    for name in spec.options:
        if name not in known:
            expected = f"expected {one_of(known)}" if known else "it takes none"
            raise WorkloadError(f"arrival {spec.process!r}: unknown option {name!r}{nearest(name, known)}; {expected}")
    try:
        made: ArrivalProcess = msgspec.convert(spec.options, process)
    except msgspec.ValidationError as error:
        message = explain_value(spec.options, error, "arrival process", known)
        raise WorkloadError(f"arrival {spec.process!r}: {message}") from error
    return made


def _option_names(process: Any, name: str) -> tuple[str, ...]:
    if isinstance(process, type) and issubclass(process, msgspec.Struct):
        return process.__struct_fields__
    if isinstance(process, type) and is_dataclass(process):
        return tuple(field.name for field in fields(process))
    raise PluginError(f"arrival: {name!r} is no msgspec Struct or dataclass; its fields are the options it takes")


def _blocks(request_rate: float, draw: Callable[[float], NDArray[np.float64]]) -> Iterator[int]:
    """Yield rounded gaps from blocks of them, zeros at an infinite rate."""
    if math.isinf(request_rate):
        yield from repeat(0)
    while True:
        yield from np.rint(draw(NS_PER_S / request_rate)).astype(np.int64).tolist()
