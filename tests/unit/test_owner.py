"""Only those owners are asked to begin that may have something to begin."""

from collections.abc import Iterable, Sequence
from typing import Any

from llmservingsim import Run
from llmservingsim.owner import Wakeful, are_needed
from llmservingsim.workload import RequestSpec


class Member:
    wake: Any = None


class Sleeper:
    """An owner of some members."""

    def __init__(self, *members: Any) -> None:
        self.members: Sequence[Any] = members

    def begin(self, now_ns: int) -> Iterable[int]:
        return ()

    def complete(self, ticket: int, now_ns: int) -> Iterable[Any]:
        return ()

    def describe_waiting(self) -> list[str]:
        return []


def test_all_are_awake_at_first_and_then_who_was_woken_in_order() -> None:
    members = [Member() for _ in range(3)]
    owners = [Sleeper(members[0]), Sleeper(members[1], members[2]), Sleeper()]
    wakeful = Wakeful(owners)
    assert list(wakeful.take()) == owners
    assert list(wakeful.take()) == [owners[2]]  # without members: at every turn
    members[2].wake()
    wakeful.wake(owners[0])
    assert list(wakeful.take()) == owners
    members[1].wake()
    members[2].wake()
    assert list(wakeful.take()) == owners[1:]


def test_an_idle_instance_is_asked_once() -> None:
    """Round robin gives the one request to the first of three instances; the others hear of the start alone."""
    instance = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100"}
    run = Run({"nodes": [{"instances": [instance] * 3}]}, [RequestSpec(0, 1000, 10, 20)])
    asked = [0, 0, 0]
    for one in run.system.instances:
        begin = one.begin

        def counted(now_ns: int, index: int = one.index, begin: Any = begin) -> Any:
            asked[index] += 1
            return begin(now_ns)

        one.begin = counted  # type: ignore[method-assign]
    run.execute()
    assert asked[1:] == [1, 1]
    assert asked[0] >= 20


class Dispensable(Sleeper):
    """Its tickets are for somebody, or they are not."""

    def __init__(self, *, is_needed: bool) -> None:
        super().__init__()
        self.is_needed = is_needed


def test_a_run_waits_for_owners_that_do_not_say_that_nobody_needs_them() -> None:
    assert not are_needed([])
    assert not are_needed([Dispensable(is_needed=False)])
    assert are_needed([Dispensable(is_needed=False), Dispensable(is_needed=True)])
    assert are_needed([Dispensable(is_needed=False), Sleeper()])
