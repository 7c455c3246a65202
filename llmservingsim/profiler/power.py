"""Mean power of a GPU through NVML, where the package ``pynvml`` and a device are there."""

from __future__ import annotations

import threading
from importlib import import_module
from types import TracebackType
from typing import Any

_PERIOD_S = 0.05


class PowerMeter:
    """Samples the board power in a thread while a block runs.

    Args:
        device: Power is read of ``cuda`` only.
    """

    def __init__(self, device: str) -> None:
        found: tuple[Any, Any] = _handle() if device == "cuda" else (None, None)
        self._handle, self._nvml = found
        self._samples: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_there(self) -> bool:
        """Whether power can be read."""
        return self._handle is not None

    @property
    def mean_w(self) -> float | None:
        """Mean of the last block, None where nothing was read."""
        return sum(self._samples) / len(self._samples) if self._samples else None

    def read_w(self) -> float | None:
        """Power now."""
        return None if self._handle is None else float(self._nvml.nvmlDeviceGetPowerUsage(self._handle)) / 1000

    def __enter__(self) -> PowerMeter:
        self._samples = []
        if self.is_there:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            if (power_w := self.read_w()) is not None:
                self._samples.append(power_w)


def _handle() -> tuple[Any, Any]:
    try:
        pynvml = import_module("pynvml")

        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByIndex(0), pynvml
    except Exception:  # no package, no driver or no permission: power is simply not told
        return None, None
