"""A memory that computes as a device, by the model that times it."""

from __future__ import annotations

from typing import Literal

from llmservingsim.config.catalog import ModelSpec, PimSpec
from llmservingsim.latency.pim.bank import BankPim
from llmservingsim.latency.pim.device import PimDevice
from llmservingsim.latency.pim.linear import LinearPim
from llmservingsim.model import ParallelLayout

PimModel = Literal["device", "linear"]
"""From the numbers of the device, or from the fits of LLMServingSim 2.0."""

_MODELS: dict[PimModel, type[BankPim | LinearPim]] = {"device": BankPim, "linear": LinearPim}


def make_pim(
    spec: PimSpec, model: ModelSpec, layout: ParallelLayout, memory_bytes: int, how: PimModel = "device"
) -> PimDevice:
    """Return a device that holds what one rank has of the model.

    Args:
        spec: What the memory is made of.
        model: What is computed.
        layout: How it is cut over the ranks that have a device each. One device for all ranks of an instance holds
            everything, as one rank would: ``ParallelLayout()``.
        memory_bytes: Of the device; it has ``memory_bytes // channel_bytes`` channels.
        how: Which model times it.

    Raises:
        ConfigError: The memory is smaller than a channel, the model's attention is none that such memories compute, or
            there is no fit for the kind of DRAM.
    """
    return _MODELS[how](spec, model, layout, spec.channels_of(memory_bytes))
