"""Where a profile bundle lies: the layout of LLMServingSim 2.0, or the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from llmservingsim.config.catalog import ModelSpec, find_model
from llmservingsim.errors import ProfileError, nearest, one_of

VARIANTS: Mapping[str, str] = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "fp8": "fp8"}
"""Of a model's dtype -> folder of its bundles."""


class _Descent(NamedTuple):
    """How far a path could be followed: to ``folder``, or to the level at which ``problem`` says what is missing."""

    depth: int
    problem: str
    folder: Path | None = None


def find_bundle(profiles: Sequence[Path], hardware: str, model: str, variant: str, tp: int) -> Path:
    """Return the ``tp<N>`` folder of a bundle, looking through the profile directories in order.

    An older bundle (``<hardware>/<model>/tp<N>/layers.csv``, no variant) is taken where no newer one exists.

    Raises:
        ProfileError: If there is none, naming the first level that is missing and what stands there instead.
    """
    closest = _Descent(-1, f"no profile directory was given (looked for {hardware}/{model})")
    start = (hardware, *model.split("/"))
    newer = [_descend(root, (*start, variant, f"tp{tp}")) for root in profiles]
    older = [_descend(root, (*start, f"tp{tp}")) for root in profiles if _holds_older(root.joinpath(*start))]
    for found in (*newer, *older):
        if found.folder is not None:
            return found.folder
        if found.depth >= closest.depth:
            closest = found
    raise ProfileError(
        f"no profile of {model} on {hardware} ({variant}, tp {tp}): {closest.problem}. "
        "Give --profiles DIR, or set latency.source to 'roofline'"
    )


def bundle_name(model: ModelSpec, tp: int) -> Path:
    """Return where a model's bundle lies below the folder of its hardware."""
    return Path(model.name) / variant_of(model) / f"tp{tp}"


def variant_of(model: ModelSpec, kv_cache_dtype: str = "auto") -> str:
    """Return the folder of a model's bundles: format of its weights, and of cached keys and values if it is another."""
    weights = model.format_of_experts or model.linear_format or VARIANTS[model.dtype]
    kept = VARIANTS.get(kv_cache_dtype, kv_cache_dtype)
    return weights if kv_cache_dtype in ("auto", model.dtype) else f"{weights}-kv_{kept}"


SHIPPED = Path(__file__).parents[1] / "profiles"
"""The bundles that come with the simulator."""


def shipped_model(hardware: str, model: ModelSpec, variant: str, tp: int) -> str | None:
    """Return the model whose bundle comes with the simulator and is as good for ``model``, if there is one.

    A model that was trained on from another has its operators.
    """
    root = SHIPPED / hardware
    there = [path.parents[1] for path in root.glob(f"*/*/{variant}/tp{tp}")] if root.is_dir() else []
    names = sorted(path.relative_to(root).as_posix() for path in there)
    if model.name in names:
        return model.name
    return next((name for name in names if _shape(find_model(name)) == _shape(model)), None)


def _shape(model: ModelSpec) -> ModelSpec:
    """A model without what changes no operator, and without what the variant says."""
    return msgspec.structs.replace(model, name="", max_position_embeddings=1, linear_format="", expert_format=None)


def is_older(folder: Path) -> bool:
    """Whether a ``tp<N>`` folder has the older layout."""
    return (folder / "layers.csv").is_file()


def _descend(root: Path, levels: Sequence[str]) -> _Descent:
    folder = root
    for depth, level in enumerate(levels):
        if not (folder / level).is_dir():
            present = [p.name for p in folder.iterdir() if p.is_dir()] if folder.is_dir() else []
            has = f"it has {one_of(present)}" if present else "it holds no profiles"
            return _Descent(depth, f"{folder} has no {level!r}{nearest(level, present)}; {has}")
        folder /= level
    return _Descent(len(levels), "", folder)


def _holds_older(folder: Path) -> bool:
    """Whether a model's folder holds ``tp<N>`` folders itself."""
    return folder.is_dir() and any(path.is_dir() for path in folder.glob("tp[0-9]*"))
