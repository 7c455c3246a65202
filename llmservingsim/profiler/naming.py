"""The name of a model that is given as a path: folders of bundles are called after it, and run files name it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmservingsim.errors import ProfileError


def named_model(text: str, directories: Sequence[Path]) -> tuple[str, list[Path]]:
    """Return the name of a model, and the directories in which it is found.

    Args:
        text: A name; or a path ``DIR/<org>/<model>.json``, ``DIR/<org>/<model>`` or ``.../<model>/config.json``.
        directories: Of model files.

    Raises:
        ProfileError: A path has no folder for the organisation.
    """
    path = Path(text)
    known = [*directories]
    if any((folder / f"{text}.json").is_file() or (folder / text / "config.json").is_file() for folder in known):
        return text, known
    if path.is_dir() and (path / "config.json").is_file():
        path = path / "config.json"
    if not path.is_file():
        return text, known
    place = path.parent if path.name == "config.json" else path.with_suffix("")
    *_, organisation, name = ("", "", *place.parts)
    if not organisation.strip("/.") or not name:
        raise ProfileError(
            f"{text}: expected a path that ends with <org>/<model>.json, which is what bundles are called by"
        )
    return f"{organisation}/{name}", [*known, place.parents[1]]
