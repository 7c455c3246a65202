"""What a run shows while it runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmservingsim.units import NS_PER_S, format_time

if TYPE_CHECKING:
    from llmservingsim.api import Run

_REFRESH_S = 0.1


class SimulatedTime:
    """A line with the simulated time, redrawn whenever it is told.

    Args:
        enabled: Draw nothing otherwise.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._status: Any = None
        self._started_s = time.perf_counter()
        if enabled:
            from rich.console import Console
            from rich.status import Status

            self._status = Status("0 ns simulated", console=Console(stderr=True))

    def __enter__(self) -> SimulatedTime:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def update(self, now_ns: int) -> None:
        """Redraw."""
        if self._status is not None:
            speed = now_ns / NS_PER_S / max(time.perf_counter() - self._started_s, 1e-9)
            self._status.update(f"{format_time(now_ns)} simulated, {speed:.3g}x real time")


class LiveProgress:
    """A line that is redrawn ten times a second on a terminal.

    Args:
        enabled: Draw nothing otherwise.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._progress: Any = None
        self._task: Any = None
        self._started_s = self._next_s = time.perf_counter()

    def __enter__(self) -> LiveProgress:
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
                auto_refresh=False,
            )
            self._task = self._progress.add_task("requests", total=None, state="")
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, run: Run) -> None:
        """Redraw if it is time."""
        now_s = time.perf_counter()
        if now_s < self._next_s or self._progress is None:
            return
        self._next_s = now_s + _REFRESH_S
        recorder = run.recorder
        self._progress.update(
            self._task,
            completed=len(recorder.records),
            total=run.workload.total_requests,
            state=self._state(run, now_s),
            refresh=True,
        )

    def _state(self, run: Run, now_s: float) -> str:
        simulated_s = run.system.backend.now_ns / NS_PER_S
        loads = [i.load() for i in run.system.instances]
        running, waiting = sum(load.num_running for load in loads), sum(load.num_waiting for load in loads)
        kv = 100 * sum(load.kv_usage for load in loads) / len(loads)
        rate = run.recorder.output_tokens / simulated_s if simulated_s else 0.0
        speed = simulated_s / max(now_s - self._started_s, 1e-9)
        return (
            f"{format_time(run.system.backend.now_ns)} simulated, {rate:.0f} tok/s, {running} running, "
            f"{waiting} waiting, KV {kv:.0f} %, {speed:.0f}x real time"
        )
