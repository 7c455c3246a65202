"""A small serving engine in torch that really computes: what a profile and a simulation are held against.

Every block has weights of its own, every request a slot of a cache for keys and values, and an iteration computes one
token of each running request and chunks of prompts, running ones first, within a budget of tokens: vLLM V1's order
without prefix caching or preemption. Tokens are chosen greedily from random weights; requests arrive in real time and
end after as many tokens as they were told. Layers and scheduling are written here, not taken from the profiler.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from llmservingsim.config.catalog import ModelSpec


class Arrival(NamedTuple):
    """A request: when it comes, in seconds, and how many tokens it has and gets."""

    at_s: float
    prompt: int
    output: int


class Served(NamedTuple):
    """When a request got its first and its last token, in seconds on the clock of the arrivals."""

    arrival: Arrival
    first_s: float
    last_s: float

    @property
    def tpot_ms(self) -> float:
        return 1e3 * (self.last_s - self.first_s) / (self.arrival.output - 1)


class Block(nn.Module):
    """A decoder block of a Llama: normalise, attend, normalise, multiply."""

    def __init__(self, model: ModelSpec, slots: int, max_len: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.dim = model.num_heads, model.num_kv_heads, model.head_dim
        width = (self.heads + 2 * self.kv_heads) * self.dim
        self.attention_norm, self.mlp_norm = nn.RMSNorm(model.hidden_size), nn.RMSNorm(model.hidden_size)
        self.qkv = nn.Linear(model.hidden_size, width, bias=False)
        self.out = nn.Linear(self.heads * self.dim, model.hidden_size, bias=False)
        self.gate_up = nn.Linear(model.hidden_size, 2 * model.intermediate_size, bias=False)
        self.down = nn.Linear(model.intermediate_size, model.hidden_size, bias=False)
        self.register_buffer("cache", torch.zeros(slots, 2, self.kv_heads, max_len, self.dim))

    def forward(self, hidden: Tensor, residual: Tensor | None, step: Step) -> tuple[Tensor, Tensor]:
        residual = hidden if residual is None else hidden + residual
        qkv = self.qkv(self.attention_norm(residual)).view(len(hidden), -1, self.dim)
        residual = self.out(self.attend(qkv, step)) + residual
        gate, up = self.gate_up(self.mlp_norm(residual)).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up), residual

    def attend(self, qkv: Tensor, step: Step) -> Tensor:
        cos, sin = step.turns[step.positions].unsqueeze(1).unbind(2)
        one, other = qkv[:, : self.heads + self.kv_heads].chunk(2, dim=-1)
        turned = torch.cat((one * cos - other * sin, other * cos + one * sin), dim=-1)
        query, key, value = turned[:, : self.heads], turned[:, self.heads :], qkv[:, self.heads + self.kv_heads :]
        rows = []
        for (slot, computed, new), mask, queries, keys, values in zip(
            step.pieces, step.masks, *(part.split(step.lengths) for part in (query, key, value)), strict=True
        ):
            cache, end = self.cache[slot], computed + new
            cache[0, :, computed:end] = keys.transpose(0, 1)
            cache[1, :, computed:end] = values.transpose(0, 1)
            found = F.scaled_dot_product_attention(
                queries.transpose(0, 1)[None],
                cache[0, :, :end][None],
                cache[1, :, :end][None],
                attn_mask=mask,
                is_causal=mask is None and new > 1,
                enable_gqa=True,
            )
            rows.append(found[0].transpose(0, 1))
        return torch.cat(rows).reshape(len(qkv), -1)


class Step:
    """What one iteration computes: of each request its slot, the tokens computed before, and the new ones."""

    def __init__(self, pieces: Sequence[tuple[int, int, int]], turns: Tensor) -> None:
        self.pieces, self.turns = pieces, turns
        self.lengths = [new for _, _, new in pieces]
        self.positions = torch.tensor([computed + i for _, computed, new in pieces for i in range(new)])
        self.last = torch.tensor(self.lengths).cumsum(0) - 1
        self.masks = [
            torch.ones(new, computed + new, dtype=torch.bool).tril(computed) if computed and new > 1 else None
            for _, computed, new in pieces
        ]


class Model(nn.Module):
    """A Llama with a head that shares the embedding's weights."""

    def __init__(self, model: ModelSpec, slots: int, max_len: int) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(max_len), 10000.0 ** (-torch.arange(0, model.head_dim, 2) / model.head_dim))
        self.register_buffer("turns", torch.stack((angles.cos(), angles.sin()), dim=1))
        self.embedding = nn.Embedding(model.vocab_size, model.hidden_size)
        self.blocks = nn.ModuleList(Block(model, slots, max_len) for _ in range(model.num_layers))
        self.norm = nn.RMSNorm(model.hidden_size)

    def forward(self, ids: Sequence[int], pieces: Sequence[tuple[int, int, int]]) -> list[int]:
        step = Step(pieces, self.turns)
        hidden, residual = self.embedding(torch.tensor(ids)), None
        for block in self.blocks:
            hidden, residual = block(hidden, residual, step)
        logits = F.linear(self.norm(hidden + residual)[step.last], self.embedding.weight)
        tokens: list[int] = logits.argmax(dim=-1).tolist()
        return tokens


@dataclass
class Running:
    """A request in the engine: its tokens, how many have been computed, and where their keys lie."""

    arrival: Arrival
    slot: int
    tokens: list[int]
    computed: int = 0
    times_s: list[float] = field(default_factory=list)


class Server:
    """Serves requests as they arrive.

    Args:
        model: Its weights are random.
        max_num_seqs, max_num_batched_tokens, max_model_len: As vLLM has them.
    """

    def __init__(self, model: ModelSpec, max_num_seqs: int, max_num_batched_tokens: int, max_model_len: int) -> None:
        torch.manual_seed(1)
        dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[model.dtype]
        self.vocab = model.vocab_size
        self.model = Model(model, max_num_seqs, max_model_len).to(dtype).eval().requires_grad_(False)
        self.budget, self.slots = max_num_batched_tokens, list(range(max_num_seqs))

    def serve(self, arrivals: Sequence[Arrival]) -> list[Served]:
        """Serve all requests; the clock starts now."""
        coming, waiting, running, served = deque(sorted(arrivals)), deque[Arrival](), list[Running](), list[Served]()
        begun_s = time.perf_counter()
        while coming or waiting or running:
            now_s = time.perf_counter() - begun_s
            while coming and coming[0].at_s <= now_s:
                waiting.append(coming.popleft())
            batch = self._schedule(waiting, running)
            if not batch:
                time.sleep(max(0.0, coming[0].at_s - now_s))
                continue
            answered = self._compute(batch)
            now_s = time.perf_counter() - begun_s
            for request in answered:
                request.times_s.append(now_s)
            for request in [r for r in running if len(r.times_s) == r.arrival.output]:
                running.remove(request)
                self.slots.append(request.slot)
                served.append(Served(request.arrival, request.times_s[0], request.times_s[-1]))
        return served

    def _schedule(self, waiting: deque[Arrival], running: list[Running]) -> list[tuple[Running, int]]:
        batch, budget = [], self.budget
        for request in running:
            new = min(len(request.tokens) - request.computed, budget)
            if new:
                batch.append((request, new))
                budget -= new
        while waiting and budget and self.slots:
            arrival = waiting.popleft()
            request = Running(arrival, self.slots.pop(), [(7 * i) % self.vocab for i in range(arrival.prompt)])
            running.append(request)
            new = min(arrival.prompt, budget)
            batch.append((request, new))
            budget -= new
        return batch

    def _compute(self, batch: Sequence[tuple[Running, int]]) -> list[Running]:
        """Run the model; return the requests that got a token, which those with a rest of their prompt do not."""
        ids = [token for request, new in batch for token in request.tokens[request.computed : request.computed + new]]
        pieces = [(request.slot, request.computed, new) for request, new in batch]
        with torch.inference_mode():
            sampled = self.model(ids, pieces)
        answered = []
        for (request, new), token in zip(batch, sampled, strict=True):
            request.computed += new
            if request.computed == len(request.tokens):
                request.tokens.append(token)
                answered.append(request)
        return answered
