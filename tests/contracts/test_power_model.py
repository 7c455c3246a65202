"""What every power model promises."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim.config.catalog import PowerSpec, catalogued_accelerators
from llmservingsim.errors import PluginError
from llmservingsim.power import POWER_MODELS, PowerModel, Rest, make_power_model

Floats = NDArray[np.float64]


class Sleepy:
    """A user's own: draws half of what it could, and falls asleep in three steps."""

    def __init__(self, power: PowerSpec, sleep_w: float = 5.0) -> None:
        self._power, self._sleep_w = power, sleep_w

    def running_w(self, compute_share: Floats) -> Floats:
        return self._power.active_w * (0.5 + 0.5 * compute_share)

    def resting(self) -> Sequence[Rest]:
        return [Rest(0.0, self._power.active_w / 2), Rest(1.0, self._power.idle_w), Rest(60.0, self._sleep_w)]


POWERS = [entry.power for entry in catalogued_accelerators().values() if entry.power is not None]
ALL: dict[str, Callable[[PowerSpec], PowerModel]] = {
    name: partial(make_power_model, name) for name in (*POWER_MODELS, f"{__name__}:Sleepy")
}


@pytest.fixture(params=list(ALL))
def make(request: pytest.FixtureRequest) -> Callable[[PowerSpec], PowerModel]:
    return ALL[request.param]


def test_power_is_a_number_per_graph_and_never_negative(make: Callable[[PowerSpec], PowerModel]) -> None:
    for power in POWERS:
        for shares in (np.linspace(0, 1, 11), np.zeros(0)):
            drawn = make(power).running_w(shares)
            assert drawn.shape == shares.shape
            assert (drawn >= 0).all()
            assert (drawn <= power.active_w + 1e-9).all()


def test_more_computing_never_draws_less(make: Callable[[PowerSpec], PowerModel]) -> None:
    for power in POWERS:
        assert (np.diff(make(power).running_w(np.linspace(0, 1, 101))) >= -1e-9).all()


def test_computing_all_the_time_draws_the_active_power(make: Callable[[PowerSpec], PowerModel]) -> None:
    for power in POWERS:
        assert make(power).running_w(np.ones(1))[0] == pytest.approx(power.active_w)


def test_rest_begins_at_once_and_goes_on_for_ever(make: Callable[[PowerSpec], PowerModel]) -> None:
    for power in POWERS:
        rests = make(power).resting()
        assert rests[0].after_s == 0
        assert [rest.after_s for rest in rests] == sorted({rest.after_s for rest in rests})
        assert all(rest.watts >= 0 for rest in rests)


def test_questions_are_left_as_they_were(make: Callable[[PowerSpec], PowerModel]) -> None:
    shares = np.linspace(0, 1, 5)
    make(POWERS[0]).running_w(shares)
    assert shares.tolist() == np.linspace(0, 1, 5).tolist()


class Negative(Sleepy):
    def running_w(self, compute_share: Floats) -> Floats:
        return -compute_share


class Endless(Sleepy):
    def resting(self) -> Sequence[Any]:
        return []


@pytest.mark.parametrize(("kind", "told"), [("Negative", "at least 0 W"), ("Endless", "the first at 0 s")])
def test_answers_that_are_no_power_are_refused(kind: str, told: str) -> None:
    with pytest.raises(PluginError, match=told):
        make_power_model(f"{__name__}:{kind}", POWERS[0])


def test_an_unknown_model_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(PluginError, match="did you mean 'states'"):
        make_power_model("state", POWERS[0])


def test_the_utilisation_model_has_the_curve_of_fan_weber_and_barroso() -> None:
    power = PowerSpec(idle_w=100, active_w=300)
    straight, bent = (make_power_model("utilisation", power, {"exponent": r}) for r in (1.0, 1.4))
    assert straight.running_w(np.array([0.5]))[0] == pytest.approx(200)
    assert bent.running_w(np.array([0.5]))[0] == pytest.approx(100 + 200 * (1 - 0.5**1.4))
