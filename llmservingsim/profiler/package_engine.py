"""An engine whose layers are those of an installed serving package, on a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from llmservingsim.errors import ProfileError
from llmservingsim.profiler.engine import EngineOptions
from llmservingsim.profiler.package_layers import use_package_layers
from llmservingsim.profiler.torch_engine import TorchEngine


class PackageEngine(TorchEngine):
    """The torch engine with a package's layers in place of its own.

    Args:
        options: What to compute, and where.

    Attributes:
        package: Name of the package, and of the engine.
        layers: ``module:attribute`` of each of its layers.

    Raises:
        ProfileError: The package is not installed, or the device is none that it runs on.
    """

    package: ClassVar[str]
    layers: ClassVar[Mapping[str, str]]

    def __init__(self, options: EngineOptions) -> None:
        name = self.package
        try:
            self._package = import_module(name)
        except ImportError as error:
            raise ProfileError(
                f"--engine {name}: the package {name} is not installed here ({error}); "
                "install it, or take --engine torch"
            ) from error
        if options.device != "cuda":
            raise ProfileError(f"--engine {name}: runs on --device cuda, got {options.device}")
        super().__init__(options)
        self._taken = use_package_layers(self._layers, self.layers, options)

    def describe(self) -> Mapping[str, Any]:
        """Return versions, device, and which layers are the package's."""
        return {**super().describe(), self.package: str(self._package.__version__), "package_layers": self._taken}
