"""The layers that the torch engine builds: their widths at any shard, and that they compute what they say."""

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ProfileError
from llmservingsim.model import ParallelLayout, model_operators
from llmservingsim.model.weights import operator_weights
from llmservingsim.profiler import EngineOptions, Shot, Table, make_engine
from llmservingsim.profiler.engine import default_device

torch = pytest.importorskip("torch")

from llmservingsim.profiler import package_layers  # noqa: E402
from llmservingsim.profiler.torch_attention import Heads, Piece, SequentialAttention  # noqa: E402
from llmservingsim.profiler.torch_layers import Layers, State  # noqa: E402

MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qk_norm": {"model_type": "qwen3"},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "not gated": {"model_type": "gpt2", "tie_word_embeddings": True},
    "experts": MOE,
    "experts behind dense blocks": {**MOE, "mlp_only_layers": [0]},
}


def make_layers(model: ModelSpec, tp: int = 1) -> Layers:
    return Layers(model, ParallelLayout(tp), "cpu", torch.float32, 64)


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def kind(request: pytest.FixtureRequest, make_model: Callable[..., ModelSpec]) -> ModelSpec:
    return make_model(**request.param)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_weights_of_a_shard_are_as_many_as_the_model_room_counts(kind: ModelSpec, tp: int) -> None:
    """KV heads (2) are replicated at tp 4."""
    layers = make_layers(kind, tp)
    weights = layers.block()
    parts = {
        "qkv_proj": ("qkv", "qkv_bias"),
        "o_proj": ("o", "o_bias"),
        "gate_up_proj": ("gate_up", "gate_up_bias"),
        "down_proj": ("down", "down_bias"),
        "qk_norm": ("q_norm", "k_norm"),
    }
    for operator, names in parts.items():
        if operator in ("gate_up_proj", "down_proj") and not layers.has_dense_blocks:
            continue
        built = sum(weights[name].numel() for name in names if name in weights)
        assert built == sum(operator_weights(kind, operator, ParallelLayout(tp))), operator
    if kind.num_experts:
        built = sum(tensor.numel() for tensor in layers.experts().values())
        assert built == sum(operator_weights(kind, "moe"))


def test_every_operator_of_a_model_is_timed(kind: ModelSpec) -> None:
    engine = make_engine("torch", EngineOptions(kind, ParallelLayout(2), "cpu", 1, 64))
    shots = [
        Shot(Table.DENSE, (3,)),
        Shot(Table.PER_SEQUENCE, (2,)),
        Shot(Table.DECODE, (2, 20)),
        Shot(Table.PREFILL, (2, 4, 8)),
        *([Shot(Table.MOE, (4, 5))] if kind.num_experts else []),
    ]
    times: dict[str, float] = {}
    for shot in shots:
        times |= engine.prepare(shot)()
    assert set(times) == {operator.name for operator in model_operators(kind)}
    assert min(times.values()) > 0
    assert set(engine.prepare(Shot(Table.STEP, (2, 16)))()) == {"step", "operators"}
    assert set(engine.prepare(Shot(Table.SKEW, (2, 1, 32, 8)))()) == {"mean", "max", "skew"}


@pytest.mark.parametrize("window", [None, 5])
def test_attention_is_causal_behind_a_context_and_looks_no_farther_than_its_window(window: int | None) -> None:
    """Against the definition: softmax of scaled products over the keys that a token may see."""
    torch.manual_seed(0)
    heads = Heads(4, 2, 8, window, "cpu", torch.float32)
    pieces = [Piece(3, 9), Piece(1, 7), Piece(6, 6)]
    attend = SequentialAttention(heads, pieces, 1)
    query, key, value = (torch.randn(10, count, 8) for count in (4, 2, 2))
    found = attend(query, key, value, layer=0)
    first = 0
    for piece, cache in zip(pieces, attend._caches[0], strict=True):
        keys, values = cache.repeat_interleave(2, dim=1)
        for i in range(piece.query_len):
            end = piece.kv_len - piece.query_len + i + 1
            start = 0 if window is None else max(0, end - window)
            scores = torch.einsum("hd,hkd->hk", query[first + i], keys[:, start:end]) / 8**0.5
            expected = torch.einsum("hk,hkd->hd", scores.softmax(-1), values[:, start:end])
            assert torch.allclose(found[first + i], expected, atol=1e-5)
        assert torch.equal(cache[0, :, -1], key[first + piece.query_len - 1])
        first += piece.query_len


def test_experts_compute_what_their_tokens_ask_of_them(make_model: Callable[..., ModelSpec]) -> None:
    layers = make_layers(make_model(**MOE))
    weights = {name: tensor * 10 for name, tensor in layers.experts().items()}
    hidden, routing = torch.randn(5, 64), torch.tensor([[0, 1], [2, 3], [0, 2], [1, 3], [3, 0]])
    state = State(torch.zeros(5), torch.zeros(5), torch.zeros(1), routing=routing, hidden=hidden)
    layers.operators["moe"](state, weights)
    shares = (hidden @ weights["router"].T).softmax(-1)
    for token, experts in enumerate(routing.tolist()):
        expected = torch.zeros(64)
        for expert in experts:
            gate, up = (weights["experts_up"][expert] @ hidden[token]).chunk(2)
            inner = torch.nn.functional.silu(gate) * up
            expected += shares[token, expert] * (weights["experts_down"][expert] @ inner)
        assert state.hidden is not None
        assert torch.allclose(state.hidden[token], expected, atol=1e-4)


def test_a_block_has_as_many_copies_as_exceed_the_cache_twice_but_no_more_than_the_model(model: ModelSpec) -> None:
    engine: Any = make_engine("torch", EngineOptions(model, ParallelLayout(), "cpu", 1, 64))
    size = engine._layers.block_bytes
    assert len(engine._blocks) == model.num_layers
    engine._cache_bytes = 2 * size - 1
    assert engine._copies(size) == 2
    assert engine._copies(10 * size) == 1


@pytest.mark.parametrize(
    ("change", "device", "message"),
    [
        ({}, "cuda", "--device cuda: torch finds no CUDA device; expected one, or --device cpu"),
        ({}, "tpu", "--device tpu: expected cpu or cuda"),
        ({"torch_dtype": "fp8"}, "cpu", "--engine torch: dtype 'fp8' is not built; --dtype takes"),
        (
            {"kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
            "cpu",
            r"has latent attention \(MLA\), which it does not build",
        ),
    ],
)
def test_what_torch_cannot_measure_is_refused(
    make_model: Callable[..., ModelSpec], change: dict[str, Any], device: str, message: str
) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ProfileError, match=message):
        make_engine("torch", EngineOptions(make_model(**change), ParallelLayout(), device, 1, 64))


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_whose_package_is_absent_says_so(
    model: ModelSpec, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ProfileError, match=f"--engine {name}: the package {name} is not installed here"):
        make_engine(name, EngineOptions(model, ParallelLayout(), "cuda", 1, 64))


@pytest.mark.parametrize("name", ["torch", "vllm", "sglang"])
def test_without_torch_the_extra_is_named(model: ModelSpec, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ProfileError, match=f"--engine {name}: needs PyTorch.*llmservingsim\\[profiler\\]"):
        make_engine(name, EngineOptions(model, ParallelLayout(), "cpu", 1, 64))
    assert default_device() == "cpu"


class StandInNorm(torch.nn.Module):
    """A norm with the interface that serving packages have."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.shape, self.eps = (size,), eps

    def forward(self, hidden: Any, residual: Any = None) -> Any:
        added = hidden if residual is None else hidden + residual
        normed = torch.nn.functional.rms_norm(added, self.shape, None, self.eps)
        return normed if residual is None else (normed, added)


def stand_in_rope(dim: int, rotary_dim: int, max_position: int, base: int, dtype: Any) -> Any:
    """Turns nothing, in place, on flat heads."""
    return SimpleNamespace(to=lambda _: lambda positions, query, key: (query.mul_(2), key.mul_(3)))


def test_layers_of_a_package_take_the_places_of_ours(model: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("stand_in")
    package.__dict__.update(RMSNorm=StandInNorm, SiluAndMul=lambda: lambda x: x[:, :128] * 0 + 7, rope=stand_in_rope)
    monkeypatch.setitem(__import__("sys").modules, "stand_in", package)
    places = {"rms_norm": "stand_in:RMSNorm", "silu_and_mul": "stand_in:SiluAndMul", "rope": "stand_in:rope"}
    layers = make_layers(model)
    taken = package_layers.use_package_layers(
        layers,
        {**places, "fused_experts": "stand_in:absent", "attention": "nowhere:flash"},
        EngineOptions(model, ParallelLayout(), "cpu", 1, 64),
    )
    assert taken == ["rms_norm", "silu_and_mul", "rope"]
    state = State(torch.zeros(2), torch.zeros(2), torch.zeros(1), hidden=torch.ones(2, 64), residual=torch.ones(2, 64))
    layers.operators["layernorm"](state, {})
    assert state.hidden is not None
    assert torch.allclose(state.hidden, torch.ones(2, 64), atol=1e-4)
    state.qkv = torch.ones(2, 8, 16)
    layers.operators["rotary_emb"](state, {})
    assert state.qkv[0, :, 0].tolist() == [2.0] * 4 + [3.0] * 2 + [1.0] * 2
    state.hidden = torch.ones(2, 256)
    layers.operators["act_fn"](state, {})
    assert state.hidden.tolist() == torch.full((2, 128), 7.0).tolist()
