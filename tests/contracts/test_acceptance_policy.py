"""What every acceptance policy promises, and what the engine promises to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.serving import AcceptancePolicy, Speculation, Verification
from llmservingsim.serving.acceptance import make_acceptance
from llmservingsim.workload import GeneratorSpec, UniformLength

DRAFTS = 4


class Tiring:
    """A user's own: accepts half as much behind every ``after`` tokens of an answer."""

    def __init__(self, num_speculative_tokens: int, rate: float = 0.9, after: int = 20) -> None:
        self._rate, self._after = rate, after

    def num_accepted(self, verification: Verification) -> int:
        answered = verification.num_tokens - verification.num_prompt_tokens
        rate = self._rate * 0.5 ** (answered // self._after)
        accepted = 0
        while accepted < verification.num_drafts and verification.uniform(accepted) < rate:
            accepted += 1
        return accepted


STATED: dict[str, dict[str, Any]] = {
    "fixed": {"policy": "fixed", "rate": 0.6},
    "decaying": {"policy": "decaying", "rate": 0.9, "decay": 0.7},
    "conditional": {"policy": "table", "conditional": [0.9, 0.5, 0.9, 0.1]},
    "per_position": {"policy": "table", "per_position": [0.9, 0.5, 0.4, 0.1]},
    "counts": {"policy": "table", "counts": [1, 2, 3, 0, 1]},
    "path": {"policy": "table", "path": "measured.csv"},
    "own": {"policy": f"{__name__}:Tiring", "after": 10},
}


@pytest.fixture(params=list(STATED))
def stated(request: pytest.FixtureRequest) -> dict[str, Any]:
    return STATED[request.param]


@pytest.fixture
def policy(stated: dict[str, Any], tmp_path: Path) -> AcceptancePolicy:
    (tmp_path / "measured.csv").write_text("counts\n10\n5\n5\n0\n2\n")
    return make_acceptance(stated, DRAFTS, tmp_path)


def verify(policy: AcceptancePolicy, seed: int = 1, requests: int = 40, steps: int = 20) -> list[int]:
    speculation = Speculation(DRAFTS, policy, seed)
    return [speculation.verify(r, 5, 5 + s, DRAFTS) for r in range(requests) for s in range(steps)]


def test_some_drafts_are_accepted_and_some_are_not(policy: AcceptancePolicy) -> None:
    found = verify(policy)
    assert all(type(a) is int and 0 <= a <= DRAFTS for a in found)
    assert 0 < sum(found) < DRAFTS * len(found)


def test_never_more_than_were_drafted(policy: AcceptancePolicy) -> None:
    speculation = Speculation(DRAFTS, policy, 3)
    for drafts in range(DRAFTS + 1):
        assert all(speculation.verify(r, 5, 9, drafts) <= drafts for r in range(200))


def test_the_verdict_depends_on_request_and_step_and_on_no_order(policy: AcceptancePolicy) -> None:
    one_by_one = {(r, s): (r, s) for r in range(30) for s in range(10)}
    first, second = Speculation(DRAFTS, policy, 7), Speculation(DRAFTS, policy, 7)
    by_request = {key: first.verify(key[0], 5, 5 + key[1], DRAFTS) for key in one_by_one}
    in_turns = {(r, s): second.verify(r, 5, 5 + s, DRAFTS) for s in range(10) for r in reversed(range(30))}
    assert by_request == in_turns


def test_another_seed_is_another_run(policy: AcceptancePolicy) -> None:
    assert verify(policy, seed=1) == verify(policy, seed=1)
    assert verify(policy, seed=1) != verify(policy, seed=2)


def test_a_run_with_it_is_served_to_its_end(
    stated: dict[str, Any], clusters: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "measured.csv").write_text("counts\n10\n5\n5\n0\n2\n")
    speculative = {"method": "eagle", "num_speculative_tokens": DRAFTS, "acceptance": dict(stated)}
    if "path" in stated:
        speculative["acceptance"] |= {"path": str(tmp_path / "measured.csv")}
    result = simulate(
        clusters(serving={"speculative_config": speculative}),
        GeneratorSpec(20, UniformLength(1, 60), UniformLength(1, 60), seed=2),
    )
    assert result.summary["requests"]["finished"] == 20
    assert 1 < result.summary["speculative_decoding"]["mean_acceptance_length"] < 1 + DRAFTS


class Boastful:
    """Claims more than was drafted."""

    def __init__(self, num_speculative_tokens: int) -> None:
        pass

    def num_accepted(self, verification: Verification) -> int:
        return verification.num_drafts + 1


def test_a_policy_that_accepts_what_was_not_drafted_ends_the_run() -> None:
    policy = make_acceptance({"policy": f"{__name__}:Boastful"}, 2, Path())
    with pytest.raises(PluginError, match=r"'Boastful': expected a whole number from 0 to 2 .* request 8, got 3"):
        Speculation(2, policy, 0).verify(8, 5, 5, 2)


@pytest.mark.parametrize(
    ("stated", "error", "message"),
    [
        ({}, ConfigError, "key 'policy', one of decaying, fixed, table"),
        ({"policy": "fixd", "rate": 1.0}, PluginError, "acceptance: 'fixd' is unknown .did you mean 'fixed'"),
        ({"policy": "fixed"}, PluginError, "'fixed' cannot be built .* 'rate'"),
        ({"policy": "fixed", "rate": 1.5}, ConfigError, "rate: expected a number from 0 to 1, got 1.5"),
        ({"policy": "fixed", "rate": "x"}, ConfigError, "rate: expected a number from 0 to 1, got 'x'"),
        ({"policy": "decaying", "rate": 0.5, "decay": 2}, ConfigError, "decay: expected a number from 0 to 1, got 2"),
        ({"policy": "table"}, ConfigError, "table: expected one of conditional, counts, path, per_position, got none"),
        ({"policy": "table", "counts": [1], "path": "a"}, ConfigError, "got counts, path"),
        ({"policy": "table", "conditional": [0.5]}, ConfigError, "expected 4 numbers of conditional .* got 1"),
        ({"policy": "table", "conditional": [1.5] * 4}, ConfigError, "probabilities from 0 to 1"),
        ({"policy": "table", "conditional": 3}, ConfigError, "conditional: expected a list of numbers"),
        ({"policy": "table", "per_position": [0.2, 0.3, 0.1, 0.1]}, ConfigError, "shares that never rise"),
        ({"policy": "table", "counts": [1, 1, 1, 1]}, ConfigError, "expected 5 numbers of counts .* got 4"),
        ({"policy": "table", "counts": [0] * 5}, ConfigError, "at least one count above 0"),
        ({"policy": "table", "path": "absent.csv"}, ConfigError, "absent.csv: cannot be read"),
        ({"policy": f"{__name__}:DRAFTS"}, PluginError, "cannot be built|is not callable"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(
    stated: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        make_acceptance(stated, DRAFTS, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", ":1: expected one column"), ("a,b\n1,2\n", "got 'a,b'"), ("counts\nx\n", "expected a number in every line")],
)
def test_what_is_wrong_with_a_table_file_is_said(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        make_acceptance({"policy": "table", "path": "table.csv"}, DRAFTS, tmp_path)
