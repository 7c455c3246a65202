"""How far a calibrated roofline is off a model that it was not fitted to, on bundles measured on real devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmservingsim.config.catalog import find_accelerator
from llmservingsim.latency import SHIPPED
from llmservingsim.latency.demand import CHUNKS, DECODES, PRODUCTS
from llmservingsim.latency.measured import Measured, find_bundles
from llmservingsim.latency.models_left_out import LeftOut, leave_out

DENSE = ("Qwen/Qwen3-32B", "meta-llama/Llama-3.1-8B")
SHIPPED_MEAN_PCT = {PRODUCTS: 11.0, CHUNKS: 14.0, DECODES: 14.0}
"""Present values of the worst: 8.0 (A100), 10.7 (H100), 9.8 (A100)."""

MEASURED_MEAN_PCT = {PRODUCTS: 11.0, CHUNKS: 7.0, DECODES: 6.0}
"""Present values of the worst: 8.1 (Llama), 4.8 and 4.0 (Qwen)."""

ITERATION_PCT = 15.0
"""Present value of the worst: 9.5 on the bundles that ship, 6.9 on those measured on a server."""


def left_out(root: Path, hardware: str, model: str) -> LeftOut:
    accelerator = find_accelerator(hardware)
    return leave_out(Measured.read(find_bundles((root,), hardware), accelerator), model)


def check(found: LeftOut, most_pct: dict[str, float]) -> None:
    errors = {of.operator_class: of for of in found.classes}
    for name, most in most_pct.items():
        error = errors[name].calibrated
        assert error is not None
        assert error.mean < most, name
        assert error.mean < errors[name].roofline.mean, name
    assert max(abs(of.calibrated_pct) for of in found.iterations) < ITERATION_PCT


@pytest.mark.parametrize("hardware", ["A100", "H100", "H200", "B200"])
@pytest.mark.parametrize("model", DENSE)
def test_a_dense_model_is_predicted_by_the_others_that_ship(hardware: str, model: str) -> None:
    check(left_out(SHIPPED, hardware, model), SHIPPED_MEAN_PCT)


@pytest.mark.parametrize("model", DENSE)
def test_a_dense_model_is_predicted_by_others_measured_on_a_server(shared: Path, model: str) -> None:
    check(left_out(shared / "data" / "profiles", "RTXPRO6000", model), MEASURED_MEAN_PCT)
