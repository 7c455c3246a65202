"""Which shots are planned, and where further ones go."""

from collections.abc import Callable
from typing import Any

import pytest
from fake_engine import FakeEngine, OneKernelEngine, dense_us

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.tables import LinearTable
from llmservingsim.profiler import Limits, Session, Shot, Table
from llmservingsim.profiler.plan import coarse_plan, corners_first, spread

MOE: dict[str, Any] = {
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
}


def plan(model: ModelSpec, limits: Limits, **options: bool) -> list[Shot]:
    return coarse_plan(model, limits, **{"is_additive": True, "with_experts": True, **options})


def places(shots: list[Shot], table: Table) -> list[tuple[int, ...]]:
    return [shot.at for shot in shots if shot.table is table]


@pytest.mark.parametrize("limits", [Limits(1, 32, 32), Limits(7, 100, 50), Limits(256, 8192, 131072)])
@pytest.mark.parametrize("is_additive", [True, False])
def test_the_grid_reaches_the_limits_and_never_beyond(
    make_model: Callable[..., ModelSpec], limits: Limits, is_additive: bool
) -> None:
    shots = plan(make_model(**MOE), limits, is_additive=is_additive)
    assert len(shots) == len(set(shots))
    assert max(places(shots, Table.DENSE)) == (limits.max_num_batched_tokens,)
    assert max(places(shots, Table.PER_SEQUENCE)) == (limits.max_num_seqs,)
    assert max(places(shots, Table.DECODE)) == (limits.max_num_seqs, limits.max_model_len)
    longest = min(limits.max_num_batched_tokens, limits.max_model_len)
    assert (1, longest, 0) in places(shots, Table.PREFILL)
    for count, chunk, context in places(shots, Table.PREFILL):
        assert count <= limits.max_num_seqs
        assert count * chunk <= limits.max_num_batched_tokens
        assert chunk + context <= limits.max_model_len
    for chunk, context, count, kv in places(shots, Table.MIXED):
        assert chunk + count <= limits.max_num_batched_tokens
        assert chunk + context <= limits.max_model_len
        assert kv <= limits.max_model_len
    for experts, tokens in places(shots, Table.MOE):
        assert 2 <= experts <= min(8, 2 * tokens)


def test_only_an_engine_with_one_kernel_for_all_measures_mixed_and_uneven_batches(model: ModelSpec) -> None:
    limits = Limits(32, 1024, 2048)
    assert {shot.table for shot in plan(model, limits)} == set(Table) - {Table.MIXED, Table.SKEW, Table.MOE}
    assert {shot.table for shot in plan(model, limits, is_additive=False)} == set(Table) - {Table.MOE}


def test_several_prompts_and_prompts_behind_a_context_are_measured(model: ModelSpec) -> None:
    shots = places(plan(model, Limits(32, 1024, 2048)), Table.PREFILL)
    assert {count for count, _, _ in shots} == {1, 2, 8}
    assert len({context for _, _, context in shots}) > 3


@pytest.mark.parametrize(
    ("low", "high", "sizes"), [(1, 16, [1, 4, 16]), (1, 30, [1, 4, 30]), (1, 40, [1, 4, 16, 40]), (16, 16, [16])]
)
def test_sizes_spread_evenly_over_the_logarithm(low: int, high: int, sizes: list[int]) -> None:
    assert spread(low, high) == sizes


def test_corners_come_first_and_middles_halve_what_is_left() -> None:
    assert corners_first([1, 2, 4, 8, 16]) == [1, 16, 4, 2, 8]


@pytest.mark.parametrize(
    ("limits", "message"),
    [((0, 64, 64), "--max-num-seqs: .*at least 1, got 0"), ((1, 64, 8), "--max-model-len: .*at least 32, got 8")],
)
def test_limits_that_leave_no_grid_are_refused(limits: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Limits(*limits)


def worst(points: dict[int, float]) -> float:
    """Largest error of reading the line anywhere, except within 15 % of the jump, which no line can follow."""
    table = LinearTable(*zip(*sorted(points.items()), strict=True))
    sizes = [n for n in range(1, 1025) if not 600 < n < 805]
    return max(abs(table.at(n) / dense_us(n) - 1) for n in sizes)


def test_a_line_that_bends_and_jumps_is_met_with_fewer_points_than_an_even_grid(
    make_session: Callable[..., Session],
) -> None:
    """The function is known: weights until 83 tokens, arithmetic from there, another kernel from 700 on."""
    goal = 0.035  # what is reached, 3 %, is of a step, of which a tenth are operators without a bend
    session = make_session()
    list(session.run())
    chosen = {e.shot.tokens: e.us("qkv_proj") for e in session.journal.of(Table.DENSE)}
    assert worst(chosen) < goal
    for count in range(3, len(chosen) + 1):
        even = {round(1024 ** (i / (count - 1))): 0.0 for i in range(count)}
        assert worst({n: dense_us(n) for n in even}) > goal, f"{count} even points do as well as {len(chosen)} chosen"


def test_points_go_where_the_line_bends(make_session: Callable[..., Session]) -> None:
    session = make_session()
    coarse = {shot.at[0] for shot in session.plan if shot.table is Table.DENSE}
    list(session.run())
    further = {e.shot.tokens for e in session.journal.of(Table.DENSE)} - coarse
    assert further
    assert all(16 < n < 1024 for n in further)
    assert sum(500 < n < 1000 for n in further) >= 3


class LittleEngine(FakeEngine):
    """One operator bends sharply, but takes a hundredth of a step; all others are straight."""

    def dense(self, name: str, tokens: int) -> float:
        return max(1.0, 0.02 * tokens) if name == "act_fn" else 200.0 + 2.0 * tokens


def test_what_takes_a_hundredth_of_a_step_attracts_no_shots(make_session: Callable[..., Session]) -> None:
    session = make_session(LittleEngine)
    list(session.run())
    coarse = [shot for shot in session.plan if shot.table is Table.DENSE]
    assert len(session.journal.of(Table.DENSE)) == len(coarse)


def test_a_smaller_error_takes_more_shots(make_session: Callable[..., Session], tmp_path: Any) -> None:
    counts = []
    for error in (0.1, 0.01):
        session = make_session(error=error)
        list(session.run())
        assert session.error is not None
        assert session.error <= error
        counts.append(len(session.journal.entries))
    assert counts[0] < counts[1]


def test_a_spent_budget_leaves_what_no_bundle_can_do_without(make_session: Callable[..., Session]) -> None:
    session = make_session(OneKernelEngine, budget_s=1e-9)
    list(session.run())
    assert session.is_coarse
    assert {entry.shot.table for entry in session.journal} == {shot.table for shot in session.plan}
    assert all(len(session.journal.of(t)) >= 3 for t in (Table.DENSE, Table.DECODE, Table.PREFILL))


class DriftingEngine(FakeEngine):
    """A neighbour on the same machine slows the first measurement of one shot by half."""

    slowed = 0

    def times(self, shot: Shot) -> dict[str, float]:
        factor = 1.0
        if shot == Shot(Table.DENSE, (16,)):
            self.slowed += 1
            factor = 1.5 if self.slowed == 1 else 1.0
        return {name: factor * time_us for name, time_us in super().times(shot).items()}

    def dense(self, name: str, tokens: int) -> float:
        return 200.0 + 2.0 * tokens


def test_what_contradicts_its_neighbours_is_measured_again_before_more_is_measured_beside_it(
    make_session: Callable[..., Session],
) -> None:
    session = make_session(DriftingEngine)
    list(session.run())
    coarse = [shot for shot in session.plan if shot.table is Table.DENSE]
    assert len(session.journal.of(Table.DENSE)) == len(coarse)
    assert session.journal.entries[Shot(Table.DENSE, (16,))].us("qkv_proj") == 232.0


def test_time_that_is_left_falls_and_every_shot_is_told(make_session: Callable[..., Session]) -> None:
    session = make_session()
    told = list(session.run())
    assert [each.done for each in told] == sorted(each.done for each in told)
    left = [each.left_s for each in told]
    assert left == sorted(left, reverse=True)
    assert told[-1].error is not None
