"""Options of ``workload generate`` that are written as a text: distributions, shares, KEY=VALUE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmservingsim.errors import ConfigError, nearest, one_of

LENGTH_HELP = "128, uniform:1-512, lognormal:mean=161,sigma=1[,min=1,max=2048], or empirical:FILE[:column]."
COUNT_HELP = "4, uniform:1-8, lognormal:mean=4,sigma=0.5, or empirical:FILE:column."
TIME_HELP = "2s, exponential:mean=2s, uniform:1s-5s, or lognormal:median=2s,sigma=1 (or mean=..)."


def parse_length(text: str, option: str) -> Mapping[str, Any]:
    """Read a length distribution as `LENGTH_HELP` describes it."""
    if text.isdecimal():
        return {"distribution": "fixed", "tokens": int(text)}
    kind, _, rest = text.partition(":")
    if kind == "uniform":
        low, dash, high = rest.partition("-")
        if dash and low.isdecimal() and high.isdecimal():
            return {"distribution": "uniform", "min": int(low), "max": int(high)}
        raise ConfigError(f"{option} {text}: expected uniform:MIN-MAX, such as uniform:1-512")
    if kind == "lognormal":
        return {"distribution": "lognormal"} | parse_pairs(rest.split(","), option)
    if kind == "empirical":
        path, colon, column = rest.partition(":")
        return {"distribution": "empirical", "path": path} | ({"column": column} if colon else {})
    kinds = ("uniform", "lognormal", "empirical")
    raise ConfigError(
        f"{option} {text}: expected a number or one of {one_of(kinds)}{nearest(kind, kinds)}: {LENGTH_HELP}"
    )


def parse_count(text: str, option: str) -> int | Mapping[str, Any]:
    """Read a number or its distribution as `COUNT_HELP` describes it."""
    return int(text) if text.isdecimal() else parse_length(text, option)


def parse_duration(text: str, option: str) -> str | Mapping[str, Any]:
    """Read a time or its distribution as `TIME_HELP` describes it."""
    kind, colon, rest = text.partition(":")
    if not colon:
        return text
    if kind == "uniform":
        low, _, high = rest.partition("-")
        return {"distribution": "uniform", "min": low, "max": high}
    kinds = ("exponential", "uniform", "lognormal")
    if kind not in kinds:
        raise ConfigError(
            f"{option} {text}: expected a time or one of {one_of(kinds)}{nearest(kind, kinds)}: {TIME_HELP}"
        )
    return {"distribution": kind} | parse_pairs(rest.split(","), option)


def parse_shares(text: str, key: str, option: str) -> list[dict[str, float | str]]:
    """Read NAME=SHARE items into entries of ``key`` and ``share``."""
    entries: list[dict[str, float | str]] = []
    for item in text.split(","):
        name, equals, share = item.rpartition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: expected {key.upper()}=SHARE, separated by commas")
        entries.append({key: number_of(name), "share": number_of(share)})
    return entries


def parse_pairs(texts: list[str], option: str) -> dict[str, float | str]:
    """Read KEY=VALUE items; numbers become numbers."""
    pairs: dict[str, float | str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{option} {text}: expected KEY=VALUE")
        pairs[key] = number_of(value)
    return pairs


def number_of(text: str) -> float | str:
    """Return a whole number as int, any other as float, and what is no number as it is."""
    try:
        number = float(text)
        return int(number) if number.is_integer() else number
    except (ValueError, OverflowError):
        return text
