"""What is taken from a database for weights of other formats, windows, cut experts and latent attention."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmservingsim.config.catalog import ModelSpec, find_model, from_hf_config, quantised
from llmservingsim.errors import ProfileError
from llmservingsim.latency import KernelDatabase, MeasuredKernels
from llmservingsim.latency.kernel_rows import fastest
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TINY: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 2048,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
}
DENSE = {**TINY, "model_type": "llama"}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512}
WIDTHS = (256, 1024, 4096)
ROWS = (1, 64, 1024)


class Tables:
    """Writes a database of one system and engine; times in ms."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, rows: list[dict[str, object]], version: str = "1.0.0") -> None:
        family, _, table = name.partition("/")
        folder = self.root / "h100_sxm" / family / "vllm" / version
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{table}.parquet")

    def gemms(self, **per_weight: float) -> None:
        """Each format takes so many ns per million weights, beside 2 us, or what the entry ``<name>_start`` says."""
        starts = {name.removesuffix("_start"): ms for name, ms in per_weight.items() if name.endswith("_start")}
        rows = [
            {"m": m, "n": n, "k": k, "gemm_dtype": name, "latency": starts.get(name, 2e-3) + n * k * slope * 1e-9}
            for name, slope in per_weight.items()
            if not name.endswith("_start")
            for m, n, k in product(ROWS, WIDTHS, WIDTHS)
        ]
        self.write("gemm/gemm_perf", rows)

    def attention(self, windows: tuple[int, ...] = (0,), kv_dtypes: tuple[str, ...] = ("bfloat16",)) -> None:
        for name, lengths in (("context_attention_perf", "isl"), ("generation_attention_perf", "step")):
            rows = [
                {
                    "batch_size": batch,
                    "isl": length if lengths == "isl" else 1,
                    "step": length if lengths == "step" else 0,
                    "num_heads": 8,
                    "num_key_value_heads": 2,
                    "head_dim": 64,
                    "window_size": window,
                    "kv_cache_dtype": dtype,
                    "kernel_source": "flashinfer",
                    "latency": 1e-3 * batch * (min(length, window) if window else length) / (1 + (dtype == "fp8")),
                }
                for batch, length, window, dtype in product((1, 8), (64, 512, 2048), windows, kv_dtypes)
            ]
            self.write(f"attention/{name}", rows)

    def experts(self, moe_dtype: str, slices: dict[int, float]) -> None:
        """Experts cut into so many slices take so many us per token."""
        rows = [
            {
                "num_tokens": tokens,
                "hidden_size": 1024,
                "inter_size": 512,
                "topk": 2,
                "num_experts": 8,
                "moe_tp_size": cut,
                "moe_ep_size": 1,
                "moe_dtype": moe_dtype,
                "distribution": "balanced",
                "latency": slope * 1e-3 * tokens,
            }
            for cut, slope in slices.items()
            for tokens in (1, 2, 4, 64, 1024)
        ]
        self.write("moe/moe_perf", rows)

    def open(self) -> KernelDatabase:
        return KernelDatabase("h100_sxm", folder=self.root)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def kernels(tables: Tables, model: ModelSpec, **options: Any) -> MeasuredKernels:
    return MeasuredKernels(tables.open(), model, options.pop("layout", ParallelLayout()), **options)


def down_us(found: MeasuredKernels) -> float:
    return float(np.interp(1, *found.products["down_proj"]))


def test_products_are_those_of_the_format_and_the_head_is_in_sixteen_bits(tables: Tables) -> None:
    tables.gemms(bfloat16=2.0, fp8=1.0)
    tables.attention()
    found = kernels(tables, quantised(from_hf_config(DENSE, "m"), "fp8"))
    assert down_us(found) == pytest.approx(2 + 1024 * 2048 * 1e-6)
    assert found.products["lm_head"][1][0] == pytest.approx(2 + 2 * 1024 * 4096 * 1e-6)


def test_a_table_in_which_nothing_is_fast_measured_something_else_and_is_left_out(tables: Tables) -> None:
    tables.gemms(bfloat16=2.0, fp8=1.0, fp8_block=1.0, fp8_block_start=0.055)
    tables.attention()
    found = kernels(tables, quantised(from_hf_config(DENSE, "m"), "fp8_block"))
    assert down_us(found) == pytest.approx(2 + 1024 * 2048 * 1e-6)
    assert found.left_out == ["products in fp8_block: something else was measured with them"]


def test_a_format_that_was_not_measured_is_refused(tables: Tables) -> None:
    tables.gemms(bfloat16=2.0)
    tables.attention()
    with pytest.raises(ProfileError, match=r"no products in nvfp4; expected another quantization"):
        kernels(tables, quantised(from_hf_config(DENSE, "m"), "nvfp4"))


def test_keys_and_values_in_eight_bits_have_rows_of_their_own(tables: Tables) -> None:
    tables.gemms(bfloat16=2.0)
    tables.attention(kv_dtypes=("bfloat16", "fp8"))
    model = from_hf_config(DENSE, "m")
    full, half = (kernels(tables, model, kv_cache_dtype=d).attention["attention"].decodes for d in ("auto", "fp8"))
    assert half[:, 2] == pytest.approx(full[:, 2] / 2)


def test_blocks_with_a_window_take_the_rows_of_the_window(tables: Tables) -> None:
    tables.gemms(bfloat16=2.0)
    tables.attention(windows=(0, 128))
    kinds = {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]}
    found = kernels(tables, from_hf_config({**DENSE, **kinds}, "m"))
    assert set(found.attention) == {"attention", "sliding_attention"}
    assert found.attention["sliding_attention"].decodes[:, 2].max() == pytest.approx(8 * 128)
    assert found.attention["attention"].decodes[:, 2].max() == pytest.approx(8 * 2048)
    with pytest.raises(ProfileError, match="its blocks differ in their attention, and a bundle holds one kind"):
        found.operators()


def test_experts_are_taken_as_the_layout_cuts_them_and_whole_for_a_bundle(tables: Tables) -> None:
    tables.gemms(bfloat16=0.0)
    tables.attention()
    tables.experts("bfloat16", {1: 4.0, 2: 3.0})
    model = from_hf_config({**TINY, **EXPERTS, "num_attention_heads": 16, "num_key_value_heads": 4}, "m")
    cut = kernels(tables, model, layout=ParallelLayout(2))
    whole = kernels(tables, model, layout=ParallelLayout(2), whole_experts=True)
    router = 2.0
    assert (cut.expert_slices, whole.expert_slices) == (1, 2)
    assert cut.experts[-1].tolist() == [1024, 8, pytest.approx(3 * 1024 + router)]
    assert whole.experts[-1].tolist() == [1024, 8, pytest.approx(4 * 1024 + router)]


def test_of_several_kernels_for_a_shape_the_fastest_counts() -> None:
    rows = fastest([np.array([8, 1, 8, 8]), np.array([2, 1, 2, 3]), np.array([5.0, 1.0, 4.0, 9.0])])
    assert rows.tolist() == [[1, 1, 1.0], [8, 2, 4.0], [8, 3, 9.0]]


def test_experts_come_in_the_format_of_their_own(tables: Tables) -> None:
    tables.gemms(bfloat16=0.0)
    tables.attention()
    tables.experts("w4a16_mxfp4", {1: 1.0})
    model = quantised(from_hf_config({**TINY, **EXPERTS}, "m"), "mxfp4")
    assert kernels(tables, model).experts[-1].tolist() == [1024, 8, pytest.approx(1024 + 2.0)]


LINEAR_SIZES = {"num_key_heads": 2, "num_value_heads": 4, "key_head_dim": 64, "value_head_dim": 64}
LATENT = {
    **DENSE,
    "model_type": "deepseek_v3",
    "num_key_value_heads": 8,
    "q_lora_rank": 256,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def latent_rows(batches: tuple[int, ...], **extra: object) -> list[dict[str, object]]:
    return [
        {"batch_size": b, "num_heads": 8, "kv_cache_dtype": "bfloat16", "kernel_source": "mla", **extra}
        for b in batches
    ]


def test_latent_attention_of_kernels_has_the_products_that_it_absorbs(tables: Tables) -> None:
    tables.gemms(bfloat16=1.0)
    tables.write("mla/context_mla_perf", [r | {"isl": 64, "step": 0, "latency": 0.5} for r in latent_rows((1, 8))])
    tables.write("mla/generation_mla_perf", [r | {"isl": 1, "step": 63, "latency": 0.1} for r in latent_rows((1, 8))])
    around = [("mla_gen_pre", 0.01), ("mla_gen_post", 0.02)]
    tables.write(
        "mla_bmm/mla_bmm_perf",
        [
            {"num_tokens": n, "num_heads": 8, "bmm_dtype": "bfloat16", "op_name": op, "latency": ms}
            for n in (1, 8)
            for op, ms in around
        ],
    )
    found = kernels(tables, from_hf_config(LATENT, "m")).attention["attention"]
    assert found.decodes.tolist() == [[1, 64, pytest.approx(130)], [8, 64, pytest.approx(130)]]
    up = 2 + 8 * 256 * 512 * 1e-6  # heads x (nope + v) outputs of the latent vector
    assert found.prefills[0].tolist() == [1, 64, 0, pytest.approx(500 + up)]


def test_latent_attention_of_modules_is_what_the_projections_leave(tables: Tables) -> None:
    tables.gemms(bfloat16=1.0)
    for name, isl, step in (("mla_context_module_perf", 64, 0), ("mla_generation_module_perf", 1, 63)):
        rows = [r | {"isl": isl, "step": step, "latency": 0.1} for r in latent_rows((1, 8), gemm_type="bfloat16")]
        tables.write(f"mla/{name}", rows)
    model = kernels(tables, from_hf_config(LATENT, "m"))
    projections = float(np.interp(8, *model.products["qkv_proj"]) + np.interp(8, *model.products["o_proj"]))
    assert model.attention["attention"].decodes[1].tolist() == [8, 64, pytest.approx(100 - projections)]


def test_latent_attention_that_was_not_measured_is_refused(tables: Tables) -> None:
    tables.gemms(bfloat16=1.0)
    with pytest.raises(ProfileError, match=r"no latent attention .MLA. for num_heads 8"):
        kernels(tables, from_hf_config(LATENT, "m"))


def test_the_database_has_every_catalogued_model_in_its_own_format_somewhere() -> None:
    pytest.importorskip("aiconfigurator_core")
    for name, hardware, engine, tp in (
        ("openai/gpt-oss-120b", "h200_sxm", "vllm", 2),
        ("MiniMaxAI/MiniMax-M2.5", "h200_sxm", "vllm", 4),
        ("deepseek-ai/DeepSeek-V3", "h200_sxm", "sglang", 8),
        ("moonshotai/Kimi-K2.5", "b200_sxm", "vllm", 8),
    ):
        found = MeasuredKernels(KernelDatabase(hardware, engine), find_model(name), ParallelLayout(tp))
        assert len(found.experts)
        assert all(len(kind.decodes) for kind in found.attention.values())


def test_linear_attention_is_its_convolution_and_its_rule_over_tokens(tables: Tables) -> None:
    tables.gemms(bfloat16=1.0)
    tables.attention()
    heads = {"d_model": 1024, "num_k_heads": 2, "num_v_heads": 4, "head_k_dim": 64, "head_v_dim": 64}
    rows = [
        {"num_tokens": n, "batch_size": batch, "seq_len": length, "phase": phase, "kernel_source": kernel, **heads}
        | {"latency": n * ms}
        for phase in ("context", "generation")
        for n in (1, 64, 1024)
        for batch, length in [(1, n) if phase == "context" else (n, 1)]
        for kernel, ms in (("conv", 0.001), ("rule", 0.003))
    ]
    tables.write("linear_attention/gdn_perf", rows)
    sizes = {f"linear_{key}": value for key, value in LINEAR_SIZES.items()}
    model = from_hf_config({**DENSE, **sizes, "layer_types": ["linear_attention", "full_attention"]}, "m")
    delta = kernels(tables, model).delta
    assert delta is not None
    assert delta.at(BatchShape((Chunk(100, 50), Chunk(28, 0)), 10, 500, 50, 138)) == pytest.approx(4 * 128 + 4 * 10)
    assert not delta.covers(BatchShape((), 2000, 2000, 1, 2000))
