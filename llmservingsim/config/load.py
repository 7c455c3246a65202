"""A run file from disk, with its overrides: TOML, YAML or JSON, ours or LLMServingSim 2.0's."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.config.peer import import_peer_file, is_peer_file
from llmservingsim.config.spec import RunSpec
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.strict import convert

SUFFIXES = (".json", ".toml", ".yaml", ".yml")


def load_run(path: Path, overrides: Sequence[str] = ()) -> tuple[RunSpec, list[str]]:
    """Read a run file.

    Args:
        path: The file.
        overrides: ``a.b=c`` each, as `apply_overrides` takes them.

    Returns:
        The run, and notes about what the file says and the run does not use.

    Raises:
        ConfigError: If the file cannot be read or says something wrong.
    """
    data = read_data(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and their values, 'nodes' among them, got {data!r:.40}")
    if is_peer_file(data):
        spec, notes = import_peer_file(data, str(path))
    else:
        spec, notes = convert(data, RunSpec, str(path), ConfigError), []
    return apply_overrides(spec, overrides), notes


def read_data(path: Path) -> object:
    """Parse a TOML, YAML or JSON file into built-in types."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory; expected a run file, which ends in {one_of(SUFFIXES)}")
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file{nearest(path.name, siblings)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_distinct)
        if path.suffix in SUFFIXES:
            return _read_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply; expected a run file") from error
    raise ConfigError(f"{path}: expected a file that ends in {one_of(SUFFIXES)}")


def apply_overrides(spec: RunSpec, overrides: Sequence[str]) -> RunSpec:
    """Set leaves by their path: ``serving.max_num_seqs=64``, ``nodes.0.instances.0.hardware=H200``.

    A value is read as JSON, and as text where it is none.

    Raises:
        ConfigError: If a path leads nowhere or a value does not fit.
    """
    if not overrides:
        return spec
    data = _plain(spec)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {override}: expected key.path=value")
        _set(data, path.split("."), _value(text), override)
    return convert(data, RunSpec, "--set " + ", ".join(overrides), ConfigError)


def _plain(value: Any) -> Any:
    """Turn structs into dictionaries and tuples into lists, keeping every key."""
    if isinstance(value, msgspec.Struct):
        return {key: _plain(getattr(value, key)) for key in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return _Open((key, _plain(v)) for key, v in value.items())
    return value


class _Open(dict[str, object]):
    """Entries by names, or a section that the file left out: what it may hold is known once it is a struct."""


def _set(data: Any, keys: Sequence[str], value: object, override: str) -> None:
    for depth, key in enumerate(keys):
        where = ".".join(keys[:depth]) or "the run"
        last = depth == len(keys) - 1
        if isinstance(data, list):
            if not key.isdecimal() or int(key) >= len(data):
                raise ConfigError(f"--set {override}: {where} has the entries 0 to {len(data) - 1}, got {key!r}")
            place: Any = int(key)
        elif isinstance(data, dict):
            if key not in data and not isinstance(data, _Open):
                raise ConfigError(
                    f"--set {override}: {where} has no key {key!r}{nearest(key, data)}; expected {one_of(data, 24)}"
                )
            place = key
        else:
            raise ConfigError(f"--set {override}: {where} is a value, it has no key {key!r}")
        if last:
            data[place] = value
        elif isinstance(data, dict) and data.get(place) is None:
            data[place] = _Open()
        data = data[place]


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _distinct(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Make an object of its pairs; JSON alone would let the last of two equal keys win in silence."""
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one section")
        found[key] = value
    return found


def _read_yaml(text: str) -> object:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _check_keys(root)
        return None if root is None else loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise ValueError(f"{place}broken YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"broken YAML: {' '.join(str(error).split())}") from error


def _check_keys(root: Any) -> None:
    """Raise for a key that stands twice in a mapping; PyYAML alone would let the last one win in silence."""
    import yaml

    seen, nodes = set(), [root]
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for position, (key, value) in enumerate(node.value):
                nodes.append(value)
                if key.value in keys[:position]:
                    problem = f"the key {key.value!r} stands twice in one section"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)


def json_schema() -> Mapping[str, Any]:
    """Return the JSON schema of a run file."""
    return msgspec.json.schema(RunSpec)
