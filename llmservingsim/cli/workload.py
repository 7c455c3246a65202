"""``llmservingsim workload``: make request traces."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmservingsim.cli.workload_options import (
    COUNT_HELP,
    LENGTH_HELP,
    TIME_HELP,
    parse_count,
    parse_duration,
    parse_length,
    parse_pairs,
    parse_shares,
)
from llmservingsim.errors import WorkloadError
from llmservingsim.strict import convert
from llmservingsim.workload import GeneratorSpec, generate, write_jsonl

app = typer.Typer(help="Make request traces.", no_args_is_help=True)


class Preset(StrEnum):
    """Published length distributions."""

    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"


class Choice(StrEnum):
    """How a shared prefix is drawn."""

    UNIFORM = "uniform"
    ZIPF = "zipf"


@app.callback()
def _group() -> None:
    """Make request traces."""


@app.command("generate")
def generate_trace(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file to write; .gz compresses.")],
    num_requests: Annotated[int, typer.Option(min=1, help="Requests to make.")] = 300,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    arrival: Annotated[
        str, typer.Option(help="poisson, gamma, fixed, all_at_once, or package.module:Class.")
    ] = "poisson",
    request_rate: Annotated[float, typer.Option(help="Requests per second.")] = 10.0,
    burstiness: Annotated[float, typer.Option(help="Shape of gamma arrivals; below 1 is burstier than Poisson.")] = 1.0,
    arrival_option: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Option of your own process.")] = [],
    lengths: Annotated[Preset | None, typer.Option(help="Published distribution of both lengths.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Draw pairs of lengths from this trace.")] = None,
    input_length: Annotated[str | None, typer.Option(help=LENGTH_HELP)] = None,
    output_length: Annotated[str | None, typer.Option(help=LENGTH_HELP)] = None,
    max_model_len: Annotated[int | None, typer.Option(min=2, help="Longest prompt plus output.")] = None,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="Write token ids, which prefix caching needs.")
    ] = False,
    vocab_size: Annotated[int, typer.Option(min=1, help="Token ids are below this.")] = 32000,
    num_prefixes: Annotated[int, typer.Option(min=0, help="Distinct prefixes that requests share.")] = 0,
    prefix_length: Annotated[int, typer.Option(min=1, help="Tokens of a shared prefix.")] = 256,
    prefix_choice: Annotated[Choice, typer.Option(help="How a request's prefix is drawn.")] = Choice.UNIFORM,
    zipf_exponent: Annotated[float, typer.Option(help="Skew of the zipf choice.")] = 1.0,
    turns: Annotated[str | None, typer.Option(help="Make sessions of so many turns: " + COUNT_HELP)] = None,
    calls_per_turn: Annotated[str | None, typer.Option(help="Calls until an agent answers, tools between.")] = None,
    tool_time: Annotated[str | None, typer.Option(help="How long a tool runs: " + TIME_HELP)] = None,
    tool_length: Annotated[str | None, typer.Option(help="New tokens that a tool brings; else --input-length.")] = None,
    history: Annotated[bool, typer.Option(help="Whether prompts repeat the session so far.")] = True,
    clients: Annotated[int | None, typer.Option(min=1, help="So many clients, who wait for each answer.")] = None,
    think_time: Annotated[str | None, typer.Option(help="From an answer to the next turn: " + TIME_HELP)] = None,
    priorities: Annotated[str | None, typer.Option(help="Shares, as 0=0.2,1=0.8.")] = None,
    models: Annotated[str | None, typer.Option(help="Shares, as meta-llama/Llama-3.2-1B=3,Qwen/Qwen3-32B=1.")] = None,
    patience: Annotated[str | None, typer.Option(help="When clients cancel, from arrival: " + TIME_HELP)] = None,
) -> None:
    """Generate a request trace."""
    rate = {"request_rate": request_rate}
    own = {"poisson": rate, "fixed": rate, "gamma": rate | {"burstiness": burstiness}}.get(arrival, {})
    prompt, answer = _lengths(lengths, trace, input_length, output_length)
    data: dict[str, Any] = {
        "num_requests": num_requests,
        "seed": seed,
        "arrival": {"process": arrival, "options": own | parse_pairs(arrival_option, "--arrival-option")},
        "input_length": prompt,
        "output_length": answer,
        "max_model_len": max_model_len,
        "vocab_size": vocab_size,
        "token_ids": token_ids or num_prefixes > 0,
    }
    if num_prefixes:
        data["prefix"] = {"count": num_prefixes, "length": prefix_length, "choice": prefix_choice.value}
        if prefix_choice is Choice.ZIPF:
            data["prefix"]["exponent"] = zipf_exponent
    data |= _behaviour(clients, think_time, priorities, models, patience)
    sessions = _sessions(turns, calls_per_turn, tool_time, tool_length)
    if sessions or not history:
        data["sessions"] = sessions | {"history": history}
    spec = convert(data, GeneratorSpec, "workload generate", WorkloadError)
    output.parent.mkdir(parents=True, exist_ok=True)
    written = write_jsonl(generate(spec), output)
    print(f"{written:,} requests: {output}")


def _sessions(turns: str | None, calls: str | None, tool_time: str | None, tool_length: str | None) -> dict[str, Any]:
    """Read the options that make sessions of several calls, those that were given."""
    given: dict[str, Any] = {}
    if turns is not None:
        given["turns"] = parse_count(turns, "--turns")
    if calls is not None:
        given["calls_per_turn"] = parse_count(calls, "--calls-per-turn")
    if tool_time is not None:
        given["tool_time"] = parse_duration(tool_time, "--tool-time")
    if tool_length is not None:
        given["tool_length"] = parse_length(tool_length, "--tool-length")
    return given


def _behaviour(
    clients: int | None, think_time: str | None, priorities: str | None, models: str | None, patience: str | None
) -> dict[str, Any]:
    """Read the options that say who sends, those that were given."""
    given: dict[str, Any] = {"clients": clients}
    if think_time is not None:
        given["think_time"] = parse_duration(think_time, "--think-time")
    if priorities is not None:
        given["priorities"] = parse_shares(priorities, "priority", "--priorities")
    if models is not None:
        given["models"] = parse_shares(models, "model", "--models")
    if patience is not None:
        given["patience"] = parse_duration(patience, "--patience")
    return given


def _lengths(
    preset: Preset | None, trace: Path | None, prompt: str | None, answer: str | None
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Choose the two length distributions; single options win over what sets both."""
    both: tuple[Mapping[str, Any], Mapping[str, Any]] | None = None
    if trace is not None:
        both = {"distribution": "empirical", "path": str(trace)}, {"distribution": "paired"}
    elif preset is not None or prompt is None or answer is None:
        named = {"distribution": "preset", "name": (preset or Preset.SHAREGPT).value}
        both = named, named
    first = parse_length(prompt, "--input-length") if prompt is not None else (both or ({}, {}))[0]
    second = parse_length(answer, "--output-length") if answer is not None else (both or ({}, {}))[1]
    return first, second
