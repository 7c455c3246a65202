"""`speculative_config` becomes a drafter, its memory, limits and options; contradictions are said."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmservingsim.config import InstanceSpec
from llmservingsim.config.catalog import find_model
from llmservingsim.errors import ConfigError, ModelError, PluginError
from llmservingsim.libraries import Libraries
from llmservingsim.parts import Parts
from llmservingsim.serving import SpeculativeEngine
from llmservingsim.trace import SpeculativeBuilder

TARGET = "meta-llama/Llama-3.1-8B"
DRAFTER = "meta-llama/Llama-3.2-1B"
KEPT = {"policy": "fixed", "rate": 0.7}


def parts(speculative: dict[str, Any], members: int = 1, **keys: Any) -> Parts:
    stated = {"model": TARGET, "hardware": "H100", "speculative_config": {"acceptance": KEPT, **speculative}, **keys}
    return Parts.gather(msgspec.convert(stated, InstanceSpec), Libraries(), members)


def eagle(drafts: int = 3, **keys: Any) -> dict[str, Any]:
    return {"method": "eagle", "num_speculative_tokens": drafts, **keys}


def own(drafts: int = 3, **keys: Any) -> dict[str, Any]:
    return {"method": "draft_model", "model": DRAFTER, "num_speculative_tokens": drafts, **keys}


def searched(method: str = "ngram", drafts: int = 3, **keys: Any) -> dict[str, Any]:
    return {"method": method, "num_speculative_tokens": drafts, **keys}


def test_a_draft_model_has_weights_and_keys_of_its_own() -> None:
    """Llama-3.2-1B: 1,235,814,400 parameters, a rotary table, and 2 * 8 heads * 64 * 2 bytes * 16 blocks per token."""
    plan = parts(own()).speculation
    assert plan is not None
    assert plan.weights_bytes == 1_235_814_400 * 2 + 131_072 * 64 * 2
    assert plan.kv_bytes_per_token("auto") == 32_768


def test_an_eagle_head_is_a_block_that_shares_embedding_and_head() -> None:
    """Llama-3.1-8B: a block of 218,112,000 parameters, the final norm, and a projection of 2 * 4096 to 4096."""
    plan = parts(eagle()).speculation
    assert plan is not None
    joined = 2 * 4096 * 4096 + 2 * 4096
    assert plan.weights_bytes == 2 * (218_112_000 + 4096 + joined)
    assert plan.kv_bytes_per_token("auto") == 4096
    assert plan.drafter is not None
    assert plan.drafter.num_layers == 1


def test_a_search_keeps_nothing() -> None:
    plan = parts(searched()).speculation
    assert plan is not None
    assert (plan.drafter, plan.weights_bytes, plan.kv_bytes_per_token("auto")) == (None, 0, 0)


def test_the_module_of_deepseek_v3_is_a_block_of_experts() -> None:
    made = parts(
        {"method": "mtp", "num_speculative_tokens": 2},
        model="deepseek-ai/DeepSeek-V3",
        hardware="H200",
        tensor_parallel_size=8,
        enable_expert_parallel=True,
    )
    plan = made.speculation
    assert plan is not None
    assert plan.drafter is not None
    assert (plan.drafter.num_layers, plan.drafter.is_moe_layer(0), plan.layout.ep) == (1, True, 8)
    assert plan.kv_bytes_per_token("auto") == (512 + 64) * 2
    experts = 256 // 8 * 3 * 7168 * 2048  # in fp8, a byte each
    assert experts < plan.weights_bytes < 1.5 * experts


def test_drafts_cost_blocks() -> None:
    plain, head, model = (made.memory().num_blocks for made in (parts(eagle(0)), parts(eagle()), parts(own())))
    assert plain > head > model
    for report in (parts(own()).memory().capacity, parts(eagle()).memory().capacity):
        assert report is not None
        assert report.num_blocks == report.kv_cache_bytes // report.block_bytes
    predicted = [made.memory() for made in (parts(eagle(0)), parts(own()))]
    assert predicted[1].block_bytes - predicted[0].block_bytes == 16 * 32_768
    assert [m.capacity.block_bytes for m in predicted if m.capacity] == [m.block_bytes for m in predicted]
    made = parts(own(), kv_memory_model="weights_only")
    memory, other = made.memory(), parts(eagle(0), kv_memory_model="weights_only").memory()
    assert memory.weights_bytes - other.weights_bytes == 1_235_814_400 * 2 + 131_072 * 64 * 2
    assert memory.block_bytes - other.block_bytes == 16 * 32_768


def test_each_rank_holds_its_share_of_a_drafter_or_all_of_it() -> None:
    both = [parts(own(draft_tensor_parallel_size=n), tensor_parallel_size=4).speculation for n in (4, 1)]
    cut, whole = (plan.weights_bytes for plan in both if plan is not None)
    assert 3.5 < whole / cut < 4


@pytest.mark.parametrize(
    ("speculative", "stated", "expected"),
    [
        (eagle(), None, True),
        (searched("ngram_gpu"), None, True),
        (searched(), None, False),
        (own(), None, False),
        (own(), True, True),
        (eagle(), False, False),
        (searched(drafts=0), None, True),
        (searched(drafts=0), True, True),
    ],
)
def test_asynchronous_scheduling_is_on_where_vllm_has_it_on(
    speculative: dict[str, Any], stated: bool | None, expected: bool
) -> None:
    assert parts(speculative, async_scheduling=stated).serving.async_scheduling is expected


@pytest.mark.parametrize(
    ("speculative", "budget", "ahead", "recompute"),
    [(eagle(), 8192, 3, True), (own(), 8192 - 1024, 3, False), (searched(), 8192, 0, False)],
)
def test_the_scheduler_leaves_room_for_the_drafter(
    speculative: dict[str, Any], budget: int, ahead: int, recompute: bool
) -> None:
    engine = parts(speculative).engine(0, 100)
    assert isinstance(engine, SpeculativeEngine)
    limits = engine.config.scheduler
    assert (limits.max_num_batched_tokens, limits.num_lookahead_tokens) == (budget, ahead)
    assert engine.kv.recompute_last_hit is recompute
    assert engine.config.decode_cohort is False


def test_without_drafts_nothing_is_there() -> None:
    made = parts(eagle(0))
    assert made.speculation is None
    assert type(made.engine(0, 100)).__name__ == "Engine"
    assert not any(isinstance(b, SpeculativeBuilder) for b in made.builders([range(1)], [{}], Libraries(), 0))


def test_batches_are_padded_to_whole_verifications() -> None:
    (builder,) = parts(eagle(4), max_num_seqs=4).builders([range(1)], [{}], Libraries(), 0)
    assert isinstance(builder, SpeculativeBuilder)
    assert builder.drafter is not None
    assert builder.drafter.capture_sizes == (5, 10, 20, 25, 35, 40)


@pytest.mark.parametrize(
    ("speculative", "keys", "message"),
    [
        (eagle(), {"pipeline_parallel_size": 2}, "speculative_config: .* expected pipeline_parallel_size 1"),
        (
            searched(),
            {"async_scheduling": True},
            "speculative_config: method: ngram cannot be scheduled asynchronously",
        ),
        (eagle(2048), {"max_num_batched_tokens": 2048}, "num_speculative_tokens: 2048 .* expected at most 2047"),
        (own(512), {"max_num_batched_tokens": 1024, "max_num_seqs": 512}, "each of max_num_seqs 512; .* at most 511"),
        (eagle(draft_tensor_parallel_size=2), {"tensor_parallel_size": 4}, "expected 1 or 4, .* got 2"),
        (own(model="Qwen/Qwen3-32B"), {}, "model: Qwen/Qwen3-32B has a vocabulary of 151936, .* one of 128256"),
        ({"method": "mtp", "num_speculative_tokens": 1}, {}, "no module for .* .num_nextn_predict_layers of its"),
        (
            {"method": "eagle", "num_speculative_tokens": 1},
            {"model": "deepseek-ai/DeepSeek-V3", "hardware": "H200", "tensor_parallel_size": 8},
            "model: deepseek-ai/DeepSeek-V3 has no dense block",
        ),
        (
            eagle(acceptance={"policy": "fixed", "rate": 2}),
            {},
            "speculative_config: acceptance: rate: expected a number",
        ),
    ],
)
def test_contradictions_are_said(speculative: dict[str, Any], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parts(speculative, **keys)


def test_a_group_in_lock_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected no data_parallel_group"):
        parts(eagle(), 2, model="Qwen/Qwen3-30B-A3B", data_parallel_group="a")


def test_a_drafter_that_is_not_found_and_a_policy_that_is_unknown_are_said() -> None:
    with pytest.raises(ModelError, match=r"speculative_config: model: model 'meta-llama/Llama-3\.2-1' is not in the"):
        parts(own(model="meta-llama/Llama-3.2-1"))
    with pytest.raises(PluginError, match="speculative_config: acceptance: acceptance: 'sure' is unknown"):
        parts(eagle(acceptance={"policy": "sure"}))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"method": "eagle", "num_speculative_tokens": 1}, "acceptance: missing"),
        ({"method": "draft_model", "num_speculative_tokens": 1, "acceptance": KEPT}, "model: missing"),
        (searched(acceptance=KEPT, model=DRAFTER), "model: method ngram has no drafter"),
        (eagle(acceptance=KEPT, search_time="1us"), "search_time: method eagle searches nothing"),
        (searched(acceptance=KEPT, search_time="1"), "search_time: "),
        ({"method": "mtp", "num_speculative_tokens": 1, "acceptance": KEPT, "model": "x"}, "model: method mtp drafts"),
        ({"method": "medusa", "num_speculative_tokens": 1}, "Invalid enum value 'medusa'"),
        ({"method": "eagle", "num_speculative_tokens": -1}, ">= 0"),
    ],
)
def test_a_section_that_contradicts_itself_is_said(section: dict[str, Any], message: str) -> None:
    stated = {"model": TARGET, "hardware": "H100", "speculative_config": section}
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(stated, InstanceSpec)


def test_a_file_says_whether_a_model_predicts_further_tokens(tmp_path: Path) -> None:
    config = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config |= {"vocab_size": 1000, "max_position_embeddings": 512, "num_nextn_predict_layers": 2}
    path = tmp_path / "config.json"
    path.write_bytes(msgspec.json.encode(config))
    assert find_model(str(path)).num_nextn_predict_layers == 2
    plan = parts({"method": "mtp", "num_speculative_tokens": 4}, model=str(path)).speculation
    assert plan is not None
    assert plan.num_copies == 2
    assert plan.kv_bytes_per_token("auto") == 2 * 2 * 64 * 2
    with pytest.raises(ConfigError, match="num_speculative_tokens: expected a multiple of the 2 modules"):
        parts({"method": "mtp", "num_speculative_tokens": 3}, model=str(path))
