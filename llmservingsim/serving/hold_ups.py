"""Why waiting requests are not admitted: what a scheduler notes when an admission fails."""

from __future__ import annotations

from array import array
from enum import IntEnum
from typing import NamedTuple

from llmservingsim.serving.kv import BlockHash, BlockPool
from llmservingsim.serving.request import Request


class HoldUp(IntEnum):
    """What the head of the queue lacks."""

    NOTHING = 0  # nobody waits, or nobody has been looked at since
    KV_BLOCKS = 1  # blocks, or nobody is admitted because somebody was preempted for want of blocks
    MAX_NUM_SEQS = 2
    TOKEN_BUDGET = 3
    KV_TRANSFER = 4  # its KV, which comes from another instance
    KV_RECALL = 5  # its KV, which comes from a lower tier


class HoldUpLog:
    """What held up the head of a queue, and since when; grows only where that changes.

    Attributes:
        last: What holds it up now.
        since_ns: When each began, rising.
        what: Which each was, a `HoldUp`.
    """

    __slots__ = ("last", "since_ns", "what")

    def __init__(self) -> None:
        self.last = HoldUp.NOTHING
        self.since_ns, self.what = array("q"), array("b")

    def note(self, what: HoldUp, now_ns: int) -> None:
        """From now on it is this."""
        self.last = what
        self.since_ns.append(now_ns)
        self.what.append(what)


class Refusal(NamedTuple):
    """Why the next waiting request did not fit: as long as this holds, looking again would find the same.

    It needs more blocks than are free beside those of its prefix. That can only change when blocks become free, or when
    the first block that its prefix misses enters the index.

    Attributes:
        request: Who.
        prefix: Blocks that were found of it.
        room: Free blocks that are none of these.
        missing: Hash of the first block that was not found; None where every one that counts was.
    """

    request: Request
    prefix: list[int]
    room: int
    missing: BlockHash | None

    @classmethod
    def of(cls, request: Request, prefix: list[int], pool: BlockPool) -> Refusal:
        """Note a refusal."""
        hashes = request.block_hashes
        missing = hashes[len(prefix)] if len(prefix) < len(hashes) else None
        return cls(request, prefix, _room(prefix, pool), missing)

    def holds(self, request: Request, pool: BlockPool) -> bool:
        """Whether the request would be refused again."""
        if request is not self.request or (pool.num_free > self.room and _room(self.prefix, pool) > self.room):
            return False
        return self.missing is None or pool.find(self.missing) is None


def _room(prefix: list[int], pool: BlockPool) -> int:
    return pool.num_free - sum(map(pool.is_free, prefix))
