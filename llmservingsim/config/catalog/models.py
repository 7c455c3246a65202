"""Models by name: in the user's directories, as a path, or in the built-in catalogue."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmservingsim.config.catalog.hf_config import from_hf_config
from llmservingsim.config.catalog.model import ModelSpec
from llmservingsim.errors import ModelError, nearest, one_of


def find_model(name: str, dirs: Sequence[Path] = ()) -> ModelSpec:
    """Return the model called ``name``.

    Looked up in this order: ``DIR/<org>/<model>.json`` and ``DIR/<org>/<model>/config.json`` of each directory;
    ``name`` as the path of a config.json or of a directory that holds one; the built-in catalogue.

    Raises:
        ModelError: Nothing answers to the name, or the file that does is broken.
    """
    for candidate in _candidates(name, dirs):
        if candidate.is_file():
            return from_hf_config(_read_json(candidate), name, str(candidate))
    entry = _resolve(name)
    if entry is not None:
        return from_hf_config(entry, name)
    known = {**_catalogue(), **dict.fromkeys(_in_directories(dirs))}
    searched = f" nor found in {', '.join(str(folder) for folder in dirs)}" if dirs else ""
    raise ModelError(
        f"model {name!r} is not in the catalogue{searched}{nearest(name, known)}; "
        f"expected the path of a Hugging Face config.json or one of {one_of(known, 30)}"
    )


def catalogued_models() -> tuple[str, ...]:
    """Names of the built-in models, aliases included."""
    return tuple(_catalogue())


def _candidates(name: str, dirs: Sequence[Path]) -> list[Path]:
    found = [path for folder in dirs for path in (folder / f"{name}.json", folder / name / "config.json")]
    return [*found, Path(name), Path(name) / "config.json"]


def _in_directories(dirs: Sequence[Path]) -> list[str]:
    return [path.relative_to(folder).with_suffix("").as_posix() for folder in dirs for path in folder.glob("*/*.json")]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: expected a JSON text in UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


@cache
def _catalogue() -> Mapping[str, Mapping[str, Any]]:
    text = files(__package__).joinpath("models.toml").read_text(encoding="utf-8")
    return MappingProxyType(tomllib.loads(text))


def _resolve(name: str) -> Mapping[str, Any] | None:
    """The entry called ``name``, aliases followed; the organisation may be left out."""
    catalogue = _catalogue()
    by_short_name = {key.rpartition("/")[2]: key for key in catalogue}
    entry = catalogue.get(name, catalogue.get(by_short_name.get(name, "")))
    if entry is not None and "alias_of" in entry:
        return {**catalogue[entry["alias_of"]], **{key: value for key, value in entry.items() if key != "alias_of"}}
    return entry
