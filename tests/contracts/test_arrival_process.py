"""What every arrival process keeps: whole gaps, no end, chance from one source, and the rate it was given.

The statistical checks draw `DRAWS` gaps with a fixed seed and accept four standard errors either way: a right process
fails one seed in 16,000 (two-sided, 6.3e-5).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest

from llmservingsim.errors import PluginError, WorkloadError
from llmservingsim.workload import (
    ARRIVAL_PROCESSES,
    ArrivalProcess,
    ArrivalSpec,
    FixedLength,
    GeneratorSpec,
    generate,
    make_arrival_process,
)

DRAWS = 20_000
RATE = 12.5
MEAN_NS = 1e9 / RATE
STANDARD_ERRORS = 4


class Pulses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's own process: ``size`` requests at once, then a pause that keeps the rate."""

    request_rate: float
    size: int = 4

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:
        while True:
            yield round(self.size * 1e9 / self.request_rate)
            yield from [0] * (self.size - 1)


@dataclass(frozen=True)
class UniformGaps:
    """A user's own process, as a dataclass."""

    request_rate: float

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[int]:
        while True:
            yield int(rng.integers(0, round(2e9 / self.request_rate)))


class Runaway(msgspec.Struct, frozen=True):
    """Breaks the contract: its gaps are those of ``gaps``, and then it ends."""

    gaps: list[Any]

    def gaps_ns(self, rng: np.random.Generator) -> Iterator[Any]:
        return iter(self.gaps)


class NoOptions:
    """Breaks the contract: nothing says which options it takes."""


RATED = [
    pytest.param(ArrivalSpec("poisson", {"request_rate": RATE}), 1.0, id="poisson"),
    pytest.param(ArrivalSpec("gamma", {"request_rate": RATE}), 1.0, id="gamma"),
    pytest.param(ArrivalSpec("gamma", {"request_rate": RATE, "burstiness": 0.25}), 2.0, id="gamma-bursty"),
    pytest.param(ArrivalSpec("gamma", {"request_rate": RATE, "burstiness": 4}), 0.5, id="gamma-even"),
    pytest.param(ArrivalSpec("fixed", {"request_rate": RATE}), 0.0, id="fixed"),
    pytest.param(ArrivalSpec(f"{__name__}:Pulses", {"request_rate": RATE}), math.sqrt(3), id="own-struct"),
    pytest.param(ArrivalSpec(f"{__name__}:UniformGaps", {"request_rate": RATE}), 1 / math.sqrt(3), id="own-dataclass"),
]
ALL = [*RATED, pytest.param(ArrivalSpec(), 0.0, id="all-at-once")]


def gaps(spec: ArrivalSpec, count: int = DRAWS, seed: int = 1) -> list[int]:
    return list(islice(make_arrival_process(spec).gaps_ns(np.random.default_rng(seed)), count))


@pytest.mark.parametrize(("spec", "cv"), ALL)
def test_gaps_are_whole_and_not_negative_and_never_end(spec, cv):
    drawn = gaps(spec)
    assert len(drawn) == DRAWS
    assert all(type(gap) is int and gap >= 0 for gap in drawn)


@pytest.mark.parametrize(("spec", "cv"), ALL)
def test_the_same_seed_gives_the_same_gaps_and_draws_leave_no_trace(spec, cv):
    process = make_arrival_process(spec)
    first, second = (list(islice(process.gaps_ns(np.random.default_rng(7)), 100)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("spec", "cv"), RATED)
def test_the_mean_gap_is_the_inverse_of_the_rate(spec, cv):
    """The standard error of a mean of n gaps with coefficient of variation cv is cv * mean / sqrt(n).

    One gap is allowed on top, for the processes that have no spread: rounding to whole ns.
    """
    error_ns = abs(sum(gaps(spec)) / DRAWS - MEAN_NS)
    assert error_ns <= STANDARD_ERRORS * cv * MEAN_NS / math.sqrt(DRAWS) + 1


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_coefficient_of_variation_of_their_burstiness(burstiness):
    """For gamma gaps of shape k, cv is k^-1/2 and by the delta method its estimate has the variance

    cv^2 (cv^2 - skewness * cv + (kurtosis - 1) / 4) / n with skewness 2 k^-1/2 and kurtosis 3 + 6/k, which is
    cv^2 (1/2 + 1/(2k)) / n.
    """
    drawn = np.array(gaps(ArrivalSpec("gamma", {"request_rate": RATE, "burstiness": burstiness})))
    cv = burstiness**-0.5
    standard_error = cv * math.sqrt((0.5 + 0.5 / burstiness) / DRAWS)
    assert abs(drawn.std() / drawn.mean() - cv) <= STANDARD_ERRORS * standard_error


def test_poisson_gaps_are_exponential_and_do_not_know_each_other():
    """P(gap > x means) = exp(-x), a binomial share; the lag-1 correlation of independent gaps has error n^-1/2."""
    drawn = np.array(gaps(ArrivalSpec("poisson", {"request_rate": RATE})))
    for x in (0.1, 0.5, 1.0, 2.0, 4.0):
        p = math.exp(-x)
        assert abs((drawn > x * MEAN_NS).mean() - p) <= STANDARD_ERRORS * math.sqrt(p * (1 - p) / DRAWS)
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) <= STANDARD_ERRORS / math.sqrt(DRAWS)


def test_fixed_arrivals_do_not_drift():
    """A third of a second is no whole number of ns: request k arrives at k/3 s, rounded once."""
    arrivals = np.cumsum(gaps(ArrivalSpec("fixed", {"request_rate": 3}), 30_000))
    assert arrivals[29_999] == 10_000 * 10**9
    assert arrivals[0] == 333_333_333


@pytest.mark.parametrize("process", sorted(set(ARRIVAL_PROCESSES) - {"all_at_once"}))
def test_an_infinite_rate_lets_all_arrive_at_once(process):
    assert gaps(ArrivalSpec(process, {"request_rate": math.inf}), 5000) == [0] * 5000


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ArrivalSpec("poison", {}), r"'poison' is unknown \(did you mean 'poisson'\?\)"),
        (ArrivalSpec(f"{__name__}:NoOptions"), "is no msgspec Struct or dataclass"),
        (ArrivalSpec(f"{__name__}:Nothing"), "has no 'Nothing'"),
    ],
)
def test_a_name_that_leads_nowhere_is_a_plugin_error(spec, message):
    with pytest.raises(PluginError, match=message):
        make_arrival_process(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ArrivalSpec("poisson"), "arrival 'poisson': the arrival process lacks the key 'request_rate'"),
        (ArrivalSpec("poisson", {"request_rat": 1}), r"unknown option 'request_rat' \(did you mean 'request_rate'\?\)"),
        (ArrivalSpec("gamma", {"request_rate": 0}), "request_rate: expected float >= 1e-06, got 0"),
        (ArrivalSpec("gamma", {"request_rate": 1, "burstiness": -1}), "burstiness: expected float >= 0.001, got -1"),
        (ArrivalSpec("all_at_once", {"request_rate": 1}), "unknown option 'request_rate'; it takes none"),
        (ArrivalSpec(f"{__name__}:UniformGaps", {"rate": 1}), "unknown option 'rate'"),
    ],
)
def test_a_wrong_option_is_named(spec, message):
    with pytest.raises(WorkloadError, match=message):
        make_arrival_process(spec)


@pytest.mark.parametrize("bad", [[5, -1], [5, 0.5], [5]])
def test_a_process_that_breaks_the_contract_is_stopped(bad):
    arrival = ArrivalSpec(f"{__name__}:Runaway", {"gaps": bad})
    requests = generate(
        GeneratorSpec(num_requests=3, input_length=FixedLength(1), output_length=FixedLength(1), arrival=arrival)
    )
    assert next(requests).arrival_ns == 5
    with pytest.raises(WorkloadError, match="expected a gap of 0 ns or more for every request, got"):
        list(requests)


def test_the_built_ins_satisfy_the_protocol_for_the_type_checker():
    made: list[ArrivalProcess] = [make_arrival_process(spec.values[0]) for spec in ALL]
    assert all(callable(process.gaps_ns) for process in made)
