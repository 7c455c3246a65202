"""The layers of a decoder in torch, one rank of them, each a function of a state that a step hands on.

What each time covers, as in vLLM: ``layernorm`` and ``final_layernorm`` add the residual and normalise;
``rotary_emb`` looks up the angles of its positions and turns queries and keys; ``attention`` writes the new keys and
values into the cache and attends; ``moe`` is the router, the choice of experts, the experts and their weighted sum,
shared experts included; ``sampler`` takes the largest logit. No time holds an all-reduce.

An operator replaces tensors of the state and never changes one in place (the cache apart), so that it can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - everybody's name for it
from torch import Tensor

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model import ParallelLayout
from llmservingsim.model.weights import kv_heads_per_rank, vocab_per_rank

Weights = Mapping[str, Tensor]
EPSILON = 1e-6


class Attend(Protocol):
    """Attention of one batch; queries, keys and values are of shape ``[tokens, heads, head_dim]``."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
        """Write keys and values into the cache of ``layer``; return what the queries attend to."""
        ...


@dataclass(slots=True)
class State:
    """What a step hands from one operator to the next.

    Attributes:
        ids: Token ids, shape ``[tokens]``.
        positions: Of the tokens.
        layer: Counts blocks; picks the cache.
        hidden, residual: Shape ``[tokens, hidden_size]``.
        qkv: Shape ``[tokens, heads and twice KV heads, head_dim]``.
        rows: Which tokens get logits.
        attend: None where attention is left out.
        routing: Experts of each token, shape ``[tokens, experts_per_token]``, to take instead of the router's.
        logits: Shape ``[sequences, vocabulary]``.
        sampled: Token ids, shape ``[sequences]``.
    """

    ids: Tensor
    positions: Tensor
    rows: Tensor
    attend: Attend | None = None
    routing: Tensor | None = None
    layer: int = 0
    hidden: Tensor | None = None
    residual: Tensor | None = None
    qkv: Tensor | None = None
    logits: Tensor | None = None
    sampled: Tensor | None = None


class Layers:
    """The operators of one rank of a model, by name.

    Args:
        model: What is computed; no latent attention.
        layout: How it is cut.
        device, dtype: Of weights and activations.
        max_positions: Longest sequence.
    """

    def __init__(
        self, model: ModelSpec, layout: ParallelLayout, device: str, dtype: torch.dtype, max_positions: int
    ) -> None:
        self.model = model
        self.tp = layout.tp
        self.device, self.dtype = device, dtype
        self.heads, self.kv_heads = model.num_heads // layout.tp, kv_heads_per_rank(model, layout.tp)
        self.operators: Mapping[str, Callable[[State, Weights], None]] = {
            "embedding": self._embedding,
            "layernorm": self._layernorm,
            "qkv_proj": self._qkv_proj,
            "qk_norm": self._qk_norm,
            "rotary_emb": self._rotary_emb,
            "attention": self._attention,
            "o_proj": self._o_proj,
            "gate_up_proj": self._gate_up_proj,
            "act_fn": self._act_fn,
            "down_proj": self._down_proj,
            "moe": self._moe,
            "final_layernorm": self._layernorm,
            "lm_head": self._lm_head,
            "sampler": self._sampler,
        }
        self.flash_attention: Callable[..., Any] | None = None
        self._visits_of: Tensor | None = None
        self._found: list[tuple[Tensor, ...]] = []
        angles = torch.outer(
            torch.arange(max_positions), 10000.0 ** -(torch.arange(0, model.head_dim, 2) / model.head_dim)
        )
        self._turns = torch.stack((angles.cos(), angles.sin()), dim=1).to(device, dtype)
        vocab = vocab_per_rank(model, layout.tp)
        self._table = self._random(vocab, model.hidden_size)
        self._head = self._table if model.tie_word_embeddings else self._random(vocab, model.hidden_size)

    def block(self) -> dict[str, Tensor]:
        """Make the weights of one block."""
        model, hidden, head = self.model, self.model.hidden_size, self.model.head_dim
        inner = model.intermediate_size // self.tp
        qkv = (self.heads + 2 * self.kv_heads) * head
        shapes: dict[str, tuple[int, ...]] = {
            "norm": (hidden,),
            "qkv": (qkv, hidden),
            "o": (hidden, self.heads * head),
        }
        if model.norm_bias:
            shapes["norm_bias"] = (hidden,)
        if model.qkv_bias:
            shapes["qkv_bias"] = (qkv,)
        if model.o_bias:
            shapes["o_bias"] = (hidden,)
        if model.qk_norm:
            shapes |= {"q_norm": (head,), "k_norm": (head,)}
        if self.has_dense_blocks:
            shapes |= {"gate_up": ((1 + model.gated_mlp) * inner, hidden), "down": (hidden, inner)}
            if model.mlp_bias:
                shapes |= {"gate_up_bias": ((1 + model.gated_mlp) * inner,), "down_bias": (hidden,)}
        return {name: self._random(*shape) for name, shape in shapes.items()}

    def experts(self) -> dict[str, Tensor]:
        """Make the weights of the experts of one block, whole ones, and of what goes with them."""
        model, hidden, width = self.model, self.model.hidden_size, self.model.moe_intermediate_size
        up = (1 + model.gated_mlp) * width
        made = {
            "router": self._random(model.num_experts, hidden),
            "experts_up": self._random(model.num_experts, up, hidden),
            "experts_down": self._random(model.num_experts, hidden, width),
        }
        if model.shared_expert_size:
            shared = model.shared_expert_size // self.tp
            made["shared_up"] = self._random((1 + model.gated_mlp) * shared, hidden)
            made["shared_down"] = self._random(hidden, shared)
        return made

    @property
    def has_dense_blocks(self) -> bool:
        """Whether any block has an MLP that every token visits."""
        return not all(map(self.model.is_moe_layer, range(self.model.num_layers)))

    @property
    def block_bytes(self) -> int:
        """Of the weights of one block without experts."""
        return sum(tensor.nbytes for tensor in self.block().values())

    def _random(self, *shape: int) -> Tensor:
        """Small values: sums over blocks stay in range, and nothing becomes subnormal, which would be slow."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype) * 0.02

    def _embedding(self, state: State, _: Weights) -> None:
        state.hidden, state.residual = F.embedding(state.ids, self._table), None

    def _layernorm(self, state: State, weights: Weights) -> None:
        hidden = state.hidden
        assert hidden is not None
        state.residual = hidden if state.residual is None else hidden + state.residual
        shape = (self.model.hidden_size,)
        if self.model.norm_bias:
            state.hidden = F.layer_norm(state.residual, shape, weights["norm"], weights["norm_bias"], EPSILON)
        else:
            state.hidden = F.rms_norm(state.residual, shape, weights["norm"], EPSILON)

    def _qkv_proj(self, state: State, weights: Weights) -> None:
        assert state.hidden is not None
        qkv = F.linear(state.hidden, weights["qkv"], weights.get("qkv_bias"))
        state.qkv = qkv.view(len(qkv), -1, self.model.head_dim)

    def _qk_norm(self, state: State, weights: Weights) -> None:
        query, key, value = self._split(state)
        shape = (self.model.head_dim,)
        normed = (
            F.rms_norm(query, shape, weights["q_norm"], EPSILON),
            F.rms_norm(key, shape, weights["k_norm"], EPSILON),
        )
        state.qkv = torch.cat((*normed, value), dim=1)

    def _rotary_emb(self, state: State, _: Weights) -> None:
        qkv = state.qkv
        assert qkv is not None
        cos, sin = self._turns[state.positions].unsqueeze(1).unbind(2)
        turned = self.heads + self.kv_heads
        one, other = qkv[:, :turned].chunk(2, dim=-1)
        rotated = torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)
        state.qkv = torch.cat((rotated, qkv[:, turned:]), dim=1)

    def _attention(self, state: State, _: Weights) -> None:
        query, key, value = self._split(state)
        if state.attend is not None:
            query = state.attend(query, key, value, state.layer)
        state.hidden = query.reshape(len(query), -1)

    def _o_proj(self, state: State, weights: Weights) -> None:
        assert state.hidden is not None
        state.hidden = F.linear(state.hidden, weights["o"], weights.get("o_bias"))

    def _gate_up_proj(self, state: State, weights: Weights) -> None:
        assert state.hidden is not None
        state.hidden = F.linear(state.hidden, weights["gate_up"], weights.get("gate_up_bias"))

    def _act_fn(self, state: State, _: Weights) -> None:
        assert state.hidden is not None
        state.hidden = self._activated(state.hidden)

    def _down_proj(self, state: State, weights: Weights) -> None:
        assert state.hidden is not None
        state.hidden = F.linear(state.hidden, weights["down"], weights.get("down_bias"))

    def _moe(self, state: State, weights: Weights) -> None:
        """Experts one after another, over the tokens that each gets."""
        hidden, routing = state.hidden, state.routing
        assert hidden is not None
        assert routing is not None
        scores = F.linear(hidden, weights["router"]).float().softmax(dim=-1)
        scores.topk(self.model.experts_per_token)  # chosen as a router would, though the shot says which ones are taken
        share = scores.gather(1, routing).to(hidden.dtype)
        summed = torch.zeros_like(hidden)
        for expert, (tokens, places) in enumerate(self._visits(routing)):
            if len(tokens):
                inner = self._activated(F.linear(hidden[tokens], weights["experts_up"][expert]))
                given = F.linear(inner, weights["experts_down"][expert]) * share[tokens, places, None]
                summed.index_add_(0, tokens, given)
        state.hidden = summed + self.shared_experts(hidden, weights)

    def shared_experts(self, hidden: Tensor, weights: Weights) -> Tensor | float:
        """What the experts that every token visits add, 0 where there are none."""
        if "shared_up" not in weights:
            return 0.0
        return F.linear(self._activated(F.linear(hidden, weights["shared_up"])), weights["shared_down"])

    def _visits(self, routing: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Tokens and places of each expert; found once per routing, because a graph cannot wait for their counts."""
        if self._visits_of is not routing:
            self._visits_of = routing
            experts = range(self.model.num_experts)
            self._found = [torch.nonzero(routing == expert, as_tuple=True) for expert in experts]
        return self._found  # type: ignore[return-value]

    def _lm_head(self, state: State, _: Weights) -> None:
        assert state.hidden is not None
        state.logits = F.linear(state.hidden[state.rows], self._head)

    def _sampler(self, state: State, _: Weights) -> None:
        assert state.logits is not None
        state.sampled = state.logits.argmax(dim=-1)

    def _activated(self, inner: Tensor) -> Tensor:
        if not self.model.gated_mlp:
            return F.gelu(inner)
        gate, up = inner.chunk(2, dim=-1)
        return F.silu(gate) * up

    def _split(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        assert state.qkv is not None
        key = self.heads
        value = key + self.kv_heads
        return state.qkv[:, :key], state.qkv[:, key:value], state.qkv[:, value:]
