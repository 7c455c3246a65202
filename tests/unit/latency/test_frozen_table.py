"""A user's table frozen into a bundle: the times at the table's own rows, and the roofline where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from synthetic_bundle import batch

from llmservingsim.config import OperatorTableSpec
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ConfigError
from llmservingsim.latency import BundleSource, OperatorTableSource, RooflineSource
from llmservingsim.latency.freeze import write_bundle
from llmservingsim.latency.frozen_table import freeze_table
from llmservingsim.latency.source import ExpertWork
from llmservingsim.model import ParallelLayout

MODEL, H100 = find_model("meta-llama/Llama-3.2-1B"), find_accelerator("H100")
ROOFLINE = RooflineSource(MODEL, ParallelLayout(), H100)

TABLE = """operator,tokens,sequences,kv,time
o_proj,1,,,10
o_proj,200,,,140
norm_a,1,,,3
norm_b,64,,,5
lm_head,4,4,,70
attention,2,2,100,6
attention,8,8,300,34
attention,10,1,10,20
attention,10,1,110,40
attention,30,1,130,200
"""
DECODES = "operator,tokens,sequences,kv,time\nattention,1,1,64,4\nattention,1,1,6400,22\n"


def freeze(folder: Path, text: str = TABLE, model: Any = MODEL, **keys: Any) -> tuple[BundleSource, Any]:
    path = folder / "times.csv"
    path.write_text(text)
    spec = msgspec.convert({"path": "times.csv", **keys}, OperatorTableSpec)
    write_bundle(freeze_table(path, spec, model, ParallelLayout(), H100), H100, folder / "tp1")
    bundle = BundleSource(folder / "tp1", experts_per_token=model.experts_per_token)
    roofline = RooflineSource(model, ParallelLayout(), H100)
    return bundle, OperatorTableSource(path, spec, model, roofline)


@pytest.mark.parametrize(
    ("operator", "shape"),
    [
        *(("o_proj", batch([(tokens, 0)])) for tokens in (2, 100, 200, 1000)),
        *(("layernorm", batch([(tokens, 0)])) for tokens in (2, 64)),
        ("lm_head", batch(decodes=[9] * 4)),
        ("attention", batch(decodes=[100] * 2)),
        ("attention", batch(decodes=[300] * 8)),
        ("attention", batch([(10, 100)])),
        ("attention", batch([(30, 100)])),
        ("attention", batch([(10, 0)], [100, 100])),
    ],
)
def test_the_bundle_says_what_the_table_says_at_its_rows(tmp_path: Path, operator: str, shape: Any) -> None:
    """Two rows that add up have sizes of their own; the bundle has both. Times are written to a tenth of a ns."""
    bundle, table = freeze(tmp_path, operators={"layernorm": ["norm_a", "norm_b"]})
    assert bundle.latency_ns(operator, shape) == pytest.approx(table.latency_ns(operator, shape), abs=1)


def test_an_operator_that_a_neighbour_holds_takes_no_time(tmp_path: Path) -> None:
    bundle, _ = freeze(tmp_path, operators={"act_fn": []})
    assert bundle.latency_ns("act_fn", batch([(2000, 0)])) == 0


def test_what_the_table_lacks_is_the_roofline_s_and_is_named(tmp_path: Path) -> None:
    bundle, _ = freeze(tmp_path, DECODES)
    for operator, shape in (("qkv_proj", batch([(512, 0)])), ("attention", batch([(512, 2048)]))):
        assert bundle.latency_ns(operator, shape) == pytest.approx(ROOFLINE.latency_ns(operator, shape), rel=1e-4)
    meta = (tmp_path / "tp1/meta.yaml").read_text()
    assert "attention_from_roofline:\n- attention of prompts\n" in meta
    assert "from_roofline:\n- embedding\n- layernorm\n" in meta


def test_decodes_of_one_number_of_sequences_still_count_by_their_keys(tmp_path: Path) -> None:
    bundle, table = freeze(tmp_path, DECODES)
    for shape in (batch(decodes=[100] * 16), batch(decodes=[400] * 4), batch(decodes=[1600])):
        assert bundle.latency_ns("attention", shape) == pytest.approx(table.latency_ns("attention", shape), rel=0.01)


def test_experts_come_from_the_roofline(tmp_path: Path) -> None:
    bundle, table = freeze(tmp_path, DECODES, find_model("Qwen/Qwen3-30B-A3B"))
    work = ExpertWork(64, 64, np.array([[512.0]]), np.array([[128.0]]))
    assert bundle.moe_latency_ns(work) == pytest.approx(table.moe_latency_ns(work), rel=1e-4)


def test_a_table_for_other_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the table was made for 2, and the instance has 1"):
        freeze(tmp_path, tensor_parallel_size=2)
