"""What every expert router keeps: whole tokens, repeatable draws, a shape; and what the built-in ones promise."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import comb, sqrt
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.trace.experts import (
    EXPERT_ROUTERS,
    BalancedRouter,
    ExpertGeometry,
    ExpertRouter,
    ExpertRouting,
    ExpertSplit,
    place_copies,
    place_experts,
)
from llmservingsim.trace.experts.policies import visit_shares

GEOMETRY = ExpertGeometry(layers=(1, 2, 5), num_experts=8, experts_per_token=3, seed=7)
TOKENS = st.integers(1, 40_000)


class NeighboursRouter:
    """A user's own: the tokens of layer l visit the experts l, l + 1 and l + 2."""

    def __init__(self, geometry: ExpertGeometry) -> None:
        layers, experts = geometry.shape
        distance = (np.arange(experts) - np.arange(layers)[:, None]) % experts
        self._visits = (distance < geometry.experts_per_token).astype(int)

    def split(self, tokens: int) -> ExpertSplit:
        return ExpertSplit(tokens * self._visits)

    def shares(self) -> np.ndarray:
        return self._visits + 0.01


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A histogram and recorded routes."""
    folder = tmp_path_factory.mktemp("experts")
    rows = [f"{layer},{e},{10 * e + layer}" for layer in GEOMETRY.layers for e in range(8)]
    (folder / "histogram.csv").write_text("\n".join(["layer,expert,tokens", *rows]) + "\n")
    draw = np.random.default_rng(0)
    routes = [[draw.permutation(8)[:3].tolist() for _ in GEOMETRY.layers] for _ in range(50)]
    (folder / "routes.jsonl").write_text("".join(json.dumps(token) + "\n" for token in routes))
    np.save(folder / "routes.npy", np.array(routes))
    return folder


MAKERS: dict[str, Callable[[Path], ExpertRouter]] = {
    "balanced": lambda _: EXPERT_ROUTERS["balanced"](GEOMETRY),
    "random": lambda _: EXPERT_ROUTERS["random"](GEOMETRY),
    "round_robin": lambda _: EXPERT_ROUTERS["round_robin"](GEOMETRY),
    "zipf": lambda _: EXPERT_ROUTERS["skewed"](GEOMETRY, exponent=1.2),
    "histogram": lambda f: EXPERT_ROUTERS["skewed"](GEOMETRY, path=f / "histogram.csv"),
    "replayed": lambda f: EXPERT_ROUTERS["replayed"](GEOMETRY, path=f / "routes.jsonl"),
    "replayed array": lambda f: EXPERT_ROUTERS["replayed"](GEOMETRY, path=f / "routes.npy"),
    "own": lambda _: NeighboursRouter(GEOMETRY),
}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def make(request: pytest.FixtureRequest, files: Path) -> Callable[[], ExpertRouter]:
    return lambda: MAKERS[request.param](files)


@settings(max_examples=30, deadline=None)
@given(tokens=TOKENS)
def test_no_pair_is_lost_and_no_expert_has_more_than_one_per_token(make, tokens):
    pairs = make().split(tokens).pairs
    assert pairs.shape == GEOMETRY.shape
    assert pairs.sum(axis=1) == pytest.approx(np.full(3, 3.0 * tokens))
    assert pairs.min() >= 0
    assert pairs.max() <= tokens * (1 + 1e-12)


def test_the_same_seed_splits_alike_whatever_the_process_did_before(make):
    first, second = make(), make()
    for tokens in (5, 1, 300, 5, 20_000):
        assert (first.split(tokens).pairs == second.split(tokens).pairs).all()


def test_counts_are_whole_and_expectations_depend_on_the_number_of_tokens_alone(make):
    router = make()
    first, _, again = router.split(11), router.split(3), router.split(11)
    if first.is_expectation:
        assert (first.pairs == again.pairs).all()
    else:
        assert (first.pairs == np.rint(first.pairs)).all()


@settings(max_examples=25, deadline=None)
@given(tokens=TOKENS, parts=st.sampled_from([1, 2, 4, 8]), redundant=st.sampled_from([0, 8]))
def test_ranks_share_all_pairs_and_activate_at_most_what_they_hold(make, tokens, parts, redundant):
    router = make()
    shares = router.shares()
    held = place_copies(shares, redundant, parts) if redundant else place_experts("round_robin", 8, parts)
    load, _ = ExpertRouting(GEOMETRY, router, held).load(tokens)
    assert load.pairs.shape == load.activated_experts.shape == (3, parts)
    assert load.pairs.sum(axis=1) == pytest.approx(np.full(3, 3.0 * tokens))
    assert (load.activated_experts <= held.sum(axis=2) + 1e-9).all()
    assert (load.activated_experts <= load.pairs + 1e-9).all()
    assert (load.activated_experts.sum(axis=1) <= 8 + redundant).all()


def test_balanced_is_the_expectation_of_distinct_draws_written_out() -> None:
    """Of 3 draws of 2 of 4 experts one misses a given expert with 1/2, so none visits it with 1/8."""
    geometry = ExpertGeometry((0,), 4, 2)
    routing = ExpertRouting(geometry, BalancedRouter(geometry), place_experts("linear", 4, 2))
    load, is_expectation = routing.load(3)
    assert is_expectation
    assert load.pairs.tolist() == [[3.0, 3.0]]
    assert load.activated_experts.tolist() == [[2 * 7 / 8, 2 * 7 / 8]]


@pytest.mark.parametrize("tokens", [1, 4, 30, 20_000])
def test_random_draws_have_the_mean_and_spread_of_independent_tokens(tokens: int) -> None:
    """Over n draws a mean lies within 5 standard errors (two-sided error 6e-7 each, 24 experts): Binomial(T, k/E)."""
    draws, chance = 4000, 3 / 8
    router = EXPERT_ROUTERS["random"](GEOMETRY)
    pairs = np.stack([router.split(tokens).pairs for _ in range(draws)])
    spread = sqrt(tokens * chance * (1 - chance) / draws)
    assert np.abs(pairs.mean(axis=0) - tokens * chance).max() < 5 * spread
    activated = (pairs > 0).mean(axis=0)
    missed = (1 - chance) ** tokens
    assert np.abs(activated - (1 - missed)).max() <= 5 * sqrt(missed * (1 - missed) / draws) + 1e-12
    if 1 < tokens < 1000:  # draws from one pool are independent while its stretches rarely meet
        assert pairs.var(axis=0).mean() == pytest.approx(tokens * chance * (1 - chance), rel=0.05)


def test_random_layers_differ_and_so_do_iterations() -> None:
    router = EXPERT_ROUTERS["random"](GEOMETRY)
    first, second = router.split(50).pairs, router.split(50).pairs
    assert (first[0] != first[1]).any()
    assert (first != second).any()


def test_round_robin_goes_on_from_layer_to_layer() -> None:
    """2 tokens make 6 pairs: experts 0-5, then 6, 7, 0-3, then 4-7, 0, 1."""
    pairs = EXPERT_ROUTERS["round_robin"](GEOMETRY).split(2).pairs.tolist()
    assert pairs == [[1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 1, 1, 1]]


def test_a_histogram_gives_visits_in_its_proportions() -> None:
    """Shares 1 : 1 : 2 of 2 visits are 1/2, 1/2, 1; 1 : 1 : 8 would visit the last twice, so the same."""
    shares = np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 8.0], [0.0, 3.0, 5.0]])
    assert visit_shares(shares, 2).tolist() == [[0.5, 0.5, 1.0], [0.5, 0.5, 1.0], [0.0, 1.0, 1.0]]


def test_zipf_with_exponent_zero_is_balanced() -> None:
    flat, balanced = EXPERT_ROUTERS["skewed"](GEOMETRY, exponent=0), EXPERT_ROUTERS["balanced"](GEOMETRY)
    assert flat.split(9).pairs == pytest.approx(balanced.split(9).pairs)


def test_a_recording_is_played_in_order_and_again_from_its_start(tmp_path: Path) -> None:
    geometry = ExpertGeometry((0,), 3, 1)
    (tmp_path / "r.jsonl").write_text("[[0]]\n[[1]]\n[[1]]\n")
    router = EXPERT_ROUTERS["replayed"](geometry, path=tmp_path / "r.jsonl")
    assert [router.split(n).pairs.tolist() for n in (2, 2, 4)] == [[[1, 1, 0]], [[1, 1, 0]], [[1, 3, 0]]]


def test_placements_are_vllms() -> None:
    assert place_experts("linear", 4, 2).tolist() == [[[1, 1, 0, 0], [0, 0, 1, 1]]]
    assert place_experts("round_robin", 4, 2).tolist() == [[[1, 0, 1, 0], [0, 1, 0, 1]]]


def test_redundant_copies_go_to_the_most_loaded_experts_and_even_out_the_ranks() -> None:
    """Shares 6, 1, 1, 2 with two more copies: 6 becomes 2 + 2 + 2. Heaviest first: ranks 0, 1, 0, then expert 3 to 1;

    the light ones follow, one each: 2 + 2 + 1 and 2 + 2 + 1. Without copies linear placement gives 7 and 3.
    """
    held = place_copies(np.array([[6.0, 1.0, 1.0, 2.0]]), 2, 2)
    assert held.sum(axis=1).tolist() == [[3, 1, 1, 1]]
    assert held.sum(axis=2).tolist() == [[3, 3]]
    assert (held @ np.array([2.0, 1.0, 1.0, 2.0])).tolist() == [[5.0, 5.0]]


def test_a_copy_is_visited_by_its_share_of_the_tokens() -> None:
    """Counts: 3 pairs over 2 copies leave one of them alone with 1/8. Expectations: each of 2 tokens with 1/2 * 1/2."""
    copies = np.array([[2.0, 1.0]])
    assert ExpertSplit(np.array([[3, 0]])).activated(3, copies).tolist() == [[7 / 8, 0.0]]
    assert ExpertSplit(np.array([[1.0, 2.0]]), True).activated(2, copies).tolist() == [[1 - (3 / 4) ** 2, 1.0]]


def test_one_token_visits_what_the_hypergeometric_law_says() -> None:
    """The chance that a token reaches a part with 4 of 8 experts is 1 - C(4, 3) / C(8, 3)."""
    draws = 4000
    router = EXPERT_ROUTERS["random"](GEOMETRY)
    held = place_experts("linear", 8, 2)
    routing = ExpertRouting(GEOMETRY, router, held)
    reached = np.mean([(routing.load(1)[0].pairs > 0).mean() for _ in range(draws)])
    expected = 1 - comb(4, 3) / comb(8, 3)
    assert abs(reached - expected) < 5 * sqrt(expected * (1 - expected) / draws)  # 5 standard errors, 6 per draw


class Lossy:
    def __init__(self, pairs: list[list[float]]) -> None:
        self._pairs = np.array(pairs)

    def split(self, tokens: int) -> ExpertSplit:
        return ExpertSplit(self._pairs)


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([[1, 1]], r"Lossy: expected pairs of shape \(1, 4\), got \(1, 2\)"),
        ([[1, 1, 1, 0]], "Lossy: block 3: 2 tokens make 4 pairs, at most 2 with one expert, got 3"),
        ([[4, 0, 0, 0]], "at most 2 with one expert, got 4, with one from 0 to 4"),
        ([[3, 2, -1, 0]], "with one from -1 to 3"),
    ],
)
def test_an_answer_that_is_none_is_refused(pairs: list[list[float]], said: str) -> None:
    routing = ExpertRouting(ExpertGeometry((3,), 4, 2), Lossy(pairs), place_experts("linear", 4, 1))
    with pytest.raises(PluginError, match=said):
        routing.load(2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"exponent": -1}, "experts.options.exponent: expected a number from 0 to below 100, got -1"),
        ({"exponent": 1, "path": "x"}, "expected either exponent or path, got both"),
        ({"path": "missing.csv"}, "missing.csv: cannot be read: No such file"),
        ({"path": "a,b\n"}, "1: expected the columns layer,expert,tokens, got 'a,b'"),
        ({"path": "layer,expert,tokens\n0,1,5\n"}, "2: expected a layer of 1 to 5, .* got '0,1,5'"),
        ({"path": "layer,expert,tokens\n1,8,5\n"}, "2: .*an expert from 0 to 7"),
        ({"path": "layer,expert,tokens\n1,7,5\n"}, "layer 1 has 1 experts with tokens; expected at least 3"),
    ],
)
def test_wrong_options_of_a_skew_are_refused(tmp_path: Path, options: dict[str, object], said: str) -> None:
    text = str(options.get("path", ""))
    if "\n" in text:
        (tmp_path / "h.csv").write_text(text)
        options = {"path": tmp_path / "h.csv"}
    with pytest.raises(ConfigError, match=said):
        EXPERT_ROUTERS["skewed"](GEOMETRY, **options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"expected an array of \[tokens, 3 layers, 3 experts\]"),
        ("[[0, 1, 2]]\n", r"expected an array of .* got \(1, 1, 3\)"),
        ("[[0, 1, 2], [0, 1, 2], [0, 1]]\n", ":1: expected a list of layers, each a list of experts"),
        ("[[0, 1, 2], [0, 1, 2], [0, 1, 8]]\n", "token 0, layer 5: expected 3 different experts from 0 to 7, got"),
        ("[[0, 1, 2], [0, 2, 2], [0, 1, 3]]\n", "token 0, layer 2: expected 3 different experts"),
    ],
)
def test_a_broken_recording_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=said):
        EXPERT_ROUTERS["replayed"](GEOMETRY, path=tmp_path / "r.jsonl")
