"""``llmservingsim workload``: make request traces."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmservingsim.errors import ConfigError, WorkloadError, nearest, one_of
from llmservingsim.strict import convert
from llmservingsim.workload import GeneratorSpec, generate, write_jsonl

app = typer.Typer(help="Make request traces.", no_args_is_help=True)

_LENGTH_HELP = "128, uniform:1-512, lognormal:mean=161,sigma=1[,min=1,max=2048], or empirical:FILE[:column]."


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
    input_length: Annotated[str | None, typer.Option(help=_LENGTH_HELP)] = None,
    output_length: Annotated[str | None, typer.Option(help=_LENGTH_HELP)] = None,
    max_model_len: Annotated[int | None, typer.Option(min=2, help="Longest prompt plus output.")] = None,
    token_ids: Annotated[
        bool, typer.Option("--token-ids", help="Write token ids, which prefix caching needs.")
    ] = False,
    vocab_size: Annotated[int, typer.Option(min=1, help="Token ids are below this.")] = 32000,
    num_prefixes: Annotated[int, typer.Option(min=0, help="Distinct prefixes that requests share.")] = 0,
    prefix_length: Annotated[int, typer.Option(min=1, help="Tokens of a shared prefix.")] = 256,
    prefix_choice: Annotated[Choice, typer.Option(help="How a request's prefix is drawn.")] = Choice.UNIFORM,
    zipf_exponent: Annotated[float, typer.Option(help="Skew of the zipf choice.")] = 1.0,
) -> None:
    """Generate a request trace."""
    options: dict[str, Any] = {"poisson": {"request_rate": request_rate}, "fixed": {"request_rate": request_rate}}.get(
        arrival, {}
    )
    if arrival == "gamma":
        options = {"request_rate": request_rate, "burstiness": burstiness}
    prompt, answer = _lengths(lengths, trace, input_length, output_length)
    data: dict[str, Any] = {
        "num_requests": num_requests,
        "seed": seed,
        "arrival": {"process": arrival, "options": options | _pairs(arrival_option, "--arrival-option")},
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
    spec = convert(data, GeneratorSpec, "workload generate", WorkloadError)
    output.parent.mkdir(parents=True, exist_ok=True)
    written = write_jsonl(generate(spec), output)
    print(f"{written:,} requests: {output}")


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
    first = _length(prompt, "--input-length") if prompt is not None else (both or ({}, {}))[0]
    second = _length(answer, "--output-length") if answer is not None else (both or ({}, {}))[1]
    return first, second


def _length(text: str, option: str) -> Mapping[str, Any]:
    """Read a length distribution as `_LENGTH_HELP` describes it."""
    if text.isdecimal():
        return {"distribution": "fixed", "tokens": int(text)}
    kind, _, rest = text.partition(":")
    if kind == "uniform":
        low, dash, high = rest.partition("-")
        if dash and low.isdecimal() and high.isdecimal():
            return {"distribution": "uniform", "min": int(low), "max": int(high)}
        raise ConfigError(f"{option} {text}: expected uniform:MIN-MAX, such as uniform:1-512")
    if kind == "lognormal":
        return {"distribution": "lognormal"} | _pairs(rest.split(","), option)
    if kind == "empirical":
        path, colon, column = rest.partition(":")
        return {"distribution": "empirical", "path": path} | ({"column": column} if colon else {})
    kinds = ("uniform", "lognormal", "empirical")
    raise ConfigError(
        f"{option} {text}: expected a number or one of {one_of(kinds)}{nearest(kind, kinds)}: {_LENGTH_HELP}"
    )


def _pairs(texts: list[str], option: str) -> dict[str, float | str]:
    """Read KEY=VALUE items; numbers become numbers."""
    pairs: dict[str, float | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: expected KEY=VALUE")
        try:
            number = float(value)
            pairs[key] = int(number) if number.is_integer() else number
        except (ValueError, OverflowError):
            pairs[key] = value
    return pairs
