"""The torch engine: layers built from the model's numbers, at any shard, on one device; no weights are downloaded.

A step of a server passes through all blocks, and none of them finds its weights in a cache that a later block has
filled. So a pass here runs several blocks in turn, with as many copies of a block's weights as exceed the last-level
cache twice, but no more than the model has blocks; where one block exceeds it, one is resident. KV caches rotate alike.

On a CPU an operator is timed where it stands, in a pass from embedding to sampler, with the clock read between
operators: what it finds in the caches is what it would find in a server. On a GPU the clock would count launches, so
each operator is captured in a CUDA graph that runs it over all copies, and replayed (`torch_cuda`).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from llmservingsim.errors import ProfileError, one_of
from llmservingsim.profiler.engine import EngineOptions, Facts
from llmservingsim.profiler.environment import circumstances, describe_device, last_level_cache_bytes, measure_facts
from llmservingsim.profiler.passes import END, START, block_names
from llmservingsim.profiler.sampling import Pass
from llmservingsim.profiler.shots import Shot, Table
from llmservingsim.profiler.torch_attention import Heads, Piece, SequentialAttention, VarlenAttention, flash_attention
from llmservingsim.profiler.torch_layers import Layers, State, Weights

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_BLOCKS_PER_PASS = 8


class TorchEngine:
    """Runs shots with torch.

    Args:
        options: What to compute, and where.

    Raises:
        ProfileError: The device is not there, or torch has no such layers.
    """

    def __init__(self, options: EngineOptions) -> None:
        model = options.model
        if model.is_mla:
            raise ProfileError(f"--engine torch: {model.name} has latent attention (MLA), which it does not build")
        if model.dtype not in DTYPES:
            raise ProfileError(f"--engine torch: dtype {model.dtype!r} is not built; --dtype takes {one_of(DTYPES)}")
        _choose_device(options)
        torch.manual_seed(0)
        self.model, self._device = model, options.device
        dtype = DTYPES[model.dtype]
        self._layers = Layers(model, options.layout, self._device, dtype, options.max_model_len)
        rank = self._layers
        self._heads = Heads(rank.heads, rank.kv_heads, model.head_dim, model.sliding_window, self._device, dtype)
        if self._device == "cuda" and dtype is not torch.float32:
            rank.flash_attention = flash_attention()
        self._cache_bytes = 2 * last_level_cache_bytes(self._device)
        self._names = block_names(model)
        copies = self._copies(rank.block_bytes)
        self._blocks: list[dict[str, torch.Tensor]] = [rank.block() for _ in range(copies)]
        self._experts_made = False
        self._turn = itertools.count()

    @property
    def is_additive(self) -> bool:
        """Sequences one after another add up; one kernel for all of them does not."""
        return self._layers.flash_attention is None

    def describe(self) -> Mapping[str, Any]:
        """Return versions, device and kernels."""
        kernel = "scaled_dot_product_attention per sequence" if self.is_additive else "FlashAttention, variable lengths"
        return {"attention_kernel": kernel, **describe_device(self._device)}

    def circumstances(self) -> Mapping[str, Any]:
        """Return clocks and load."""
        return circumstances(self._device)

    def facts(self) -> Facts:
        """Measure the device."""
        return measure_facts(self._device, DTYPES[self.model.dtype])

    def prepare(self, shot: Shot) -> Pass:
        """Build the batch of a shot and what runs it."""
        match shot.table:
            case Table.DENSE:
                return self._timed(shot.tokens, (*START, *self._names, END[0]), rows=1)
            case Table.PER_SEQUENCE:
                return self._timed(shot.tokens, (*START, *self._names, *END), keep=END[1:], rows=shot.tokens)
            case Table.MOE:
                return self._of_experts(*shot.at)
            case Table.SKEW:
                return self._skewed(*shot.at)
            case Table.STEP:
                return self._step(*shot.at)
        return self._attention(_pieces(shot))

    def _attention(self, batch: Sequence[Piece]) -> Pass:
        tokens = sum(piece.query_len for piece in batch)
        names = (*START, *self._names, END[0])
        return self._timed(tokens, names, keep=("attention",), rows=1, batch=batch)

    def _of_experts(self, activated: int, tokens: int) -> Pass:
        """Spread ``tokens`` evenly over ``activated`` experts."""
        if not self._experts_made:
            first = self._layers.experts()
            size_bytes = sum(tensor.nbytes for tensor in first.values())
            more = (self._layers.experts() for _ in range(self._copies(size_bytes) - 1))
            sets = [first, *more]
            for index, block in enumerate(self._blocks):
                block.update(sets[index % len(sets)])
            self._experts_made = True
        places = torch.arange(tokens * self.model.experts_per_token).view(tokens, -1) % activated
        names = (*START, *self._names, "moe")
        return self._timed(tokens, names, keep=("moe",), rows=1, routing=places.to(self._device))

    def _skewed(self, count: int, long_count: int, long_kv: int, kv: int) -> Pass:
        """The same number of decodes three times: uneven, all at their mean, all at the longest."""
        mean = round((long_count * long_kv + (count - long_count) * kv) / count)
        uneven = [Piece(1, kv)] * (count - long_count) + [Piece(1, long_kv)] * long_count
        passes = {
            "mean": self._attention([Piece(1, mean)] * count),
            "max": self._attention([Piece(1, long_kv)] * count),
            "skew": self._attention(uneven),
        }
        return lambda: {name: run()["attention"] for name, run in passes.items()}

    def _timed(
        self,
        tokens: int,
        names: Sequence[str],
        *,
        rows: int,
        keep: Sequence[str] | None = None,
        batch: Sequence[Piece] = (),
        routing: torch.Tensor | None = None,
    ) -> Pass:
        """Return a pass through ``names`` that tells the times of those to ``keep``."""
        state = self._state(tokens, rows, batch)
        state.routing = routing
        wanted = tuple(dict.fromkeys(n for n in keep or names if keep or n != "attention"))
        if self._device == "cuda":
            from llmservingsim.profiler.torch_cuda import graph_pass

            return graph_pass(self._layers.operators, self._sequence(names), state, wanted, self._blocks)
        return self._clocked(names, state, wanted)

    def _clocked(self, names: Sequence[str], state: State, wanted: Sequence[str]) -> Pass:
        def run() -> dict[str, float]:
            spent = self._clock(names, state)
            return {name: sum(spent[name]) / len(spent[name]) / 1000 for name in wanted}

        return run

    def _clock(self, names: Sequence[str], state: State, blocks: int | None = None) -> dict[str, list[int]]:
        """Run once, reading the clock between operators; return the nanoseconds of every call."""
        spent: dict[str, list[int]] = {name: [] for name in names}
        operators = self._layers.operators
        with torch.inference_mode():
            for name, weights, state.layer in self._sequence(names, blocks):
                operator = operators[name]
                begun = time.perf_counter_ns()
                operator(state, weights)
                spent[name].append(time.perf_counter_ns() - begun)
        return spent

    def _sequence(self, names: Sequence[str], blocks: int | None = None) -> Iterator[tuple[str, Weights, int]]:
        """What a pass runs, in order: a block's operators several times, each time with the next weights and cache."""
        count = blocks or min(self.model.num_layers, _BLOCKS_PER_PASS)
        inner = [name for name in names if name not in (*START, *END)]
        yield from ((name, {}, 0) for name in names if name in START)
        for turn in itertools.islice(self._turn, count):
            weights = self._blocks[turn % len(self._blocks)]
            yield from ((name, weights, turn) for name in inner)
        yield from ((name, self._blocks[0], 0) for name in names if name in END)

    def _step(self, count: int, kv: int) -> Pass:
        """A whole step of decodes, from token ids to token ids; on a CPU in turn with its operators one by one."""
        batch = [Piece(1, kv)] * count
        state = self._state(count, count, batch)
        ids, positions = state.ids.tolist(), state.positions.tolist()
        names = (*START, *self._names, *END)
        operators = self._layers.operators

        def forward() -> None:
            for name, weights, state.layer in self._sequence(names, self.model.num_layers):
                operators[name](state, weights)

        if self._device == "cuda":
            from llmservingsim.profiler.torch_cuda import step_pass

            return step_pass(forward, state, ids)

        def run() -> dict[str, float]:
            begun = time.perf_counter_ns()
            with torch.inference_mode():
                state.ids, state.positions = torch.tensor(ids), torch.tensor(positions)
                forward()
                assert state.sampled is not None
                state.sampled.tolist()
            step_ns = time.perf_counter_ns() - begun
            spent = self._clock(names, state, self.model.num_layers)
            return {"step": step_ns / 1000, "operators": sum(map(sum, spent.values())) / 1000}

        return run

    def _state(self, tokens: int, rows: int, batch: Sequence[Piece]) -> State:
        lengths = [piece.kv_len - piece.query_len + i for piece in batch for i in range(piece.query_len)]
        return State(
            ids=torch.randint(0, self.model.vocab_size // self._layers.tp, (tokens,)).to(self._device),
            positions=torch.tensor(lengths or [0] * tokens, device=self._device),
            rows=torch.arange(tokens - rows, tokens, device=self._device),
            attend=self._attend(batch) if batch else None,
        )

    def _attend(self, batch: Sequence[Piece]) -> SequentialAttention | VarlenAttention:
        layers = self._copies(self._heads.cache_bytes(batch))
        kernel = self._layers.flash_attention
        if kernel is None:
            return SequentialAttention(self._heads, batch, layers)
        return VarlenAttention(kernel, self._heads, batch, layers)

    def _copies(self, size_bytes: int) -> int:
        """How many copies of something exceed the last-level cache twice; at most one per block."""
        return max(1, min(self.model.num_layers, math.ceil(self._cache_bytes / size_bytes)))


def _pieces(shot: Shot) -> list[Piece]:
    """The sequences of a shot of attention."""
    if shot.table is Table.DECODE:
        count, kv = shot.at
        return [Piece(1, kv)] * count
    if shot.table is Table.PREFILL:
        count, chunk, context = shot.at
        return [Piece(chunk, context + chunk)] * count
    chunk, context, count, kv = shot.at
    return [Piece(chunk, context + chunk), *[Piece(1, kv)] * count]


def _choose_device(options: EngineOptions) -> None:
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise ProfileError("--device cuda: torch finds no CUDA device; expected one, or --device cpu")
    elif options.device != "cpu":
        raise ProfileError(f"--device {options.device}: expected cpu or cuda")
    elif options.threads is not None:
        torch.set_num_threads(options.threads)
