"""What every model of a memory that computes has: groups of channels, attention linear in its sums, power."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelSpec, PimSpec
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.latency.pim.heads import Heads
from llmservingsim.shapes import BatchShape


class PimPower(NamedTuple):
    """What the channels of a device draw.

    Attributes:
        channels: How many there are.
        idle_w, active_w: Of one that waits, and of one whose units compute; 0 where nobody says.
        access_pj_per_bit: Energy of a bit that a unit reads from a bank, 0 where nobody says.
    """

    channels: int
    idle_w: float
    active_w: float
    access_pj_per_bit: float


class AttentionTime(NamedTuple):
    """Nanoseconds of the decode attention of one block in a group, linear in what is asked of it."""

    per_request: float
    per_token: float


class PimDevice:
    """Attention in groups of channels, an `llmservingsim.latency.offload.OffloadDevice` for attention alone.

    Args:
        spec: What the memory is made of.
        model: What is computed.
        heads: How the heads of a request are spread.
        channels: Of the memory.
        time: Of attention.
    """

    operators: frozenset[str] = frozenset({"attention"})

    def __init__(self, spec: PimSpec, model: ModelSpec, heads: Heads, channels: int, time: AttentionTime) -> None:
        self.attention_time = time
        self.power = PimPower(channels, spec.idle_w, spec.active_w, spec.access_pj_per_bit)
        self._spec = spec
        self._model = model
        self._heads = heads

    @property
    def num_channels(self) -> int:
        """Channels of the memory."""
        return self.power.channels

    @property
    def num_groups(self) -> int:
        """Groups of channels that work at the same time."""
        return self._heads.groups

    def attention_ns(self, requests: NDArray[np.int64], context_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time of the decode attention of one block in each group, shape ``[groups]``, 0 where it is idle.

        A sliding window bounds the mean context of a group.
        """
        window = self._model.window_of("attention")
        tokens = context_tokens if window is None else np.minimum(context_tokens, requests * window)
        times = self.attention_time.per_request * requests + self.attention_time.per_token * tokens
        return np.asarray(np.rint(times), dtype=np.int64)

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the time of an operator; that of attention with its decodes spread evenly over the groups.

        Raises:
            ConfigError: The device cannot compute it, or the batch has prompt chunks whose attention it would be.
        """
        if operator not in self.operators:
            raise ConfigError(f"{self._spec.name} does not compute {operator!r}; expected {one_of(self.operators)}")
        if shape.prefills:
            raise ConfigError(
                f"{self._spec.name} computes the attention of decodes alone; prompt chunks stay where they are"
            )
        most = -(-shape.num_decodes // self.num_groups)
        tokens = -(-shape.decode_kv_tokens // self.num_groups)
        return int(self.attention_ns(np.array([most]), np.array([tokens]))[0])

    def provenance(self) -> dict[str, object]:
        """Name the device, its channels, what attention costs, and the numbers that were assumed."""
        return {
            "device": self._spec.name,
            "channels": self.num_channels,
            "channels_per_request": self._heads.split,
            "attention_ns_per_request": self.attention_time.per_request,
            "attention_ns_per_token": self.attention_time.per_token,
        }
