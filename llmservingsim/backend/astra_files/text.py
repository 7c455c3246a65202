"""JSON and YAML files as typed fields."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.backend.fields import Fields
from llmservingsim.errors import TraceError


def read_json(path: Path) -> Fields:
    """Read an object. Raises TraceError naming the file."""
    try:
        return Fields(path, msgspec.json.decode(_text(path)))
    except msgspec.DecodeError as error:
        raise TraceError(f"{path}: not JSON: {error}") from error


def read_yaml(path: Path) -> Fields:
    """Read an object. Raises TraceError naming the file."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is
    try:
        return Fields(path, yaml.load(_text(path), Loader=loader))
    except yaml.YAMLError as error:
        raise TraceError(f"{path}: not YAML: {error}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, indented."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
