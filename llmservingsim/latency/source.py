"""Where an operator's latency comes from."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llmservingsim.model import HOST_GAP, IndexedBy, end_operators
from llmservingsim.shapes import BatchShape

PER_SEQUENCE = frozenset(op.name for op in (*end_operators(), HOST_GAP) if op.indexed_by is IndexedBy.SEQUENCES)
"""Operators that depend on the number of sequences; all others but attention and experts on that of tokens."""


class ExpertWork(NamedTuple):
    """What an iteration asks of the experts that some ranks hold; arrays are of shape ``[layers, ranks]``.

    Attributes:
        tokens: Of the instance, whose router and shared experts run on these ranks; padded.
        gathered_tokens: Whose hidden states the ranks' experts read: those of all instances that share the experts.
        pairs: (token, expert) pairs that a rank's experts compute.
        activated_experts: Distinct experts of a rank that get a token. Expectations may be fractions.
    """

    tokens: int
    gathered_tokens: int
    pairs: NDArray[np.float64]
    activated_experts: NDArray[np.float64]


class LatencySource(Protocol):
    """Times one operator of one rank.

    Operators are named as in the profile bundles: embedding, layernorm, qkv_proj, qk_norm, rotary_emb, attention,
    o_proj, gate_up_proj, act_fn, down_proj, final_layernorm, lm_head, sampler; eh_proj too, but only of a drafter that
    joins hidden states with embeddings. A source that also times the operator ``moe`` is an `ExpertLatencySource`.
    """

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time for one batch, at least 0.

        Dense operators depend on ``shape.num_tokens`` alone, lm_head and sampler on ``shape.num_sequences``, and
        attention on everything else. ``num_tokens`` is already padded where the engine pads. A source that takes no
        notice of drafts (``shape.draft_pairs``) prices their verification as a decode over the same keys and values.
        """
        ...

    def provenance(self) -> dict[str, object]:
        """Say where the numbers come from and how often they were extrapolated, for the run's summary."""
        ...


class Grade(StrEnum):
    """Where a time comes from.

    ``measured`` on this shape; ``interpolated`` between measured shapes; ``extrapolated`` beyond them; ``calibrated``,
    predicted from other models measured on the device; ``roofline``, computed from the catalogue.
    """

    MEASURED = "measured"
    INTERPOLATED = "interpolated"
    EXTRAPOLATED = "extrapolated"
    CALIBRATED = "calibrated"
    ROOFLINE = "roofline"

    @classmethod
    def between(cls, is_covered: bool) -> Grade:
        """Grade of a shape that lies within the measured ones, or not."""
        return cls.INTERPOLATED if is_covered else cls.EXTRAPOLATED


@runtime_checkable
class GradedLatencySource(Protocol):
    """A source that tells where each of its times comes from."""

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the operator's time for one batch, as `LatencySource.latency_ns`, and where it comes from."""
        ...

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the times of experts, as `ExpertLatencySource.moe_latency_ns`, and where they come from."""
        ...


@runtime_checkable
class PartialLatencySource(LatencySource, Protocol):
    """A source that tells which operators it has; one that holds ``host_gap`` is asked for it."""

    def holds(self, operator: str) -> bool:
        """Whether an operator was measured."""
        ...


@runtime_checkable
class ExpertLatencySource(LatencySource, Protocol):
    """A source that also times mixture-of-experts blocks."""

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of ``moe``, the router and shared experts included, shape ``[layers, ranks]``, at least 0."""
        ...
