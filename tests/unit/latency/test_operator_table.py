"""A user's table of operator times: what is read, how it is interpolated, what the roofline adds, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from synthetic_bundle import batch

from llmservingsim.config import LatencySpec, OperatorTableSpec
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ConfigError, ProfileError
from llmservingsim.latency import OperatorTableSource, RooflineSource
from llmservingsim.model import ParallelLayout

MODEL = find_model("meta-llama/Llama-3.2-1B")
ROOFLINE = RooflineSource(MODEL, ParallelLayout(), find_accelerator("H100"))
Load = Callable[..., OperatorTableSource]

TABLE = """operator, tokens, sequences, kv, time,
o_proj, 1, , , 10,
o_proj, 100, , , 40,
o_proj, 200, , , 140,
lm_head, 64, 2, , 50,
lm_head, 64, 4, , 70,
attention, 2, 2, 100, 6,
attention, 2, 2, 300, 10,
attention, 8, 8, 100, 18,
attention, 8, 8, 300, 34,
attention, 10, 1, 10, 20,
attention, 10, 1, 110, 40,
attention, 30, 1, 30, 100,
attention, 30, 1, 130, 200,
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def of(text: str = TABLE, model: Any = MODEL, **keys: Any) -> OperatorTableSource:
        path = tmp_path / "times.csv"
        path.write_text(text)
        spec = msgspec.convert({"path": "times.csv", **keys}, OperatorTableSpec)
        return OperatorTableSource(path, spec, model, ROOFLINE)

    return of


@pytest.mark.parametrize(("tokens", "us"), [(1, 10), (100, 40), (150, 90), (200, 140), (400, 340)])
def test_products_are_linear_between_rows_and_go_on_with_the_upper_half(load: Load, tokens: int, us: float) -> None:
    assert load().latency_ns("o_proj", batch([(tokens, 0)] if tokens > 1 else (), [5] * (tokens == 1))) == us * 1000


def test_heads_depend_on_sequences_where_the_table_has_them(load: Load) -> None:
    assert load().latency_ns("lm_head", batch([(64, 0)] * 3)) == 60_000
    without = load("operator,tokens,time\nlm_head,2,50\nlm_head,4,70\n")
    assert without.latency_ns("lm_head", batch([(64, 0)] * 3)) == 60_000


def test_decodes_are_linear_in_sequences_and_in_mean_context(load: Load) -> None:
    assert load().latency_ns("attention", batch(decodes=[100, 100])) == 6_000
    assert load().latency_ns("attention", batch(decodes=[150, 250])) == 8_000
    assert load().latency_ns("attention", batch(decodes=[200] * 5)) == 17_000  # halfway between 8 and 26 us


def test_prompt_chunks_are_linear_in_context_and_add_up_with_each_other_and_with_decodes(load: Load) -> None:
    one = load().latency_ns("attention", batch([(10, 50)]))
    assert one == 30_000
    assert load().latency_ns("attention", batch([(20, 0)])) == 60_000
    both = load().latency_ns("attention", batch([(10, 50), (20, 0)], [100, 100]))
    assert both == 30_000 + 60_000 + 6_000


def test_a_chunk_beyond_the_longest_grows_with_its_pairs(load: Load) -> None:
    """60 tokens have 60 * 61 / 2 = 1830 pairs, 30 have 465."""
    assert load().latency_ns("attention", batch([(60, 0)])) == round(100_000 * 1830 / 465)


def test_with_one_number_of_sequences_the_keys_alone_count(load: Load) -> None:
    source = load("operator,tokens,sequences,kv,time\nattention,1,1,100,4\nattention,1,1,1000,22\n")
    assert source.latency_ns("attention", batch(decodes=[100, 300, 150])) == source.latency_ns(
        "attention", batch(decodes=[550])
    )


def test_what_the_table_lacks_comes_from_the_roofline_and_is_named(load: Load) -> None:
    source = load("operator,tokens,sequences,kv,time\no_proj,1,,,10\nattention,1,1,100,4\nspare,1,,,3\n")
    shape = batch([(500, 100)], [700])
    assert source.latency_ns("act_fn", shape) == ROOFLINE.latency_ns("act_fn", shape)
    prompts = ROOFLINE.latency_ns("attention", batch([(500, 100)]))
    assert source.latency_ns("attention", shape) == prompts + source.latency_ns("attention", batch(decodes=[700]))
    provenance = source.provenance()
    missing = provenance["roofline_operators"]
    assert isinstance(missing, list)
    assert {"act_fn", "lm_head", "attention of prompts"} <= set(missing)
    assert not {"o_proj", "attention of decodes"} & set(missing)
    assert provenance["unused_rows"] == ["spare"]


def test_without_any_row_of_attention_it_is_the_roofline_s(load: Load) -> None:
    shape = batch([(500, 100)], [700])
    source = load("operator,tokens,time\no_proj,1,10\n")
    assert source.latency_ns("attention", shape) == ROOFLINE.latency_ns("attention", shape)


def test_decodes_and_prompts_may_have_kernels_of_their_own(load: Load) -> None:
    text = TABLE.replace("attention, 10", "prompt, 10").replace("attention, 30", "prompt, 30")
    source = load(text, operators={"attention": ["attention", "prompt"]})
    shape = batch([(10, 50), (20, 0)], [100, 100])
    assert source.latency_ns("attention", shape) == load().latency_ns("attention", shape)


def test_names_that_add_up_in_one_half_of_attention_and_not_in_the_other_are_refused(load: Load) -> None:
    with pytest.raises(ProfileError, match="values times no prompt chunks, which attention does"):
        load(TABLE + "values, 2, 2, 100, 6,\n", operators={"attention": ["attention", "values"]})


def test_shapes_beyond_the_table_are_counted(load: Load) -> None:
    source = load()
    for shape in (batch([(150, 0)]), batch([(201, 0)]), batch([(10, 101)]), batch(decodes=[301, 301])):
        source.latency_ns("o_proj", shape)
        source.latency_ns("attention", shape)
    assert source.provenance()["extrapolated_shapes"] == {"attention": 4, "o_proj": 1}


MAPPED = "Layer,M,Cycles\nq,8,100\nk,8,20\nv,8,30\nnorm1,8,7\nnorm2,8,9\nmlp,8,64\n"
COLUMNS = {"operator": "Layer", "tokens": "M", "time": "Cycles"}


def test_rows_of_several_names_add_up_to_an_operator_and_cycles_need_a_clock(load: Load) -> None:
    operators = {"qkv_proj": ["q", "k", "v"], "down_proj": ["mlp"], "gate_up_proj": [], "act_fn": []}
    source = load(MAPPED, columns=COLUMNS, unit="cycles", clock="500MHz", operators=operators)
    shape = batch([(8, 0)])
    assert source.latency_ns("qkv_proj", shape) == 150 * 2
    assert source.latency_ns("gate_up_proj", shape) == source.latency_ns("act_fn", shape) == 0
    assert source.provenance()["unused_rows"] == ["norm1", "norm2"]


@pytest.mark.parametrize(("per", "calls"), [("call", 1), ("layer", 2), ("model", 2 * MODEL.num_layers)])
def test_a_row_may_time_a_call_a_block_or_the_model(load: Load, per: str, calls: int) -> None:
    """A block has two norms, so the rows of a block hold two calls."""
    keys = {"columns": COLUMNS, "unit": "us", "per": per, "operators": {"layernorm": ["norm1", "norm2"]}}
    assert load(MAPPED, **keys).latency_ns("layernorm", batch([(8, 0)])) == round(16_000 / calls)


def test_an_operator_beside_the_blocks_is_called_once_whatever_a_row_times(load: Load) -> None:
    for per in ("call", "layer", "model"):
        source = load("operator,tokens,time\nlm_head,1,5\n", per=per)
        assert source.latency_ns("lm_head", batch(decodes=[4])) == 5_000


CHOSEN = """name,dtype,tp,batch,new,cached,us
o_proj,fp16,1,,8,,10
o_proj,fp16,2,,8,,6
o_proj,bf16,1,,8,,99
attention,fp16,1,4,4,99,20
attention,fp16,1,1,8,0,30
attention,fp16,2,4,4,99,12
"""
NAMES = {"operator": "name", "tokens": "new", "sequences": "batch", "context": "cached", "time": "us"}


def test_rows_are_chosen_by_what_other_columns_say(load: Load) -> None:
    source = load(CHOSEN, columns=NAMES, where={"dtype": "FP16", "tp": 1})
    assert source.latency_ns("o_proj", batch([(8, 0)])) == 10_000


def test_a_context_counts_what_was_there_before_the_new_tokens(load: Load) -> None:
    source = load(CHOSEN, columns=NAMES, where={"dtype": "fp16", "tp": 1})
    assert source.latency_ns("attention", batch(decodes=[100] * 4)) == 20_000
    assert source.latency_ns("attention", batch([(8, 0)])) == 30_000


def test_a_column_may_say_for_how_many_ranks_a_row_was_made(load: Load) -> None:
    columns = NAMES | {"tensor_parallel_size": "tp"}
    spec = msgspec.convert({"path": "x", "columns": columns, "where": {"dtype": "fp16"}}, OperatorTableSpec)
    for tp, us in ((1, 10), (2, 6)):
        chosen = msgspec.to_builtins(spec.for_ranks(tp))
        assert load(CHOSEN, **chosen | {"path": "x"}).latency_ns("o_proj", batch([(8, 0)])) == us * 1000
    with pytest.raises(ProfileError, match=r"times.csv: no row has tp 4; expected one of 1, 2"):
        load(CHOSEN, **msgspec.to_builtins(spec.for_ranks(4)))
    with pytest.raises(ConfigError, match=r"of no use beside columns.tensor_parallel_size"):
        OperatorTableSpec(path="x", columns=spec.columns, tensor_parallel_size=2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"where": {"dtyp": "fp16"}},
            r"times.csv:1: has no column 'dtyp' \(did you mean 'dtype'\?\), which latency.table",
        ),
        ({"where": {"dtype": "fp8"}}, r"no row has dtype fp8; expected one of bf16, fp16"),
        ({"columns": NAMES | {"context": "kv"}}, r"has no column 'kv', which latency.table.columns.context names"),
    ],
)
def test_a_choice_that_no_row_meets_is_refused(load: Load, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load(CHOSEN, **{"columns": NAMES, **keys})


HEADER = "operator,tokens,sequences,kv,time\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"times.csv:1: has no column 'operator', .*latency.table.columns.operator"),
        ("operator,token,time\n", r"times.csv:1: has no column 'tokens' \(did you mean 'token'\?\).*it has operator, "),
        (HEADER, r"times.csv: holds no row"),
        (HEADER + "o_proj,x,,,1\n", r"times.csv:2:2: tokens: expected a whole number of at least 1, got 'x'"),
        (HEADER + "o_proj,1.5,,,1\n", r"times.csv:2:2: tokens: expected a whole number"),
        (HEADER + "o_proj,1,,,1\no_proj,2,0,,1\n", r"times.csv:3:3: sequences: expected a whole number.*got '0'"),
        (HEADER + "o_proj,1,,,-1\n", r"times.csv:2:5: time: expected a number of at least 0, got '-1'"),
        (HEADER + "o_proj,1,,,nan\n", r"times.csv:2:5: time: expected a number of at least 0, got 'nan'"),
        (HEADER + "o_proj,1\n", r"times.csv:2:5: time: expected a number of at least 0, got ''"),
        (HEADER + ",1,,,1\n", r"times.csv:2:1: operator: expected a name"),
        (HEADER + "o_proj,1,,,1\n\no_proj,1,,,2\n", r"times.csv:4: repeats the shape of line 2"),
        (HEADER + "o_proj,1,1,,1\no_proj,1,2,,2\n", r"times.csv:3: o_proj: a second row of size 1.*tokens alone"),
        (HEADER + "attention,1,1,,1\n", r"times.csv:2: attention: expected a kv of at least 1, .* got none"),
        (HEADER + "attention,9,1,8,1\n", r"times.csv:2: attention: expected a kv of at least 9.*got 8"),
        (HEADER + "attention,9,2,90,1\n", r"times.csv:2: attention: expected decodes .*got 9 tokens of 2 sequences"),
        (HEADER + "moe,9,,,1\n", r"'moe' cannot be timed by a table"),
    ],
)
def test_a_broken_table_is_named_with_line_and_column(load: Load, text: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load(text, model=find_model("Qwen/Qwen3-30B-A3B") if "moe" in text else MODEL)


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ({"qkv_prj": ["q"]}, r"latency.table.operators.qkv_prj: unknown \(did you mean 'qkv_proj'\?\)"),
        ({"qkv_proj": ["q", "kk"]}, r"latency.table.operators.qkv_proj: .* no row 'kk'.*it has k, mlp"),
    ],
)
def test_a_name_that_means_nothing_is_refused(load: Load, operators: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        load(MAPPED, columns=COLUMNS, operators=operators)


def test_what_is_missing_may_be_an_error(load: Load) -> None:
    with pytest.raises(ProfileError, match=r"does not time embedding, layernorm, qkv_proj.*'roofline'"):
        load(missing="error")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"nowhere.csv: file is missing; latency.table.path names it"):
        OperatorTableSource(tmp_path / "nowhere.csv", OperatorTableSpec(path="nowhere.csv"), MODEL, ROOFLINE)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"unit": "cycles"}, r"clock: expected the device's frequency, such as '940MHz'"),
        ({"clock": "1GHz"}, r"clock: is of no use with unit us"),
        ({"unit": "cycles", "clock": "1 GHZ"}, r"clock: 'GHZ' is no unit of frequency \(did you mean 'GHz'\?\)"),
    ],
)
def test_units_and_clocks_must_agree(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OperatorTableSpec(path="times.csv", **keys)  # type: ignore[arg-type]


def test_a_section_and_another_source_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match=r"table: expected a section .* because source is table"):
        LatencySpec(source="table")
    with pytest.raises(ConfigError, match=r"table: is of no use with source 'roofline'"):
        LatencySpec(source="roofline", table=OperatorTableSpec(path="times.csv"))
