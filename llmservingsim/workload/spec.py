"""What a generated workload is made of, as a user states it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Number = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Part = Annotated[float, Meta(gt=0, le=1e9)]


class ArrivalSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When requests come.

    Attributes:
        process: ``poisson``, ``gamma``, ``fixed``, ``all_at_once``, an entry point in the group
            ``llmservingsim.arrival``, or ``package.module:Class``.
        options: The fields of that process, such as ``{"request_rate": 10, "burstiness": 0.5}``.
    """

    process: str = "all_at_once"
    options: dict[str, Any] = {}


class FixedLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="fixed"):
    """Every length is ``tokens``."""

    tokens: Tokens


class UniformLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="uniform"):
    """Whole numbers from ``min`` to ``max``, both included, each as likely."""

    min: Tokens
    max: Tokens


class LognormalLength(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="lognormal"
):
    """``exp`` of a normal variable, rounded and clipped into [``min``, ``max``].

    Attributes:
        sigma: Standard deviation of the logarithm.
        mean: Mean before clipping; the median is then ``mean * exp(-sigma**2 / 2)``. Give this or ``median``.
        median: Median before clipping.
        min: Smallest length.
        max: Largest length, None for no bound.
    """

    sigma: Annotated[float, Meta(ge=0, le=10)]
    mean: Annotated[float, Meta(gt=0)] | None = None
    median: Annotated[float, Meta(gt=0)] | None = None
    min: Tokens = 1
    max: Tokens | None = None


class EmpiricalLength(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="empirical"
):
    """Lengths drawn, with replacement, from the rows of a file.

    Attributes:
        path: A CSV file with a header, or JSON lines (``.gz`` too); a workload trace is one, with each sub-request of
            a session a row.
        column: Column or key that holds the length. None reads ``input_toks`` for inputs, ``output_toks`` for outputs.
    """

    path: str
    column: str | None = None


class PairedLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="paired"):
    """For outputs only: the output of the very row that gave the input, which must be `EmpiricalLength`.

    Keeps the correlation of the two lengths that independent draws lose.

    Attributes:
        column: Column or key that holds the output length.
    """

    column: str = "output_toks"


class PresetLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="preset"):
    """A lognormal length with a published mean, for inputs and outputs of a well-known data set.

    The means are those of Kwon et al., "Efficient Memory Management for Large Language Model Serving with
    PagedAttention", SOSP 2023, figure 11: ShareGPT 161.31 tokens in and 337.99 out, Alpaca 19.31 in and 58.45 out.
    The paper gives no spread. ``sigma`` is 1: vLLM's benchmark drops ShareGPT prompts above 1024 tokens and
    conversations above 2048, and a lognormal of these means has 99 % of its inputs below 1024 at ``sigma`` 1.02 and 99
    % of its outputs below 2048 at 0.98. Alpaca takes the same relative spread for want of a better figure. Inputs and
    outputs are drawn independently. Use `EmpiricalLength` where a trace is at hand.

    Attributes:
        name: ``sharegpt`` or ``alpaca``.
    """

    name: str


LengthSpec = FixedLength | UniformLength | LognormalLength | EmpiricalLength | PairedLength | PresetLength


CountSpec = Number | UniformLength | LognormalLength | EmpiricalLength
"""How often: a number, or a distribution as of lengths; an empirical one names its column."""


class ExponentialDuration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="exponential"
):
    """The time until something that may happen at any moment.

    Attributes:
        mean: As ``"5s"``.
    """

    mean: str


class UniformDuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="uniform"):
    """Any time from ``min`` to ``max``, as ``"1s"``, each as likely."""

    min: str
    max: str


class LognormalDuration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution", tag="lognormal"
):
    """``exp`` of a normal variable: mostly short, now and then long.

    Attributes:
        sigma: Standard deviation of the logarithm.
        mean: As ``"5s"``; the median is then ``mean * exp(-sigma**2 / 2)``. Give this or ``median``.
        median: As ``"3s"``.
    """

    sigma: Annotated[float, Meta(ge=0, le=10)]
    mean: str | None = None
    median: str | None = None


DurationSpec = str | ExponentialDuration | UniformDuration | LognormalDuration
"""A time such as ``"2s"``, or a distribution of times."""


class SessionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Conversations: calls that follow each other, each sent after the answer to the one before.

    A session has ``turns``, each of ``calls_per_turn``. Between two turns the user thinks; between two calls of a turn
    a tool runs, whose result is the next call's new input. It ends early where ``max_model_len`` leaves no room.

    Attributes:
        turns: How often the user asks.
        calls_per_turn: Calls until an agent has the answer; 1 for a chat.
        tool_time: How long a tool runs.
        tool_length: New tokens of a call that follows a tool; null takes ``input_length``.
        history: Whether a prompt repeats the session so far, prompts and answers, before its new tokens.
    """

    turns: CountSpec = 1
    calls_per_turn: CountSpec = 1
    tool_time: DurationSpec = "0ns"
    tool_length: LengthSpec | None = None
    history: bool = True


class PriorityShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A priority and its share of the requests; only ratios of shares matter."""

    priority: int
    share: Part


class ModelShare(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that is asked for, as the run file names it, and its share of the requests; only ratios matter."""

    model: str
    share: Part


class PrefixSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prefixes, such as system prompts, that requests share.

    Attributes:
        count: How many there are. No two begin with the same token id.
        length: Tokens of each; they come before the tokens of ``input_length``.
        choice: How a request picks one.
        exponent: Of ``zipf``: prefix ``i`` (from 1) is picked in proportion to ``i ** -exponent``.
    """

    count: Annotated[int, Meta(ge=1)]
    length: Tokens
    choice: Literal["uniform", "zipf"] = "uniform"
    exponent: Annotated[float, Meta(ge=0, le=10)] = 1.0


class GeneratorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A workload to draw.

    Attributes:
        num_requests: How many requests.
        input_length: Prompt tokens, without the shared prefix.
        output_length: Tokens to generate.
        arrival: When requests come.
        seed: Same spec and seed, same requests. Arrivals, input lengths, output lengths, prefixes, token ids and so on
            have streams of their own: changing one leaves the others as they are.
        prefix: Prefixes that requests, or whole sessions, share; needs ``token_ids``.
        max_model_len: Prompts are cut to one token less, then outputs so that both fit.
        vocab_size: Token ids are drawn from 0 to ``vocab_size - 1``.
        token_ids: Whether to draw token ids; without them nothing is found in a prefix cache.
        sessions: Sessions of several calls instead of single requests; they, not their calls, come by ``arrival``.
        clients: So many clients send all requests or sessions, dealt to them in turn, one after another; ``arrival``
            says when each begins.
        think_time: Between an answer and the next turn of the session, or the next thing that the client sends.
        priorities: Drawn for each request, or for a whole session or client; none means 0.
        models: Likewise; none leaves it to the cluster.
        patience: After so long from its arrival the client cancels a call that has not ended; null means never.
    """

    num_requests: Annotated[int, Meta(ge=1)]
    input_length: LengthSpec
    output_length: LengthSpec
    arrival: ArrivalSpec = ArrivalSpec()
    seed: Annotated[int, Meta(ge=0)] = 0
    prefix: PrefixSpec | None = None
    max_model_len: Annotated[int, Meta(ge=2)] | None = None
    vocab_size: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 32_000
    token_ids: bool = False
    sessions: SessionSpec | None = None
    clients: Number | None = None
    think_time: DurationSpec = "0ns"
    priorities: tuple[PriorityShare, ...] = ()
    models: tuple[ModelShare, ...] = ()
    patience: DurationSpec | None = None
