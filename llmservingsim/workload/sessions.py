"""Sessions, drawn call by call: each prompt repeats what was said before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from llmservingsim.workload.spec import GeneratorSpec

TokenIds = tuple[int, ...]


class Call(NamedTuple):
    """One call of a session.

    Attributes:
        prompt_tokens, output_tokens: Lengths; the prompt's with all that it repeats.
        token_ids: Of prompt and output, or None.
        pause_ns: From its end to the next call.
        patience_ns: When its client leaves, from its arrival, or None.
    """

    prompt_tokens: int
    output_tokens: int
    token_ids: TokenIds | None
    pause_ns: int
    patience_ns: int | None


@dataclass(frozen=True, slots=True)
class Draws:
    """Everything that is left to chance; each has a random stream of its own.

    Attributes:
        lengths: New tokens of a prompt, and of the answer, per call.
        tool_lengths: New tokens of a prompt that follows a tool; None takes those of ``lengths``.
        prefixes: Per session; empty where none is shared.
        token_ids: Draws so many.
        turns: Per session.
        calls: Per turn.
        think_ns, tool_ns: Pauses, after a turn and within one.
        patience_ns: Per call; None is for ever.
        priorities, models: Per session, or per client.
    """

    lengths: Iterator[tuple[int, int]]
    tool_lengths: Iterator[int] | None
    prefixes: Iterator[TokenIds]
    token_ids: Callable[[int], TokenIds]
    turns: Iterator[int]
    calls: Iterator[int]
    think_ns: Iterator[int]
    tool_ns: Iterator[int]
    patience_ns: Iterator[int | None]
    priorities: Iterator[int]
    models: Iterator[str | None]


def converse(spec: GeneratorSpec, draws: Draws) -> Iterator[Call]:
    """Yield the calls of one session."""
    ids = next(draws.prefixes)
    start = context = 0 if spec.prefix is None else spec.prefix.length
    start_ids = ids
    is_first = True
    limit = spec.max_model_len
    for is_last, is_tool in _steps(draws):
        new, output = next(draws.lengths)
        if is_tool and draws.tool_lengths is not None:
            new = next(draws.tool_lengths)
        prompt = context + new
        if limit is not None:
            if prompt >= limit and not is_first:
                return
            prompt, output = cut_to(limit, prompt, output)
        is_first = False
        told = ids + draws.token_ids(prompt + output - len(ids)) if spec.token_ids else None
        pause_ns = next(draws.think_ns if is_last else draws.tool_ns)
        yield Call(prompt, output, told, pause_ns, next(draws.patience_ns))
        if spec.sessions is not None and spec.sessions.history:
            context, ids = prompt + output, told or ()
        else:
            context, ids = start, start_ids


def cut_to(max_model_len: int, prompt: int, output: int) -> tuple[int, int]:
    """Cut a prompt to one token less than the limit, then its output so that both fit."""
    prompt = min(prompt, max_model_len - 1)
    return prompt, min(output, max_model_len - prompt)


def _steps(draws: Draws) -> Iterator[tuple[bool, bool]]:
    """Yield for each call whether it is the last one of its turn, and whether it follows a tool."""
    for _ in range(next(draws.turns)):
        calls = next(draws.calls)
        for number in range(calls):
            yield number == calls - 1, number > 0
