"""How often a shot is repeated, what its samples say, and power where it can be read."""

import itertools
import sys
import time
from types import SimpleNamespace

import pytest

from llmservingsim.profiler.power import PowerMeter
from llmservingsim.profiler.sampling import Effort, Samples, measure


def test_noise_is_the_standard_error_of_the_median_of_normal_samples() -> None:
    """Of the quantiles of a normal distribution with sigma 10 % around 100: 1.2533 * 10 % / sqrt(n), 2 % for few n."""
    from statistics import NormalDist

    times = [NormalDist(100, 10).inv_cdf((i + 0.5) / 400) for i in range(400)]
    samples = Samples.of(times)
    assert samples.median == pytest.approx(100)
    assert samples.noise == pytest.approx(1.2533 * 0.1 / 20, rel=0.02)


def test_a_steady_shot_is_repeated_as_often_as_must_be_and_a_noisy_one_as_may_be() -> None:
    effort = Effort(noise=0.01, least=5, most=40, seconds=60, warmup=1)
    assert measure(lambda: {"a": 2.0, "b": 1.0}, effort)["a"].passes == 5
    noisy = itertools.cycle([1.0, 3.0])
    assert measure(lambda: {"a": next(noisy)}, effort)["a"].passes == 40


def test_a_slow_shot_is_given_up_after_three_passes_once_its_time_is_over() -> None:
    slow = itertools.cycle([1.0, 3.0])

    def run() -> dict[str, float]:
        time.sleep(0.01)
        return {"a": next(slow)}

    assert measure(run, Effort(noise=0.001, seconds=0.001, warmup=0))["a"].passes == 3


def test_warm_up_does_not_count() -> None:
    times = iter([100.0, *[1.0] * 9])
    found = measure(lambda: {"a": next(times)}, Effort(least=3, warmup=1))
    assert (found["a"].median, found["a"].high) == (1.0, 1.0)


def test_power_is_read_while_a_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count(100_000, 50_000)
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetPowerUsage=lambda handle: next(readings),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("llmservingsim.profiler.power._PERIOD_S", 0.001)
    meter = PowerMeter("cuda")
    assert meter.read_w() == 100.0
    with meter:
        while len(meter._samples) < 2:
            time.sleep(0.001)
    assert meter.mean_w is not None
    assert meter.mean_w >= 175.0


def test_without_nvml_or_on_a_cpu_there_is_no_power(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for device in ("cuda", "cpu"):
        with PowerMeter(device) as meter:
            assert not meter.is_there
        assert (meter.mean_w, meter.read_w()) == (None, None)
