"""Layers of an installed serving package in the places of the torch engine's.

vLLM and SGLang share the interfaces that are used here: a norm that adds the residual, ``norm(hidden, residual)``; an
activation of a gate beside its factor; ``get_rope(...)(positions, query, key)`` on flat heads; FlashAttention over
variable lengths; vLLM's fused experts over given choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch

from llmservingsim.profiler.engine import EngineOptions
from llmservingsim.profiler.torch_layers import EPSILON, Layers, State, Weights

Operator = Callable[[State, Weights], None]


def use_package_layers(layers: Layers, places: Mapping[str, str], options: EngineOptions) -> list[str]:
    """Put what the package offers into the operators of ``layers``; return the names of what was taken.

    Args:
        layers: To change.
        places: ``module:attribute`` of each layer.
        options: Of the engine.
    """
    makers: Mapping[str, Callable[[Any], Mapping[str, Operator]]] = {
        "rms_norm": lambda found: _norms(found, layers),
        "silu_and_mul": lambda found: _activation(found, layers),
        "rope": lambda found: _rotary(found, layers, options.max_model_len),
        "fused_experts": lambda found: {"moe": _experts(found, layers)},
    }
    taken = []
    for name, place in places.items():
        found = _find(place)
        if found is None:
            continue
        if name == "attention":
            layers.flash_attention = _varlen(found)
        else:
            layers.operators = {**layers.operators, **makers[name](found)}
        taken.append(name)
    return taken


def _find(place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        return getattr(import_module(module), attribute, None)
    except ImportError:
        return None


def _norms(rms_norm: Any, layers: Layers) -> Mapping[str, Operator]:
    if layers.model.norm_bias:
        return {}
    norm = rms_norm(layers.model.hidden_size, eps=EPSILON).to(layers.device, layers.dtype)

    def add_and_norm(state: State, _: Weights) -> None:
        assert state.hidden is not None
        if state.residual is None:
            state.residual, state.hidden = state.hidden, norm(state.hidden)
        else:  # written in place: a repeated call finds other values, which take as long
            state.hidden, state.residual = norm(state.hidden, state.residual)

    return {"layernorm": add_and_norm, "final_layernorm": add_and_norm}


def _activation(silu_and_mul: Any, layers: Layers) -> Mapping[str, Operator]:
    if not layers.model.gated_mlp:
        return {}
    activate = silu_and_mul()

    def act_fn(state: State, _: Weights) -> None:
        state.hidden = activate(state.hidden)

    return {"act_fn": act_fn}


def _rotary(get_rope: Any, layers: Layers, max_position: int) -> Mapping[str, Operator]:
    dim = layers.model.head_dim
    try:
        rope = get_rope(dim, rotary_dim=dim, max_position=max_position, base=10000, dtype=layers.dtype)
    except TypeError:  # vLLM takes the base among the parameters of the rope since 0.13
        rope = get_rope(dim, max_position, rope_parameters={"rope_theta": 10000.0}, dtype=layers.dtype)
    rope = rope.to(layers.device)
    widths = (layers.heads * dim, layers.kv_heads * dim, layers.kv_heads * dim)

    def rotary_emb(state: State, _: Weights) -> None:
        assert state.qkv is not None
        query, key, _value = state.qkv.flatten(1).split_with_sizes(widths, dim=1)
        rope(state.positions, query, key)  # turns them in place

    return {"rotary_emb": rotary_emb}


def _experts(fused_experts: Any, layers: Layers) -> Operator:
    def moe(state: State, weights: Weights) -> None:
        assert state.hidden is not None
        assert state.routing is not None
        scores = torch.nn.functional.linear(state.hidden, weights["router"]).float().softmax(dim=-1)
        scores.topk(layers.model.experts_per_token)
        share, choices = scores.gather(1, state.routing), state.routing.to(torch.int32)
        summed = fused_experts(state.hidden, weights["experts_up"], weights["experts_down"], share, choices)
        state.hidden = summed + layers.shared_experts(state.hidden, weights)

    return moe


def _varlen(flash_attn_varlen_func: Any) -> Callable[..., Any]:
    """The package's FlashAttention under the arguments of torch's."""

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *places: Any, window_size: Sequence[int], **_: Any
    ) -> Any:
        starts_q, starts_k, longest_q, longest_k = places
        return flash_attn_varlen_func(
            q=query,
            k=key,
            v=value,
            cu_seqlens_q=starts_q,
            cu_seqlens_k=starts_k,
            max_seqlen_q=longest_q,
            max_seqlen_k=longest_k,
            causal=True,
            window_size=list(window_size),
        )

    return attend
