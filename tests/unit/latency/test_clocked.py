"""Under a power cap the clock falls, and what arithmetic bounds takes longer."""

from typing import Any

import pytest

from llmservingsim import Run
from llmservingsim.config.catalog import PowerSpec, find_accelerator, find_model
from llmservingsim.errors import ConfigError
from llmservingsim.latency import ExpertLatencySource, RooflineSource, at_clock
from llmservingsim.model import ParallelLayout
from llmservingsim.power import capped, clock_under
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.workload import RequestSpec

POWER = PowerSpec(idle_w=100, standby_w=150, standby_duration_s=1, active_w=500, dynamic_exponent=3, min_clock=0.5)
PROMPT = BatchShape((Chunk(4096, 0),), 0, 0, 0, 4096)
DECODE = BatchShape((), 1, 512, 512, 1)


def roofline(model: str = "meta-llama/Llama-3.1-8B") -> RooflineSource:
    return RooflineSource(find_model(model), ParallelLayout(), find_accelerator("H100"))


def test_the_clock_solves_the_formula() -> None:
    """100 + 400 c^3 = 304.8 at c = 0.8."""
    assert clock_under(POWER, 304.8) == pytest.approx(0.8)
    assert clock_under(POWER, 500) == clock_under(POWER, 900) == 1.0
    assert capped(POWER, 0.8).active_w == pytest.approx(304.8)
    assert capped(POWER, 1.0) == POWER


def test_standby_does_not_exceed_the_cap() -> None:
    steep = PowerSpec(idle_w=100, standby_w=190, standby_duration_s=1, active_w=500, min_clock=0.5)
    assert capped(steep, 0.5).standby_w == capped(steep, 0.5).active_w == pytest.approx(150)


def test_a_cap_below_the_lowest_clock_is_refused_with_the_least_cap() -> None:
    assert clock_under(POWER, 150) == pytest.approx(0.5)
    with pytest.raises(ConfigError, match=r"150\.0 W; expected at least that, got 149 W"):
        clock_under(POWER, 149)


def test_products_of_a_prompt_take_longer_by_the_clock_and_those_of_one_token_do_not() -> None:
    full = roofline()
    slow = at_clock(full, full, 0.8)
    for operator in ("qkv_proj", "gate_up_proj", "attention"):
        assert slow.latency_ns(operator, PROMPT) == pytest.approx(full.latency_ns(operator, PROMPT) / 0.8, rel=1e-3)
        assert slow.latency_ns(operator, DECODE) == full.latency_ns(operator, DECODE)
    assert slow.provenance()["clock"] == 0.8


def test_other_sources_are_slowed_by_the_same_ratio() -> None:
    class Own:
        def latency_ns(self, operator: str, shape: BatchShape) -> int:
            return 10_000_000

        def provenance(self) -> dict[str, object]:
            return {}

    slow = at_clock(Own(), roofline(), 0.5)
    assert slow.latency_ns("gate_up_proj", PROMPT) == 20_000_000
    assert slow.latency_ns("gate_up_proj", DECODE) == 10_000_000
    assert not isinstance(slow, ExpertLatencySource)


def test_experts_are_slowed_too() -> None:
    full = roofline("Qwen/Qwen3-30B-A3B")
    slow = at_clock(full, full, 0.5)
    assert isinstance(slow, ExpertLatencySource)
    import numpy as np

    from llmservingsim.latency import ExpertWork

    many = ExpertWork(65536, 65536, np.full((1, 1), 8.0 * 65536), np.full((1, 1), 128.0))
    few = ExpertWork(1, 1, np.full((1, 1), 8.0), np.full((1, 1), 8.0))
    assert slow.moe_latency_ns(many)[0, 0] == pytest.approx(2 * full.moe_latency_ns(many)[0, 0], rel=1e-3)
    assert slow.moe_latency_ns(few)[0, 0] == full.moe_latency_ns(few)[0, 0]


def serve(cap: str | None, node: str | None = None, prompt: int = 4096, output: int = 2) -> Any:
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100", "power_cap": cap}
    made = Run(
        {"nodes": [{"instances": [instance], "power": {"power_cap": node}}]}, [RequestSpec(0, 0, prompt, output)]
    )
    return made.execute().summary


def test_a_cap_costs_prompts_time_and_decodes_none() -> None:
    free, cap = serve(None, output=50), serve("300W", output=50)
    assert cap["latency_ms"]["ttft"]["mean"] > 1.2 * free["latency_ms"]["ttft"]["mean"]
    assert cap["latency_ms"]["itl"]["p50"] < 1.02 * free["latency_ms"]["itl"]["p50"]
    assert cap["energy_j"]["total"] < 0.6 * free["energy_j"]["total"]
    assert cap["energy_j"]["mean_power_w"] <= 300 + 1e-9
    assert cap["energy_j"]["instances"][0]["clock"] < 1


def test_a_cap_of_the_server_holds_where_the_instance_has_none() -> None:
    assert serve(None, "300W")["energy_j"] == serve("300W")["energy_j"] == serve("300W", "700W")["energy_j"]


def test_a_cap_that_no_clock_keeps_names_its_instance() -> None:
    with pytest.raises(ConfigError, match=r"nodes\[0\]\.instances\[0\]: power_cap: at its lowest clock"):
        serve("80W")
