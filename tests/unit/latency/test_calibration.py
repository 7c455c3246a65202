"""A roofline fitted to bundles finds what made them, says what it was fitted to, and takes nothing else."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from measured_device import (
    COMPUTE,
    DECODE_LAUNCH_US,
    DECODE_MEMORY,
    DEVICE,
    ELEMENTWISE_LAUNCH_US,
    ELEMENTWISE_MEMORY,
    LAUNCH_US,
    MEMORY,
    chunk_us,
    decode_us,
    norm_us,
    product_us,
    write_device,
)
from synthetic_bundle import batch

from llmservingsim.config.catalog import find_model
from llmservingsim.errors import ConfigError, ProfileError
from llmservingsim.latency import CalibratedRoofline, RooflineSource, fitted
from llmservingsim.latency.calibration import Fit, calibrate
from llmservingsim.latency.demand import HEAD, PRODUCTS
from llmservingsim.latency.least_squares import fit_positive
from llmservingsim.latency.measured import Measured, find_bundles
from llmservingsim.latency.models_left_out import leave_out
from llmservingsim.latency.tiles import LogGrid
from llmservingsim.model import ParallelLayout

MEASURED = ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-14B")
UNMEASURED = find_model("meta-llama/Llama-3.2-3B")

FOUND = 0.02
"""A figure is found within this share: the formula has more terms than the bundles show, which share what is left."""


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    for name in MEASURED:
        write_device(folder, name, from_roofline=["final_layernorm"])
    return folder


@pytest.fixture(scope="module")
def fit(profiles: Path) -> Fit:
    return fitted((profiles,), "H100", "bf16", (), DEVICE)


@pytest.fixture(scope="module")
def source(fit: Fit) -> CalibratedRoofline:
    return CalibratedRoofline(UNMEASURED, ParallelLayout(), DEVICE, fit)


def test_the_figures_that_made_a_bundle_are_found_again(fit: Fit) -> None:
    figures = fit.calibration.named_figures()
    assert figures[PRODUCTS]["compute"] == pytest.approx(COMPUTE, rel=FOUND)
    assert figures[PRODUCTS]["memory"] == pytest.approx(MEMORY, rel=FOUND)
    assert figures["layernorm"]["launch_ns"] == pytest.approx(1e3 * ELEMENTWISE_LAUNCH_US, rel=FOUND)
    assert figures["layernorm"]["memory"] == pytest.approx(ELEMENTWISE_MEMORY, rel=FOUND)
    assert figures["attention, decodes"]["launch_ns"] == pytest.approx(1e3 * DECODE_LAUNCH_US, rel=FOUND)
    assert figures["attention, decodes"]["memory"] == pytest.approx(DECODE_MEMORY, rel=FOUND)
    assert figures["attention, chunks"]["active_tile_ns"] == pytest.approx(4.0, rel=FOUND)


@pytest.mark.parametrize("tokens", [1, 100, 700, 3000])
def test_a_model_that_nobody_measured_takes_what_the_device_would(source: CalibratedRoofline, tokens: int) -> None:
    hidden, mlp = UNMEASURED.hidden_size, UNMEASURED.intermediate_size
    shape = batch([(tokens, 0)])
    told = {
        "down_proj": product_us(tokens, mlp, hidden),
        "gate_up_proj": product_us(tokens, hidden, 2 * mlp),
        "layernorm": norm_us(tokens, hidden),
        "lm_head": product_us(1, hidden, UNMEASURED.vocab_size),
    }
    for operator, expected_us in told.items():
        assert source.latency_ns(operator, shape) == pytest.approx(1e3 * expected_us, rel=FOUND), operator


def test_its_attention_counts_its_own_heads(source: CalibratedRoofline) -> None:
    heads, kv_heads, size = UNMEASURED.num_heads, UNMEASURED.num_kv_heads, UNMEASURED.head_dim
    decodes = source.latency_ns("attention", batch(decodes=[500] * 40))
    chunk = source.latency_ns("attention", batch([(1500, 0)]))
    assert decodes == pytest.approx(1e3 * decode_us(40, 500, heads, kv_heads, size), rel=FOUND)
    assert chunk == pytest.approx(1e3 * chunk_us(1, 1500, 0, heads), rel=FOUND)
    together = source.latency_ns("attention", batch([(1500, 0)], [500] * 40))
    assert together == pytest.approx(chunk + decodes, abs=1)  # each is rounded


def test_two_ranks_do_half_of_the_work_and_start_it_twice(fit: Fit) -> None:
    halves = CalibratedRoofline(UNMEASURED, ParallelLayout(tp=2), DEVICE, fit)
    expected_us = product_us(2000, UNMEASURED.intermediate_size // 2, UNMEASURED.hidden_size)
    assert halves.latency_ns("down_proj", batch([(2000, 0)])) == pytest.approx(1e3 * expected_us, rel=FOUND)


@pytest.mark.parametrize("operator", ["qkv_proj", "down_proj", "layernorm"])
def test_more_tokens_never_take_less(source: CalibratedRoofline, operator: str) -> None:
    times = [source.latency_ns(operator, batch([(n, 0)])) for n in range(1, 9000, 7)]
    assert all(low <= high for low, high in pairwise(times))


def test_what_the_bundle_took_from_a_roofline_is_no_measurement(source: CalibratedRoofline, fit: Fit) -> None:
    plain = RooflineSource(UNMEASURED, ParallelLayout(), DEVICE)
    shape = batch([(700, 0)])
    assert "final_layernorm" not in fit.calibration.figures
    assert source.latency_ns("final_layernorm", shape) == plain.latency_ns("final_layernorm", shape)
    assert source.latency_ns("layernorm", shape) != plain.latency_ns("layernorm", shape)


def test_provenance_says_what_was_fitted_to_what_and_what_stayed_plain(source: CalibratedRoofline) -> None:
    told: Any = source.provenance()
    assert (told["source"], told["is_measured"], told["fitted_to"]) == ("calibrated", False, sorted(MEASURED))
    assert [path[-4:] for path in told["bundles"]] == ["/tp1", "/tp1"]
    assert told["roofline_operators"] == ["act_fn", "embedding", "final_layernorm", "rotary_emb", "sampler"]
    assert told["figures"][PRODUCTS]["launch_ns"] == pytest.approx(1e3 * LAUNCH_US, rel=0.1)
    assert told["fit_error_pct"][PRODUCTS]["mean"] < 1.0
    assert told["fit_error_pct"][HEAD]["points"] == 14


def test_latent_attention_stays_plain_because_nobody_measured_it(fit: Fit) -> None:
    model = find_model("deepseek-ai/DeepSeek-V3")
    source, plain = (make(model, ParallelLayout(tp=8)) for make in (lambda *a: CalibratedRoofline(*a, DEVICE, fit),
                                                                   lambda *a: RooflineSource(*a, DEVICE)))  # fmt: skip
    shape = batch(decodes=[900] * 8)
    assert source.latency_ns("attention", shape) == plain.latency_ns("attention", shape)
    assert "attention" in source.provenance()["roofline_operators"]


def test_bundles_of_the_precision_asked_for_come_first(profiles: Path, tmp_path: Path) -> None:
    write_device(tmp_path, MEASURED[0])
    write_device(tmp_path, MEASURED[1], variant="fp16", slower=2.0)
    for variant, models in (("bf16", 1), ("fp16", 1), ("fp8", 2)):
        assert len(fitted((tmp_path,), "H100", variant, (), DEVICE).bundles) == models


def test_a_bundle_of_another_precision_has_the_bytes_of_that(tmp_path: Path) -> None:
    write_device(tmp_path, MEASURED[0], variant="fp32", slower=2.0)
    assert find_bundles((tmp_path,), "H100")[0].model.dtype_bytes == 4
    figures = fitted((tmp_path,), "H100", "fp32", (), DEVICE).calibration.named_figures()
    assert figures["layernorm"]["memory"] == pytest.approx(ELEMENTWISE_MEMORY, rel=FOUND)  # twice the bytes and times


def test_instances_on_the_same_device_share_one_fit(profiles: Path) -> None:
    assert fitted((profiles,), "H100", "bf16", (), DEVICE) is fitted([profiles], "H100", "bf16", [], DEVICE)
    slower = msgspec.structs.replace(DEVICE, memory_bandwidth=DEVICE.memory_bandwidth / 2)
    own = fitted((profiles,), "H100", "bf16", (), slower).calibration.named_figures()
    assert own[PRODUCTS]["memory"] == pytest.approx(2 * MEMORY, rel=0.05)  # the same times, of half the bandwidth


def test_a_bundle_of_other_hardware_is_refused(profiles: Path) -> None:
    with pytest.raises(ProfileError, match=r"no bundle of a known model on H200 \(did you mean 'H100'\?\); .*H100"):
        fitted((profiles,), "H200", "bf16", (), DEVICE)


def test_a_model_that_nobody_knows_is_passed_over(tmp_path: Path) -> None:
    write_device(tmp_path, MEASURED[0]).parents[1].rename(tmp_path / "H100/meta-llama/Own-9B")
    with pytest.raises(ProfileError, match="no bundle of a known model on H100"):
        find_bundles((tmp_path,), "H100")


def test_a_folder_that_no_model_can_be_cut_for_is_named(tmp_path: Path) -> None:
    folder = write_device(tmp_path, MEASURED[0])
    folder.rename(folder.with_name("tp2-old"))
    with pytest.raises(ProfileError, match="no bundle of a known model on H100"):
        find_bundles((tmp_path,), "H100")
    folder.with_name("tp2-old").rename(folder.with_name("tp3"))
    with pytest.raises(ConfigError, match=r"bf16/tp3: meta-llama/Llama-3\.1-8B cannot be cut over its ranks: tp 3"):
        find_bundles((tmp_path,), "H100")


def test_a_row_of_no_tokens_is_no_point(tmp_path: Path) -> None:
    folder = write_device(tmp_path, MEASURED[0])
    before = Measured.read(find_bundles((tmp_path,), "H100"), DEVICE).points["layernorm"].seconds
    with (folder / "dense.csv").open("a") as file:
        file.write("layernorm,0,2.0\n")
    after = Measured.read(find_bundles((tmp_path,), "H100"), DEVICE).points["layernorm"].seconds
    assert after.tolist() == before.tolist()


def test_a_torn_meta_file_is_named(tmp_path: Path) -> None:
    (write_device(tmp_path, MEASURED[0]) / "meta.yaml").write_text("from_roofline: 3\n")
    with pytest.raises(ProfileError, match=r"meta\.yaml: expected a table, its from_roofline a list of operators"):
        find_bundles((tmp_path,), "H100")


def test_a_model_left_out_is_predicted_by_the_others(profiles: Path) -> None:
    measured = Measured.read(find_bundles((profiles,), "H100"), DEVICE)
    found = leave_out(measured, MEASURED[0])
    assert found.fitted_to == [MEASURED[1]]
    errors = {of.operator_class: of for of in found.classes}
    assert errors[PRODUCTS].calibrated is not None
    assert errors[PRODUCTS].calibrated.mean < 1.0  # percent: one formula made both
    assert errors[PRODUCTS].roofline.mean > 5.0  # it knows neither launch nor overlap
    assert all(abs(of.calibrated_pct) < 1.0 < abs(of.roofline_pct) for of in found.iterations)


def test_a_point_that_two_models_share_is_left_out_with_either(tmp_path: Path) -> None:
    for name in ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"):
        write_device(tmp_path, name)
    measured = Measured.read(find_bundles((tmp_path,), "H100"), DEVICE)
    assert measured.points[PRODUCTS].owners[0] == {"meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"}
    with pytest.raises(ProfileError, match="no bundle on H100 holds a measured operator"):
        calibrate(measured.without("meta-llama/Llama-3.1-8B"))


def test_a_figure_on_which_nothing_depends_keeps_its_start() -> None:
    size = np.array([1.0, 2.0, 5.0, 9.0])
    found = fit_positive(lambda figures: figures[0] * size, (1.0, 7.0), 30.0 * size)
    assert found.tolist() == pytest.approx([30.0, 7.0], rel=0.01)  # the start of the first weighs 1/500 of the points


def test_many_places_of_a_grid_have_the_values_that_each_has_alone() -> None:
    drawn = np.random.default_rng(3)
    places = np.array([(a, b, c) for a in (1.0, 8.0) for b in (3.0, 30.0, 300.0) for c in (5.0,)])
    grid = LogGrid(places, drawn.normal(size=len(places)), order=(1, 0, 2))
    asked = drawn.uniform(0.0, 400.0, size=(50, 3))
    assert grid.at_each(asked).tolist() == pytest.approx([grid.at(place) for place in asked.tolist()])
