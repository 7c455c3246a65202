"""A collective spelled out: what one rank does, step by step."""

from __future__ import annotations

from typing import Literal

import msgspec


class Step(msgspec.Struct, frozen=True):
    """One step of one rank in a collective.

    Attributes:
        kind: ``send`` and ``receive`` move a message, ``reduce`` adds a received block to the rank's own, ``delay``
            passes time.
        peer: The other end, as a place in the communicator; messages only.
        size_bytes: Of the message or the block.
        duration_ns: Of a delay; None is the endpoint delay.
        tag: Tells apart messages of one size between the same two; messages match in order otherwise.
        after: Indices of steps of this rank that must have ended; a send ends at its arrival.
    """

    kind: Literal["send", "receive", "reduce", "delay"]
    peer: int = -1
    size_bytes: int = 0
    duration_ns: int | None = None
    tag: int = 0
    after: tuple[int, ...] = ()
