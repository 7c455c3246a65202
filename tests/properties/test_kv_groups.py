"""Groups of channels: whose keys and values lie where, under random arrivals, preemptions and aborts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from llmservingsim.errors import InvariantError
from llmservingsim.serving import SCHEDULERS, Batch, Engine, Request
from llmservingsim.serving.kv_groups import HALVES, KvGroups
from llmservingsim.shapes import BatchShape
from tests.properties import test_decode_cohort as cohorts

GROUPS = 3


class Watched(Engine):
    """An engine whose batches are recounted request by request, which the groups never do."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self.groups = KvGroups(GROUPS, self.cohort)
        self._cells: dict[Request, tuple[int, tuple[int, int]]] = {}

    def next_batch(self, now_ns: int) -> Batch | None:
        batch = super().next_batch(now_ns)
        if batch is not None:
            self._check(batch)
        return batch

    def _check(self, batch: Batch) -> None:
        sums = self.groups.formed(batch)
        held = np.zeros((HALVES, GROUPS), dtype=np.int64)
        for request in self.scheduler.running:
            cell = self.groups.cell_of(request)
            assert cell is not None, "whoever runs has a place"
            held[cell] += self._computed(request)
            before = self._cells.get(request)
            if before is not None and before[0] == request.num_preemptions:
                assert before[1] == cell, "a request keeps its place"
            self._cells[request] = (request.num_preemptions, cell)
        assert (self.groups.held_tokens() == held).all()
        requests, context = np.zeros_like(held), np.zeros_like(held)
        decoding = [s.request for s in batch.scheduled if s.num_tokens == 1] + list(self.cohort)
        for request in decoding:
            cell = self.groups.cell_of(request)
            assert cell is not None
            requests[cell] += 1
            context[cell] += self._computed(request)
        assert (sums.requests == requests).all()
        assert (sums.context_tokens == context).all()

    def _computed(self, request: Request) -> int:
        """Tokens with keys and values; a member of the cohort has stale counters."""
        if request in self.cohort:
            return self.cohort.num_tokens(request) - self.cohort.completed - 1 + self.cohort.formed
        return request.num_computed_tokens


@given(cohorts.scenarios())
@settings(max_examples=150, deadline=None)
def test_sums_of_groups_equal_a_recount(scenario: cohorts.Scenario) -> None:
    """Whatever arrives, is preempted, given up, or moves in step."""
    for decode_cohort in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cohorts, "Engine", Watched)
            cohorts.run(scenario, decode_cohort=decode_cohort)


def engine_of_two_groups() -> tuple[Engine, KvGroups]:
    limits = cohorts.SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=1000, max_model_len=500)
    config = cohorts.EngineConfig(scheduler=limits, num_gpu_blocks=100, block_size=16)
    engine = Engine(0, config, SCHEDULERS["vllm"])
    return engine, KvGroups(2, engine.cohort)


def test_a_request_goes_to_the_emptiest_group() -> None:
    engine, groups = engine_of_two_groups()
    requests = [engine.add(cohorts.RequestSpec(i, 0, tokens, 5)) for i, tokens in enumerate((50, 20, 20, 40, 5))]
    batch = engine.next_batch(0)
    assert batch is not None
    groups.formed(batch)
    assert [groups.cell_of(request) for request in requests] == [(0, 0), (1, 1), (0, 1), (1, 1), (1, 0)]
    assert groups.held_tokens().sum(axis=0).tolist() == [55, 80]


def test_a_batch_that_is_not_the_groups_is_refused() -> None:
    _, groups = engine_of_two_groups()
    with pytest.raises(InvariantError, match="groups of channels hold 0 decodes of 0 tokens, the batch has 1 of 9"):
        groups.formed(Batch(0, [], 0, BatchShape((), 1, 9, 9, 1), 0))
