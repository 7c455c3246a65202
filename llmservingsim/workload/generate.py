"""Workloads drawn from a specification and a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice, repeat
from numbers import Integral
from typing import TypeVar

import msgspec
import numpy as np

from llmservingsim.errors import WorkloadError
from llmservingsim.strict import explain_value
from llmservingsim.workload.arrival import make_arrival_process
from llmservingsim.workload.durations import draw_durations
from llmservingsim.workload.lengths import draw_counts, draw_lengths, draw_tokens
from llmservingsim.workload.protocol import Session
from llmservingsim.workload.request import RequestSpec
from llmservingsim.workload.sessions import Call, Draws, converse, cut_to
from llmservingsim.workload.spec import GeneratorSpec, PrefixSpec, SessionSpec

T = TypeVar("T")

_BLOCK = 1024


def generate(spec: GeneratorSpec) -> Iterator[RequestSpec | Session]:
    """Yield the requests, or sessions, of ``spec`` by arrival.

    None is held, but where clients send them. Then all are, because the calls of one client stand together; otherwise
    the first do not depend on ``num_requests``: a longer workload begins with the shorter one.

    Raises:
        WorkloadError: At once, if the specification is out of range or contradicts itself, or if a file of lengths
            cannot be used.
        PluginError: At once, if nothing has the name of the arrival process.
    """
    _check(spec)
    # A new stream goes to the end of this list, so that the others stay as they are.
    arrival, inputs, outputs, prefix, tokens, turns, calls, think, tool, tool_input, priority, model, patience = (
        np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(spec.seed).spawn(13)
    )
    gaps_ns = make_arrival_process(spec.arrival).gaps_ns(arrival)
    session = spec.sessions or SessionSpec()
    draws = Draws(
        lengths=draw_lengths(spec, inputs, outputs),
        tool_lengths=None if session.tool_length is None else draw_tokens(session.tool_length, tool_input),
        prefixes=_prefixes(spec.prefix, spec.vocab_size, prefix),
        token_ids=lambda count: tuple(tokens.integers(spec.vocab_size, size=count).tolist()),
        turns=draw_counts(session.turns, "sessions.turns", turns),
        calls=draw_counts(session.calls_per_turn, "sessions.calls_per_turn", calls),
        think_ns=draw_durations(spec.think_time, "think_time", think),
        tool_ns=draw_durations(session.tool_time, "sessions.tool_time", tool),
        patience_ns=_patience(spec, patience),
        priorities=_shares([(p.priority, p.share) for p in spec.priorities] or [(0, 1.0)], priority),
        models=_shares([(m.model, m.share) for m in spec.models] or [(None, 1.0)], model),
    )
    if spec.clients is not None:
        return _of_clients(spec, gaps_ns, draws)
    return _requests(spec, gaps_ns, draws) if spec.sessions is None else _sessions(spec, gaps_ns, draws)


def _requests(spec: GeneratorSpec, gaps_ns: Iterator[int], draws: Draws) -> Iterator[RequestSpec]:
    arrival_ns = 0
    prefix_length = 0 if spec.prefix is None else spec.prefix.length
    for request_id in range(spec.num_requests):
        arrival_ns += _gap_ns(gaps_ns, spec.arrival.process)
        prompt, output = next(draws.lengths)
        prompt += prefix_length
        if spec.max_model_len is not None:
            prompt, output = cut_to(spec.max_model_len, prompt, output)
        token_ids = None
        if spec.token_ids:
            prefix = next(draws.prefixes)
            token_ids = prefix + draws.token_ids(prompt + output - len(prefix))
        yield RequestSpec(
            request_id=request_id,
            arrival_ns=arrival_ns,
            prompt_tokens=prompt,
            output_tokens=output,
            token_ids=token_ids,
            priority=next(draws.priorities),
            model=next(draws.models),
            abort_after_ns=next(draws.patience_ns),
        )


def _sessions(spec: GeneratorSpec, gaps_ns: Iterator[int], draws: Draws) -> Iterator[Session]:
    arrival_ns = first_id = 0
    while first_id < spec.num_requests:
        arrival_ns += _gap_ns(gaps_ns, spec.arrival.process)
        calls = list(islice(converse(spec, draws), spec.num_requests - first_id))
        yield _session(calls, first_id, arrival_ns, f"session-{first_id}", draws)
        first_id += len(calls)


def _of_clients(spec: GeneratorSpec, gaps_ns: Iterator[int], draws: Draws) -> Iterator[Session]:
    """Deal sessions to the clients in turn, then yield what each sends, by the time when it begins."""
    sent: list[list[Call]] = [[] for _ in range(min(spec.clients or 1, spec.num_requests))]
    left = spec.num_requests
    for client in cycle(sent):
        if not left:
            break
        calls = list(islice(converse(spec, draws), left))
        client.extend(calls)
        left -= len(calls)
    arrival_ns = first_id = 0
    for number, calls in enumerate(filter(None, sent)):
        arrival_ns += _gap_ns(gaps_ns, spec.arrival.process)
        yield _session(calls, first_id, arrival_ns, f"client-{number}", draws)
        first_id += len(calls)


def _session(calls: Sequence[Call], first_id: int, arrival_ns: int, session_id: str, draws: Draws) -> Session:
    priority, model = next(draws.priorities), next(draws.models)
    specs = tuple(
        RequestSpec(
            request_id=first_id + k,
            arrival_ns=arrival_ns,
            prompt_tokens=call.prompt_tokens,
            output_tokens=call.output_tokens,
            token_ids=call.token_ids,
            session_id=session_id,
            priority=priority,
            model=model,
            abort_after_ns=call.patience_ns,
        )
        for k, call in enumerate(calls)
    )
    return Session(specs, tuple(call.pause_ns for call in calls))


def _gap_ns(gaps_ns: Iterator[int], process: str) -> int:
    gap_ns = next(gaps_ns, None)
    if isinstance(gap_ns, Integral) and gap_ns >= 0:
        return int(gap_ns)
    raise WorkloadError(f"arrival {process!r}: expected a gap of 0 ns or more for every request, got {gap_ns!r}")


def _patience(spec: GeneratorSpec, rng: np.random.Generator) -> Iterator[int | None]:
    """Yield how long each client waits, 1 ns at least."""
    if spec.patience is None:
        return repeat(None)
    return (max(ns, 1) for ns in draw_durations(spec.patience, "patience", rng))


def _shares(choices: Sequence[tuple[T, float]], rng: np.random.Generator) -> Iterator[T]:
    """Yield values without end, each in proportion to its share."""
    values = [value for value, _ in choices]
    if len(values) == 1:
        yield from repeat(values[0])
    shares = np.array([share for _, share in choices])
    while True:
        for k in rng.choice(len(values), size=_BLOCK, p=shares / shares.sum()).tolist():
            yield values[k]


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
    if spec.think_time != "0ns" and spec.sessions is None and spec.clients is None:
        raise WorkloadError("generator: think_time needs sessions or clients; nobody else waits for an answer")
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
