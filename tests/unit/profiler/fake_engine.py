"""Engines whose times follow known functions, as a user would bring one: ``--engine fake_engine:FakeEngine``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from llmservingsim.latency.tiles import TILE_ROWS, own_context
from llmservingsim.profiler.engine import EngineOptions, Facts
from llmservingsim.profiler.passes import END, START, block_names, step_names
from llmservingsim.profiler.sampling import Pass
from llmservingsim.profiler.shots import Shot, Table
from llmservingsim.shapes import Chunk

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "torch_dtype": "float32",
}


def dense_us(tokens: int) -> float:
    """A matrix product: bound by its weights, then by arithmetic, with a jump to another kernel at 700 tokens."""
    return max(50.0, 0.6 * tokens) + (150.0 if tokens >= 700 else 0.0)


def attention_us(shot: Shot) -> float:
    if shot.table is Table.DECODE:
        count, kv = shot.at
        return 3.0 + count * (1.0 + 0.01 * kv)
    if shot.table is Table.PREFILL:
        count, chunk, context = shot.at
        return 5.0 + count * chunk_us(chunk, context)
    chunk, context, count, kv = shot.at
    return 5.0 + chunk_us(chunk, context) + count * (1.0 + 0.02 * kv)


def chunk_us(chunk: int, context: int) -> float:
    """Tiles that walk through what they see, as `latency.tiles` has it."""
    return 0.5 * -(-chunk // TILE_ROWS) + 0.04 * own_context(Chunk(chunk, context))


class FakeEngine:
    """Tells times at once and without noise."""

    is_additive = True
    host_us = 120.0

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.names = block_names(options.model)

    def describe(self) -> Mapping[str, Any]:
        return {"device_name": "fake", "threads": self.options.threads}

    def circumstances(self) -> Mapping[str, Any]:
        return {"clocks": "steady"}

    def facts(self) -> Facts:
        return Facts(2**34, 1e11, 1e13, 2**25, 4, 1000)

    def prepare(self, shot: Shot) -> Pass:
        times = self.times(shot)
        return lambda: times

    def times(self, shot: Shot) -> dict[str, float]:
        if shot.table is Table.DENSE:
            return {name: self.dense(name, shot.tokens) for name in self._dense_names}
        if shot.table is Table.PER_SEQUENCE:
            return dict.fromkeys(END[1:], 20.0 + shot.tokens)
        if shot.table is Table.MOE:
            experts, tokens = shot.at
            return {"moe": 10.0 + 4 * experts + 0.3 * tokens}
        if shot.table is Table.SKEW:
            count, _, long_kv, kv = shot.at
            mean = 3.0 + count * (1.0 + 0.01 * kv)
            return {"mean": mean, "max": mean + count * 0.01 * (long_kv - kv), "skew": max(mean, 5 + 0.06 * long_kv)}
        if shot.table is Table.STEP:
            return {"step": self.host_us + sum(self._step_operators(*shot.at))}
        return {"attention": attention_us(shot)}

    def dense(self, name: str, tokens: int) -> float:
        return dense_us(tokens) if name.endswith("proj") else 2.0 + 0.01 * tokens

    @property
    def _dense_names(self) -> list[str]:
        return list(dict.fromkeys(n for n in (*START, *self.names, END[0]) if n != "attention"))

    def _step_operators(self, count: int, kv: int) -> list[float]:
        known = {name: self.dense(name, count) for name in self._dense_names}
        known |= dict.fromkeys(END[1:], 20.0 + count)
        known["attention"] = attention_us(Shot(Table.DECODE, (count, kv)))
        return [known[name] for name in step_names(self.options.model)]


class OneKernelEngine(FakeEngine):
    """Chunks and decodes in one kernel, so that mixed batches are measured."""

    is_additive = False


class SlowEngine(FakeEngine):
    """Takes a moment for every shot, so that it can be killed in between."""

    def prepare(self, shot: Shot) -> Pass:
        time.sleep(0.003)
        return super().prepare(shot)


class InterruptedEngine(FakeEngine):
    """Somebody presses Ctrl-C at the 30th shot."""

    shots = 0

    def prepare(self, shot: Shot) -> Pass:
        type(self).shots += 1
        if self.shots == 30:
            raise KeyboardInterrupt
        return super().prepare(shot)
