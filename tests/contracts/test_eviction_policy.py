"""What every eviction policy promises."""

from collections.abc import Callable
from functools import partial
from math import isfinite

import pytest

from llmservingsim.plugins import make_plugin
from llmservingsim.serving.kv.eviction import EVICTION_POLICIES, EvictionPolicy, StoredChunk
from llmservingsim.serving.kv.tier_store import TierStore


class ShortestPrefix:
    """A user's own: what stands early in a prompt is shared by most, so the latest goes first."""

    def __init__(self, bonus: float = 100.0) -> None:
        self._bonus = bonus

    def priority(self, chunk: StoredChunk) -> float:
        return self._bonus * chunk.uses - chunk.context_len


Make = Callable[[], EvictionPolicy]
NAMES = (*EVICTION_POLICIES, f"{__name__}:ShortestPrefix")


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest) -> Make:
    return partial(make_plugin, "eviction", request.param, EVICTION_POLICIES, (), ("priority",))


def chunks() -> list[StoredChunk]:
    made = []
    for number in range(12):
        chunk = StoredChunk(number + 1, 0, 16, 16 * number, 1e9 * (1 + number))
        chunk.stored, chunk.last_used, chunk.uses = number, 2 * number, number % 3
        made.append(chunk)
    return made


def test_a_priority_is_a_finite_number(make: Make) -> None:
    policy = make()
    assert all(isfinite(policy.priority(chunk)) for chunk in chunks())


def test_a_priority_is_a_function_of_the_chunk(make: Make) -> None:
    first, second = make(), make()
    assert [first.priority(c) for c in chunks()] == [second.priority(c) for c in reversed(chunks())][::-1]


def test_a_full_tier_keeps_as_much_as_fits(make: Make) -> None:
    tier = TierStore("cpu", 5 * 16, make())
    for chunk in chunks():
        assert tier.put(chunk)[0]
        tier.arrived(chunk.key)
        tier.check()
    assert (len(tier), tier.evictions) == (5, 7)
