"""Workloads drawn from a specification and a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import repeat
from numbers import Integral

import msgspec
import numpy as np

from llmservingsim.errors import WorkloadError
from llmservingsim.strict import explain_value
from llmservingsim.workload.arrival import make_arrival_process
from llmservingsim.workload.lengths import draw_lengths
from llmservingsim.workload.request import RequestSpec
from llmservingsim.workload.spec import GeneratorSpec, PrefixSpec

_BLOCK = 1024


def generate(spec: GeneratorSpec) -> Iterator[RequestSpec]:
    """Yield the requests of ``spec`` by arrival, without holding them.

    The first requests do not depend on ``num_requests``: a longer workload begins with the shorter one.

    Raises:
        WorkloadError: At once, if the specification is out of range or contradicts itself, or if a file of lengths
            cannot be used.
        PluginError: At once, if nothing has the name of the arrival process.
    """
    _check(spec)
    # A new stream goes to the end of this list, so that the others stay as they are.
    arrival, inputs, outputs, prefix, tokens = (
        np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(spec.seed).spawn(5)
    )
    gaps_ns = make_arrival_process(spec.arrival).gaps_ns(arrival)
    prefixes = _prefixes(spec.prefix, spec.vocab_size, prefix)
    return _requests(spec, gaps_ns, draw_lengths(spec, inputs, outputs), _token_ids(spec.vocab_size, prefixes, tokens))


def _requests(
    spec: GeneratorSpec,
    gaps_ns: Iterator[int],
    lengths: Iterator[tuple[int, int]],
    draw_token_ids: Callable[[int], tuple[int, ...]],
) -> Iterator[RequestSpec]:
    arrival_ns = 0
    prefix_length = 0 if spec.prefix is None else spec.prefix.length
    for request_id in range(spec.num_requests):
        arrival_ns += _gap_ns(gaps_ns, spec.arrival.process)
        prompt, output = next(lengths)
        prompt += prefix_length
        if spec.max_model_len is not None:
            prompt = min(prompt, spec.max_model_len - 1)
            output = min(output, spec.max_model_len - prompt)
        yield RequestSpec(
            request_id=request_id,
            arrival_ns=arrival_ns,
            prompt_tokens=prompt,
            output_tokens=output,
            token_ids=draw_token_ids(prompt + output) if spec.token_ids else None,
        )


def _gap_ns(gaps_ns: Iterator[int], process: str) -> int:
    gap_ns = next(gaps_ns, None)
    if isinstance(gap_ns, Integral) and gap_ns >= 0:
        return int(gap_ns)
    raise WorkloadError(f"arrival {process!r}: expected a gap of 0 ns or more for every request, got {gap_ns!r}")


def _token_ids(
    vocab_size: int, prefixes: Iterator[tuple[int, ...]], rng: np.random.Generator
) -> Callable[[int], tuple[int, ...]]:
    """Return a function that draws the ids of one request, given how many."""

    def draw(count: int) -> tuple[int, ...]:
        prefix = next(prefixes)
        return prefix + tuple(rng.integers(vocab_size, size=count - len(prefix)).tolist())

    return draw


def _prefixes(spec: PrefixSpec | None, vocab_size: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """Yield the prefix of one request after the other; an empty one where none is shared."""
    if spec is None:
        yield from repeat(())
        return
    ids = rng.integers(vocab_size, size=(spec.count, spec.length))
    ids[:, 0] = rng.choice(vocab_size, size=spec.count, replace=False)
    prefixes = [tuple(row) for row in ids.tolist()]
    weights = np.arange(1, spec.count + 1) ** -(spec.exponent if spec.choice == "zipf" else 0.0)
    while True:
        for k in rng.choice(spec.count, size=_BLOCK, p=weights / weights.sum()).tolist():
            yield prefixes[k]


def _check(spec: GeneratorSpec) -> None:
    """Check the ranges, which msgspec does only when it decodes, and what fields say about each other."""
    fields = msgspec.to_builtins(spec)
    try:
        msgspec.convert(fields, GeneratorSpec)
    except msgspec.ValidationError as error:
        message = explain_value(fields, error, "generator", GeneratorSpec.__struct_fields__)
        raise WorkloadError(f"generator: {message}") from error
    prefix = spec.prefix
    if prefix is None:
        return
    if not spec.token_ids:
        raise WorkloadError("generator: prefix needs token_ids: true; without token ids nothing is shared")
    if prefix.count > spec.vocab_size:
        raise WorkloadError(f"generator: prefix.count is {prefix.count}; expected at most vocab_size {spec.vocab_size}")
    if spec.max_model_len is not None and prefix.length > spec.max_model_len - 2:
        raise WorkloadError(
            f"generator: prefix.length is {prefix.length}; expected at most max_model_len - 2 = "
            f"{spec.max_model_len - 2}, to leave room for a token of input and one of output"
        )
