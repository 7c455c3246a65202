"""Where a run may look things up beside the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from llmservingsim.config.catalog import AcceleratorSpec


@dataclass(frozen=True, slots=True)
class Libraries:
    """Where a run may look things up beside the catalogue.

    Attributes:
        profiles: Directories of profile bundles.
        models: Directories of model files.
        accelerators: A user's own accelerators.
        base: Where relative paths of the run file start.
    """

    profiles: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    accelerators: Mapping[str, AcceleratorSpec] = field(default_factory=lambda: MappingProxyType({}))
    base: Path = Path()
