"""JSON and YAML files as typed fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.backend.fields import Fields
from llmservingsim.errors import TraceError, cut

_CONSTRUCTOR_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML lets through from Python: of the month 13, of ``!!bool maybe``, of an integer of 5000 digits."""

_DEPTH_MAX = 100
"""Of YAML; libyaml's composer overflows the stack, and ends the process, at some thousands."""


def read_json(path: Path) -> Fields:
    """Read an object. Raises TraceError naming the file."""
    try:
        return Fields(path, msgspec.json.decode(_text(path)))
    except (msgspec.DecodeError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON: {cut(str(error))}") from error


def read_yaml(path: Path) -> Fields:
    """Read an object. Raises TraceError naming the file."""
    import yaml

    try:
        return Fields(path, _load_yaml(_text(path)))
    except (yaml.YAMLError, *_CONSTRUCTOR_ERRORS) as error:
        raise TraceError(f"{path}: not YAML: {cut(' '.join(str(error).split()))}") from error


def _load_yaml(text: str) -> Any:
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=_yaml_loader()):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH_MAX:
            raise yaml.YAMLError(f"lists and objects stand in each other more than {_DEPTH_MAX} deep")
    return yaml.load(text, Loader=_yaml_loader())


@cache
def _yaml_loader() -> Any:
    """Return a loader that knows no merge keys, of which a short file can make more than memory holds."""
    import yaml

    fastest = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is

    def refuse_merges(_: Any, node: Any) -> None:
        for key, _value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)

    return type("_Loader", (fastest,), {"flatten_mapping": refuse_merges})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, indented."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
