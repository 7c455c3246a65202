"""Data into frozen structs that reject what they do not know, and words for what they reject."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from llmservingsim.errors import UserError, nearest, one_of

T = TypeVar("T")

_PATH = re.compile(r" - at (`key` in )?`\$\.?(?P<path>.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>.*)`$")
_MISSING = re.compile(r"Object missing required field `(?P<key>.*)`$")
_EXPECTED = re.compile(r"Expected (?P<what>.*?)(, got `.*`)?$")
_VALUE_LENGTH_MAX = 40


def convert(value: object, kind: type[T], where: str, error: type[UserError]) -> T:
    """Turn built-in data into a struct.

    Args:
        value: Dictionaries, lists and scalars.
        kind: A msgspec Struct.
        where: File or key path for the message.
        error: What to raise, naming the path of the wrong key, what was expected and the nearest known key.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        found = _PATH.search(str(problem))
        there = _type_at(kind, found["path"] if found else "")
        keys = sorted({key for struct in _structs(there) for key in struct.__struct_fields__})
        text = explain_value(value, problem, "section", keys)
        wrong = _follow(value, found["path"]) if found else value
        if "expected str" in text and isinstance(wrong, int | float):
            text += '; a name of digits stands in quotes, a quantity has a unit, such as "80GiB" or "2us"'
        if "Invalid enum value" in text or "Invalid value" in text:  # of a literal, or of the key that says which kind
            choices = [str(c) for c in _choices(there) or [s.__struct_config__.tag for s in _structs(there)]]
            text = f"{text}{nearest(str(wrong), choices)}; expected one of {one_of(choices)}"
        raise error(f"{where}: {text}") from None


def _type_at(kind: Any, path: str) -> Any:
    """Return the annotation that a path such as ``nodes[0].instances[1].dtype`` leads to."""
    for name in re.findall(r"[^.\[\]]+", re.sub(r"\[[^\]]*\]", "", path)):
        for struct in _structs(kind):
            hints = get_type_hints(struct)
            if name in hints:
                kind = hints[name]
                break
    return kind


def _choices(kind: Any) -> list[object]:
    """The values of the literals inside an annotation such as ``Literal["fcfs", "priority"] | None``."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for inner in get_args(kind) for choice in _choices(inner)]


def _structs(kind: Any) -> list[Any]:
    """The struct types inside an annotation such as ``tuple[Node, ...] | None``."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for inner in get_args(kind) for struct in _structs(inner)]


def explain(line: bytes, error: Exception, kind: str, keys: Sequence[str]) -> str:
    """Turn msgspec's message about a JSON line into one that names key, expectation and value.

    Args:
        line: What was decoded.
        error: What msgspec or the UTF-8 decoder raised.
        kind: What the line was taken for, such as ``"request"``.
        keys: Keys that are known there, for the nearest one.
    """
    if not isinstance(error, msgspec.ValidationError):
        return f"broken JSON: {error}"
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:  # behind the key that does not fit
        return f"broken JSON: {problem}"
    return explain_value(value, error, kind, keys)


def explain_value(value: object, error: msgspec.ValidationError, kind: str, keys: Sequence[str]) -> str:
    """Do what `explain` does, for a value that is already decoded."""
    message = str(error)
    found = _PATH.search(message)
    path = found["path"] if found else ""
    text = _PATH.sub("", message)
    place = f"{path}: " if path else ""
    if "at `key` in" in message:
        wrong = next(key for key in dict(_follow(value, path)) if not isinstance(key, str))  # type: ignore[call-overload]
        return f"{place or kind + ': '}expected keys that are text, got {_show(wrong)}"
    if match := _UNKNOWN.match(text):
        key = match["key"]
        return f"{place}unknown key {key!r} in a {kind}{nearest(key, keys)}; expected {one_of(set(keys))}"
    if match := _MISSING.match(text):
        return f"{place}the {kind} lacks the key {match['key']!r}"
    if match := _EXPECTED.match(text):
        what = match["what"].replace("`", "")
        return f"{place or kind + ': '}expected {what}, got {_show(_follow(value, path))}"
    return place + text


def _follow(value: Any, path: str) -> object:
    """Walk a path such as ``sub_requests[1].input_toks``; return what is there."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if isinstance(value, list) and index:
            value = value[int(index)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
    return value


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _VALUE_LENGTH_MAX else text[:_VALUE_LENGTH_MAX] + "..."
